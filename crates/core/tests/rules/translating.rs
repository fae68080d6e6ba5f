//! A translating device over a link that the test works by hand, and a space that stops accesses on
//! their way to its frames.

use std::sync::Arc;
use std::time::Duration;

use sva_core::Extent;
use sva_core::ats::Translation;
use sva_core::ats::{
    InvalidationRequest, RequestId, TranslationAnswer, TranslationCompletion, TranslationRefusal,
};
use sva_core::device::PasidCapability;
use sva_core::event::ObjectCounts;
use sva_core::link::ToDevice;
use sva_core::port::HostFailure;
use sva_core::space::{NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddressSpace, AtsPort, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, DmaError,
    EndReason, Event, Features, Frame, IommuConfig, Pasid, PasidWidth, Plug, SpaceWatcher,
    StopCause,
};
use sva_sync::Mutex;
use sva_testkit::{Change, Forwarding, ForwardingSpace, MemorySpace};

use crate::manual_link::*;
use crate::support::*;

/// What the IOMMU says in a message to a device about a translation.
pub(crate) fn translation_in(packet: &Packet) -> TranslationCompletion {
    match packet.message {
        Message::Down(ToDevice::Translated(completion)) => completion,
        other => panic!("{other:?} is no translation completion"),
    }
}

/// What the IOMMU asks of a device in a message.
pub(crate) fn request_in(packet: &Packet) -> InvalidationRequest {
    match packet.message {
        Message::Down(ToDevice::Invalidate(request)) => request,
        other => panic!("{other:?} is no invalidation"),
    }
}

/// For how long a completion is awaited, each of [`TRIES`] times.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
pub(crate) const TRIES: u8 = 3;

/// ATS, page requests, and a PASID capability with everything.
pub(crate) fn translating() -> Capabilities {
    Capabilities {
        pasid: Some(PasidCapability { width: PasidWidth::MAX, execute: true, privileged: true }),
        ..Capabilities::translating(PasidWidth::MAX, 8)
    }
}

pub(crate) fn config() -> IommuConfig {
    IommuConfig::default().invalidation_limit(ANSWER).invalidation_tries(TRIES)
}

/// One device with ATS on, bound to one space, over a link that hands everything over unless the
/// test holds it.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) clock: Arc<ScriptedClock>,
    pub(crate) link: Arc<ManualLink>,
    pub(crate) device: Device,
    pub(crate) port: AtsPort,
    pub(crate) space: MemorySpace,
    pub(crate) gated: Arc<Forwarding<GatedSpace>>,
    pub(crate) pasid: Pasid,
    pub(crate) bond: Option<Bond<()>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: IommuConfig) -> Self {
        let clock = ScriptedClock::new();
        let world = World::with_clock(config, clock.clone());
        let link = ManualLink::new(no_message);
        let device = world.plug_translating(1, &link);
        let space = space();
        // Unless a test is about large ones.
        space.largest_translation(12);
        let gated = GatedSpace::new(&space);
        let bond =
            world.iommu.bind_device(&device, &gated, Bind::new(())).expect("nothing is in the way");
        let (pasid, port) = (bond.pasid(), device.ats_port());
        Self { world, clock, link, device, port, space, gated, pasid, bond: Some(bond) }
    }

    /// Another space, bound to the same device.
    pub(crate) fn bind_another(&self) -> (MemorySpace, Bond<()>) {
        let space = space();
        let bond = self.world.bind(&self.device, &space);
        (space, bond)
    }

    /// Has the device cache the translation of `address`, for any access that the page permits.
    pub(crate) fn fill(&self, address: u64) {
        assert_eq!(self.request(address), TranslationAnswer::Cached);
    }

    /// Sends a translation request for reading and answers what came of it.
    pub(crate) fn request(&self, address: u64) -> TranslationAnswer {
        let request = self.send(address);
        self.port.translation(request).expect("nothing holds the answer")
    }

    /// Sends a translation request for reading.
    pub(crate) fn send(&self, address: u64) -> RequestId {
        self.port.request_translation(Some(self.pasid), address, Access::READ).expect("ATS is on")
    }

    /// Sends a translation request and answers what the IOMMU says to it, which does not arrive.
    pub(crate) fn look(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<Translation, TranslationRefusal> {
        self.link.hold(translation_completions);
        let request = self.port.request_translation(pasid, address, access).expect("ATS is on");
        let completion = translation_in(&self.link.take(translation_completions));
        assert_eq!(completion.id, request);
        self.port.abandon_translation(request);
        self.link.hold(no_message);
        completion.result
    }

    /// The frame that an address leads to.
    pub(crate) fn frame(&self, address: u64) -> Frame {
        self.look(Some(self.pasid), address, Access::READ)
            .expect("looked at")
            .frame
            .expect("a space that is synchronous")
    }

    /// Writes by a translation that the device caches; false where it has none.
    pub(crate) fn write_cached(&self, address: u64, data: &[u8]) -> Result<bool, DmaError> {
        self.port
            .try_write(Some(self.pasid), address, data, Access::WRITE)
            .map(|done| done.is_some())
    }

    /// A write by a cached translation that stays inside the space's memory until it is let go.
    pub(crate) fn park(&self, address: u64) -> ParkedWrite {
        let (inside, go) = (Signal::new(), Signal::new());
        let (entered, leave) = (inside.clone(), go.clone());
        self.gated.at_next_frame(move || {
            entered.raise();
            leave.wait();
        });
        let (port, pasid) = (self.port.clone(), self.pasid);
        let thread = std::thread::spawn(move || {
            port.try_write(Some(pasid), address, b"parked", Access::WRITE)
        });
        inside.wait();
        ParkedWrite { go, thread: Some(thread) }
    }

    /// Begins to unmap a page.
    pub(crate) fn unmap(&self, address: u64) -> Begun {
        Begun(Some(self.space.begin_unmap(address, sva_testkit::PAGE)))
    }

    /// It is later by one limit, and somebody looks.
    pub(crate) fn answer_overdue(&self) {
        self.clock.advance(ANSWER);
        self.world.iommu.tick();
    }

    /// Lets every limit of one invalidation pass, and loses what is sent meanwhile.
    pub(crate) fn let_it_be_cut_off(&self) {
        for _ in 0..TRIES {
            self.link.lose_all(invalidation_requests);
            self.answer_overdue();
        }
        assert!(self.device.is_cut_off());
    }

    pub(crate) fn bond(&self) -> &Bond<()> {
        self.bond.as_ref().expect("not unbound yet")
    }

    /// Takes the bond, to end it.
    pub(crate) fn take_bond(&mut self) -> Bond<()> {
        self.bond.take().expect("not unbound yet")
    }

    /// Unbinds, removes all devices, and looks that nothing is left.
    pub(crate) fn take_down(mut self) {
        self.link.hold(no_message);
        self.link.deliver_all(any_message);
        drop(self.bond.take());
        let _ = self.world.iommu.remove(&self.device, sva_core::Removal::Orderly);
        assert_eq!(self.world.iommu.object_counts(), ObjectCounts::default());
        assert_eq!((self.space.changes_under_way(), self.space.watches()), (0, 0));
    }
}

impl Drop for Rig {
    /// A test that fails must not wait for messages that it holds.
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.bond.take());
        }
    }
}

/// A change of a space that has begun. One that is left behind by a failed test is not waited for.
pub(crate) struct Begun(pub(crate) Option<Change>);

impl Begun {
    pub(crate) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(Change::is_over)
    }

    /// Finishes it, which does not block.
    pub(crate) fn finish(mut self) {
        assert!(self.is_over(), "a device may still use what was changed");
        drop(self.0.take());
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

/// See [`Rig::park`].
pub(crate) struct ParkedWrite {
    go: Arc<Signal>,
    thread: Option<std::thread::JoinHandle<Result<Option<usize>, DmaError>>>,
}

impl ParkedWrite {
    /// Lets it go on and answers what came of it.
    pub(crate) fn release(mut self) -> Result<Option<usize>, DmaError> {
        self.go.raise();
        let thread = self.thread.take().expect("released once");
        thread.join().expect("the device's thread does not panic")
    }
}

impl Drop for ParkedWrite {
    fn drop(&mut self) {
        self.go.raise();
    }
}

impl World {
    pub(crate) fn with_clock(config: IommuConfig, clock: Arc<ScriptedClock>) -> Self {
        let World { bus, .. } = World::new();
        Self { iommu: sva_core::Iommu::with_clock(bus.clone(), config, clock), bus }
    }

    /// A device with ATS on, over `link`.
    pub(crate) fn plug_translating(&self, number: u8, link: &Arc<ManualLink>) -> Device {
        let device = self.plug_over(number, translating(), link);
        device.enable_ats().expect("it has ATS");
        device
    }

    pub(crate) fn plug_over(
        &self,
        number: u8,
        capabilities: Capabilities,
        link: &Arc<ManualLink>,
    ) -> Device {
        let plug = Plug::new(DeviceSpec { bdf: bdf(number), capabilities }).link(link.clone());
        self.iommu.plug(plug).expect("the address is free").device
    }

    /// How often this device was cut off, by the log.
    pub(crate) fn cut_offs(&self, device: Bdf) -> usize {
        self.events()
            .iter()
            .filter(|event| matches!(event, Event::CutOff { device: cut } if *cut == device))
            .count()
    }
}

/// All that a bond can grant.
pub(crate) const ALL_FEATURES: Features =
    Features { execute: true, privileged: true, page_faults: true };

type Hook = Box<dyn FnOnce() + Send>;

/// Passes everything on to a space, and runs a hook of the test's before the next access to a
/// frame, or instead of the next translation.
pub(crate) struct GatedSpace {
    inner: Arc<dyn AddressSpace>,
    hook: Later<Hook>,
    failure: Later<HostFailure>,
    watchers: Noted<Arc<dyn SpaceWatcher>>,
    frame_accesses: Mutex<usize>,
}

impl GatedSpace {
    pub(crate) fn new(space: &MemorySpace) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self {
            inner: space.handle(),
            hook: later(),
            failure: later(),
            watchers: Noted::default(),
            frame_accesses: Mutex::new(0),
        }))
    }

    /// Runs `hook` once, inside the next access by frame.
    pub(crate) fn at_next_frame(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// Has the next translation fail.
    pub(crate) fn fail_translation(&self, failure: HostFailure) {
        *self.failure.lock() = Some(failure);
    }

    /// Says that the space has ended, which it has not.
    pub(crate) fn announce(&self, reason: EndReason) {
        let watchers = std::mem::take(&mut *self.watchers.lock());
        watchers.into_iter().for_each(|watcher| watcher.space_ended(self.id(), reason).run());
    }

    /// How many accesses came by frame.
    pub(crate) fn frame_accesses(&self) -> usize {
        *self.frame_accesses.lock()
    }

    fn take_failure(&self) -> Result<(), StopCause> {
        self.failure.lock().take().map_or(Ok(()), |failure| Err(StopCause::Host(failure)))
    }

    fn frame_accessed(&self) {
        *self.frame_accesses.lock() += 1;
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl ForwardingSpace for GatedSpace {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.watchers.lock().push(watcher.clone());
        self.inner.watch(watcher)
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        self.take_failure()?;
        self.inner.translate(address, privileged)
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.take_failure()?;
        self.inner.extent(address, privileged)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.frame_accessed();
        self.inner.read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.frame_accessed();
        self.inner.write_frame(frame, data)
    }
}
