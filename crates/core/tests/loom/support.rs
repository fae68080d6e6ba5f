//! What the models share: how far a model is explored, a bus with few states, links and a clock
//! that do as they are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use loom::model::Builder;
use sva_core::Topology;
use sva_core::ats::PAGE;
use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_core::pri::{PageRequestGroup, PageRequestHandler};
use sva_core::topology::{
    ChangeCounter, GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, RequesterId,
    SharedBecause,
};
use sva_core::*;
use sva_sync::Mutex;

pub(crate) use crate::probe::{PAGE_AT, Probe};

/// What a model counts with. Not part of what is modelled, so that it adds no states; what two
/// threads could see in two orders stands behind a lock of the model instead, as what a [`Probe`]
/// knows does.
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "not part of the model")]
pub(crate) struct Count(std::sync::atomic::AtomicUsize);

impl Count {
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    pub(crate) fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Tries every schedule of a model, or all with fewer forced switches than `LOOM_MAX_PREEMPTIONS`
/// where that is set.
pub(crate) fn model(run: impl Fn() + Send + Sync + 'static) {
    explore(Builder::new(), run);
}

/// Tries every schedule in which threads are interrupted at most `switches` times together; a
/// thread that waits or ends gives way for free.
pub(crate) fn bounded(switches: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound =
        Some(builder.preemption_bound.map_or(switches, |set| set.min(switches)));
    explore(builder, run);
}

fn explore(mut builder: Builder, run: impl Fn() + Send + Sync + 'static) {
    // Steps of one schedule. What is done before the threads start counts too.
    builder.max_branches = 4000;
    let schedules = Arc::new(Count::default());
    let counted = Arc::clone(&schedules);
    let begun = std::time::Instant::now();
    builder.check(move || {
        counted.up();
        run();
    });
    println!("{} schedules in {:.1} s", schedules.get(), begun.elapsed().as_secs_f32());
}

/// A bus on which every device stands alone, or all of one slot together.
struct Bus {
    shared: bool,
    /// All functions of a slot have the requester ID of the first.
    aliased: bool,
    changes: ChangeCounter,
}

impl Topology for Bus {
    fn changes(&self) -> &ChangeCounter {
        &self.changes
    }
    fn policy(&self) -> PathPolicy {
        PathPolicy::Strict
    }
    fn requester(&self, device: Bdf) -> RequesterId {
        RequesterId(if self.aliased { device.slot() } else { device })
    }
    fn group(&self, device: Bdf) -> GroupKey {
        GroupKey(if self.shared { device.slot() } else { device })
    }
    fn why_shared(&self, a: Bdf, _: Bdf) -> SharedBecause {
        SharedBecause::Multifunction { slot: a.slot() }
    }
    fn path_defect(&self, _: Bdf) -> Option<PathDefect> {
        None
    }
    fn windows(&self, _: Bdf) -> Vec<PeerWindow> {
        Vec::new()
    }
    fn read_peer(
        &self,
        _: Bdf,
        window: &PeerWindow,
        _: u64,
        _: &mut [u8],
        _: Access,
    ) -> Result<(), PeerAborted> {
        Err(PeerAborted(window.decoder))
    }
    fn write_peer(&self, _: Bdf, window: &PeerWindow, _: u64, _: &[u8]) -> Result<(), PeerAborted> {
        Err(PeerAborted(window.decoder))
    }
    fn reserved(&self, _: Bdf) -> Vec<AddrRange> {
        Vec::new()
    }
}

/// Settings with `bits` PASID bits (one bit is one PASID, so that reuse is at once) and next to no
/// room anywhere.
pub(crate) fn tiny(bits: u8) -> IommuConfig {
    let pasid_width = PasidWidth::new(bits).expect("1 to 20");
    IommuConfig::default()
        .pasid_width(pasid_width)
        .event_capacity(4)
        .page_queue(2)
        .atc_entries(1)
        .iotlb_bytes(0)
        .invalidation_tries(1)
}

/// A system without a clock; with `shared`, all functions of one slot are one group.
pub(crate) fn system(shared: bool, bits: u8) -> Iommu {
    Iommu::new(
        Arc::new(Bus { shared, aliased: false, changes: ChangeCounter::default() }),
        tiny(bits),
    )
}

/// A system with one PASID; all functions of one slot have one requester ID, and so are one group.
pub(crate) fn aliased() -> Iommu {
    Iommu::new(
        Arc::new(Bus { shared: true, aliased: true, changes: ChangeCounter::default() }),
        tiny(1),
    )
}

/// As [`system`], with these settings.
pub(crate) fn system_with(config: IommuConfig) -> Iommu {
    Iommu::new(
        Arc::new(Bus { shared: false, aliased: false, changes: ChangeCounter::default() }),
        config,
    )
}

/// A system with one PASID whose time is always the clock's.
pub(crate) fn timed(clock: &Arc<ManualClock>) -> Iommu {
    Iommu::with_clock(
        Arc::new(Bus { shared: false, aliased: false, changes: ChangeCounter::default() }),
        tiny(1),
        Arc::clone(clock) as _,
    )
}

/// A clock that is set by hand, a second at a time. Set only while one thread runs.
#[derive(Default)]
pub(crate) struct ManualClock(pub(crate) Count);

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

pub(crate) fn function(number: u8) -> Bdf {
    Bdf::new(0, 1, 0, number).expect("a function")
}

pub(crate) fn plug(iommu: &Iommu, number: u8) -> Device {
    let spec =
        DeviceSpec { bdf: function(number), capabilities: Capabilities::sva(PasidWidth::MAX) };
    iommu.plug(spec).expect("a free address").device
}

/// Function 0 with ATS and `requests` page requests, both switched on, behind `link`.
pub(crate) fn plug_translating(iommu: &Iommu, requests: u32, link: Arc<dyn Link>) -> Device {
    let spec = DeviceSpec {
        bdf: function(0),
        capabilities: Capabilities::translating(PasidWidth::MAX, requests),
    };
    let device = iommu.plug(Plug::new(spec).link(link)).expect("a free address").device;
    device.enable_ats().expect("it has ATS");
    device.enable_pri().expect("and page requests");
    device
}

/// A system with one PASID and a device with `requests` page requests, and its port.
pub(crate) fn translating(requests: u32, link: Arc<dyn Link>) -> (Iommu, Device, AtsPort) {
    let iommu = system(false, 1);
    let device = plug_translating(&iommu, requests, link);
    let port = device.ats_port();
    (iommu, device, port)
}

/// A device that is bound to a space and caches the translation of its page.
pub(crate) struct Caching {
    pub(crate) iommu: Iommu,
    pub(crate) device: Device,
    pub(crate) port: AtsPort,
    pub(crate) probe: Arc<Probe>,
    pub(crate) bond: Bond<()>,
}

pub(crate) fn caching(link: Arc<dyn Link>) -> Caching {
    let (iommu, device, port) = translating(1, link);
    let probe = Probe::new();
    let bond = bind(&iommu, &device, &probe);
    fill(&port, bond.pasid());
    Caching { iommu, device, port, probe, bond }
}

/// What uses a translation that the device caches, from now until it has been run.
pub(crate) fn use_cached(port: &AtsPort, pasid: Pasid) -> impl FnOnce() -> bool + Send + 'static {
    let guard = port.use_translation(Some(pasid), PAGE_AT, Access::READ).expect("it is cached");
    move || guard.read(&mut [0]).is_ok()
}

pub(crate) fn bind(iommu: &Iommu, device: &Device, probe: &Arc<Probe>) -> Bond<()> {
    iommu.bind_device(device, probe, Bind::new(())).expect("nothing is in the way")
}

/// Has the device request the translation of the page, and cache it where it may.
pub(crate) fn fill(port: &AtsPort, pasid: Pasid) {
    if let Ok(request) = port.request_translation(Some(pasid), PAGE_AT, Access::READ) {
        let _ = port.translation(request);
    }
}

/// Reads the page by a cached translation; true where there was one and the read reached the
/// space.
pub(crate) fn read_cached(port: &AtsPort, pasid: Pasid) -> bool {
    matches!(port.try_read(Some(pasid), PAGE_AT, &mut [0], Access::READ), Ok(Some(1)))
}

/// Sends page request number `page` of an open group.
pub(crate) fn request_page(
    port: &AtsPort,
    group: sva_core::pri::PrgIndex,
    page: u64,
    last: bool,
) -> bool {
    port.request_page(group, PAGE_AT + page * PAGE, Access::READ, last).is_ok()
}

/// An owner that stores the group that it is given.
pub(crate) fn owner() -> (Arc<Mutex<Option<PageRequestGroup>>>, Arc<dyn PageRequestHandler>) {
    let held = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&held);
    (held, Arc::new(move |group| *slot.lock() = Some(group)))
}

/// What a worker does until there is nothing to do at this moment.
pub(crate) fn work(iommu: &Iommu) {
    while iommu.sort_page_request() {}
    if let Some(work) = iommu.next_page_request_job() {
        work.run();
    }
}

/// A link that holds messages to the device back, as far as they are `wanted`, until they are
/// [delivered](Self::deliver). Messages to the IOMMU pass.
pub(crate) struct DelayingLink {
    wanted: fn(&ToDevice) -> bool,
    held: Mutex<VecDeque<(LinkEnds, ToDevice)>>,
}

impl DelayingLink {
    pub(crate) fn of(wanted: fn(&ToDevice) -> bool) -> Arc<Self> {
        Arc::new(Self { wanted, held: Mutex::default() })
    }

    pub(crate) fn link(self: &Arc<Self>) -> Arc<dyn Link> {
        Arc::clone(self) as _
    }

    /// Delivers the oldest that is held back; false where there is none.
    pub(crate) fn deliver(&self) -> bool {
        let held = self.held.lock().pop_front();
        let Some((ends, message)) = held else { return false };
        ends.to_device(message);
        true
    }
}

impl Link for DelayingLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        if (self.wanted)(&message) {
            self.held.lock().push_back((ends.clone(), message));
        } else {
            ends.to_device(message);
        }
    }
}

/// A link on which invalidations get lost.
pub(crate) struct LosesInvalidations;

impl Link for LosesInvalidations {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        if !matches!(message, ToDevice::Invalidate(_)) {
            ends.to_device(message);
        }
    }
}

/// A link on which whoever sends a page request does the worker's part as well.
#[derive(Default)]
pub(crate) struct SelfService(pub(crate) Mutex<Option<Iommu>>);

impl Link for SelfService {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
        let iommu = self.0.lock().clone();
        let Some(iommu) = iommu.filter(|_| matches!(message, ToIommu::Page(_))) else { return };
        while iommu.sort_page_request() {}
        // Again after each: whoever came while the line was busy has found nothing to do.
        while let Some(work) = iommu.next_page_request_job() {
            work.run();
        }
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        ends.to_device(message);
    }
}

/// Nothing is left but `devices` devices.
pub(crate) fn assert_clean(iommu: &Iommu, devices: usize) {
    let counts = iommu.object_counts();
    assert_eq!((counts.devices, counts.bonds, counts.spaces, counts.pasids), (devices, 0, 0, 0));
    assert_idle(iommu);
}

/// Nothing is queued, requested, waited for or used.
pub(crate) fn assert_idle(iommu: &Iommu) {
    let counts = iommu.object_counts();
    assert_eq!(
        (counts.page_requests, counts.page_groups, counts.invalidations, counts.device_work),
        (0, 0, 0, 0)
    );
}
