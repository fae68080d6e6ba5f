//! What the tests of the rules have in common: a small system, spaces with known contents, an
//! access that is held in flight, and a watchdog.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use sva_core::device::PasidCapability;
use sva_core::event::ObjectCounts;
use sva_core::topology::SharedBecause;
use sva_core::{
    Access, Bdf, Bind, Bond, Capabilities, Container, Device, DeviceOps, DeviceSpec, DmaError,
    DmaPort, Event, Fault, FaultReason, GroupId, Iommu, IommuConfig, MapRequest, Pasid, PasidTag,
    PasidWidth, Plug, Plugged,
};
use sva_sync::{Condvar, Mutex};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

/// Where the memory of every test space begins.
pub(crate) const BASE: u64 = 0x7000_0000_0000;
/// How many pages it has.
pub(crate) const PAGES: u64 = 16;
/// An address in it whose page [`Parked`] makes absent.
pub(crate) const PARK: u64 = BASE + 15 * PAGE;

/// Nothing in these tests takes longer unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn bdf(device: u8) -> Bdf {
    Bdf::new(0, 1, device, 0).expect("a device number below 32")
}

pub(crate) fn width(bits: u8) -> PasidWidth {
    PasidWidth::new(bits).expect("1..=20")
}

pub(crate) fn plain() -> Capabilities {
    Capabilities::default()
}

pub(crate) fn capable(bits: u8) -> Capabilities {
    Capabilities::sva(width(bits))
}

pub(crate) fn everything() -> Capabilities {
    Capabilities {
        pasid: Some(PasidCapability { width: PasidWidth::MAX, execute: true, privileged: true }),
        ..capable(20)
    }
}

/// An IOMMU over a scripted bus.
pub(crate) struct World {
    pub(crate) bus: Arc<FlatTopology>,
    pub(crate) iommu: Iommu,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(IommuConfig::default())
    }

    pub(crate) fn with(config: IommuConfig) -> Self {
        end_a_run_that_hangs();
        let bus = Arc::new(FlatTopology::new());
        Self { iommu: Iommu::new(bus.clone(), config), bus }
    }

    /// Numbers 1..=members share a group, for want of ACS at port 30.
    pub(crate) fn grouped(members: u8) -> Self {
        let world = Self::new();
        world.share(&(1..=members).collect::<Vec<_>>());
        world
    }

    pub(crate) fn share(&self, members: &[u8]) {
        let members: Vec<Bdf> = members.iter().copied().map(bdf).collect();
        self.bus.share(&members, SharedBecause::NoAcs { port: bdf(30) });
    }

    pub(crate) fn plug(&self, number: u8) -> Device {
        self.plug_as(number, everything()).device
    }

    pub(crate) fn plug_as(&self, number: u8, capabilities: Capabilities) -> Plugged {
        self.iommu.plug(DeviceSpec { bdf: bdf(number), capabilities }).expect("the address is free")
    }

    pub(crate) fn plug_model(&self, number: u8, model: Arc<dyn DeviceOps>) -> Device {
        let spec = DeviceSpec { bdf: bdf(number), capabilities: everything() };
        self.iommu.plug(Plug::new(spec).model(model)).expect("the address is free").device
    }

    pub(crate) fn bind(&self, device: &Device, space: &MemorySpace) -> Bond<()> {
        self.iommu
            .bind_device(device, &space.handle(), Bind::new(()))
            .expect("nothing is in the way")
    }

    /// A container with these groups.
    pub(crate) fn container(&self, groups: &[GroupId]) -> Container {
        let container = self.iommu.create_container();
        for group in groups {
            container.add(*group).expect("the group is free");
        }
        container
    }

    /// What the log holds. Nothing was lost.
    pub(crate) fn events(&self) -> Vec<Event> {
        let drained = self.iommu.drain_events();
        assert_eq!(drained.lost, 0, "the log was too small for the test");
        drained.events
    }

    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(self.iommu.object_counts(), ObjectCounts::default());
    }
}

/// A space of [`PAGES`] pages at [`BASE`], all zero.
pub(crate) fn space() -> MemorySpace {
    let space = MemorySpace::new();
    space.map(BASE, PAGES * PAGE, Protection::READ_WRITE);
    space
}

pub(crate) fn mapping(iova: u64, pages: u64, space: &MemorySpace, address: u64) -> MapRequest {
    MapRequest {
        iova,
        len: pages * PAGE,
        space: space.handle(),
        address,
        permissions: sva_core::Permissions::READ_WRITE,
    }
}

/// Why a transaction was aborted.
pub(crate) fn reason(outcome: Result<(), DmaError>) -> Option<FaultReason> {
    outcome
        .err()
        .map(|error| error.fault().unwrap_or_else(|| panic!("no fault but {error}")).reason)
}

/// How far a transaction got, and the fault.
pub(crate) fn stop(outcome: Result<(), DmaError>) -> (u64, Fault) {
    let error = outcome.expect_err("the transaction is aborted");
    (error.done, error.fault().unwrap_or_else(|| panic!("no fault but {error}")))
}

/// Why `port` cannot reach the space behind `pasid`; `None` where it can.
pub(crate) fn refused(port: &DmaPort, pasid: Pasid) -> Option<FaultReason> {
    let read = reason(port.read(Some(pasid), BASE, &mut [0; 8]));
    let write = reason(port.write(Some(pasid), BASE + 8, &[1; 8]));
    assert_eq!(read, write, "reading and writing are cut off together");
    read
}

pub(crate) fn not_bound(device: &Device, pasid: Pasid, address: u64, access: Access) -> Event {
    Event::Fault(Fault {
        device: device.bdf(),
        pasid: Some(pasid),
        address,
        access,
        reason: FaultReason::NotBound,
    })
}

/// Something that happens once and that others wait for.
#[derive(Default)]
pub(crate) struct Signal {
    on: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn raise(&self) {
        *self.on.lock() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.on.lock()
    }

    /// Waits for it, or panics after [`LIMIT`].
    pub(crate) fn wait(&self) {
        let mut on = self.on.lock();
        while !*on {
            let (guard, late) = self.changed.wait_timeout(on, LIMIT);
            on = guard;
            assert!(*on || !late, "what was waited for did not happen");
        }
    }
}

/// A read that is inside the space and stays there until it is let go: an access in flight.
pub(crate) struct Parked {
    go: Arc<Signal>,
    thread: Option<JoinHandle<Result<(), DmaError>>>,
}

impl Parked {
    /// Holds a read by PASID.
    pub(crate) fn by_pasid(space: &MemorySpace, port: &DmaPort, pasid: Pasid) -> Self {
        Self::at(space, port, Some(pasid), PARK)
    }

    /// Holds a read at `address`, which means [`PARK`] in `space`.
    pub(crate) fn at(
        space: &MemorySpace,
        port: &DmaPort,
        pasid: Option<Pasid>,
        address: u64,
    ) -> Self {
        let (inside, go) = (Signal::new(), Signal::new());
        space.absent(PARK, PAGE);
        let (entered, leave) = (inside.clone(), go.clone());
        space.on_resolve(move |_| {
            entered.raise();
            leave.wait();
            true
        });
        let port = port.clone();
        let thread = std::thread::spawn(move || port.read(pasid, address, &mut [0; 8]));
        inside.wait();
        Self { go, thread: Some(thread) }
    }

    /// Lets it go on and answers what came of it.
    pub(crate) fn release(mut self) -> Result<(), DmaError> {
        self.go.raise();
        let thread = self.thread.take().expect("released once");
        thread.join().expect("the device's thread does not panic")
    }
}

impl Drop for Parked {
    /// A test that fails must not leave others waiting.
    fn drop(&mut self) {
        self.go.raise();
    }
}

/// Runs the test on a thread of its own and panics where it takes longer than [`LIMIT`]: a hang is
/// a failure with a name.
pub(crate) fn watched<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = test();
        let _ = done.send(());
        result
    });
    match wait.recv_timeout(LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// Ends the whole run after ten times [`LIMIT`], for the tests that expect no wait at all and are
/// not [`watched`]. The test runner has named those that hang by then.
fn end_a_run_that_hangs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(10 * LIMIT);
            eprintln!("a test hangs: the run has taken longer than {:?}", 10 * LIMIT);
            std::process::exit(101);
        });
    });
}

/// Waits until `done` holds, or panics after [`LIMIT`].
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::yield_now();
    }
}

/// A device model that notes which PASIDs it was told to stop.
#[derive(Default)]
pub(crate) struct Model {
    stopped: Mutex<Vec<PasidTag>>,
}

impl Model {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn stopped(&self) -> Vec<PasidTag> {
        self.stopped.lock().clone()
    }
}

impl DeviceOps for Model {
    fn stop_pasid(&self, tag: PasidTag) {
        self.stopped.lock().push(tag);
    }
}

/// A model that does what the test says when it is told to stop.
pub(crate) struct OnStop<F>(pub(crate) F);

impl<F: Fn(PasidTag) + Send + Sync> DeviceOps for OnStop<F> {
    fn stop_pasid(&self, tag: PasidTag) {
        (self.0)(tag);
    }
}

/// What callbacks of a test noted.
pub(crate) type Noted<T> = Arc<Mutex<Vec<T>>>;

/// A slot that a test fills after the callback that empties it was made.
pub(crate) type Later<T> = Arc<Mutex<Option<T>>>;

pub(crate) fn later<T>() -> Later<T> {
    Arc::new(Mutex::new(None))
}

/// Everything outside that a failed bind must leave as it was (rule B3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Before {
    counts: ObjectCounts,
    watches: usize,
    pasid: Option<PasidTag>,
    owners: Vec<Option<PasidTag>>,
}

impl Before {
    /// Looks at the system, one space, and what every device's table has for the first PASIDs.
    pub(crate) fn of(iommu: &Iommu, space: &MemorySpace, devices: &[&Device]) -> Self {
        let first = |device: &Device| {
            let port = device.port();
            (1..=32).map(move |n| port.owner_of(Pasid::new(n).expect("small"))).collect::<Vec<_>>()
        };
        Self {
            counts: iommu.object_counts(),
            watches: space.watches(),
            pasid: iommu.pasid_of(space.handle().id()),
            owners: devices.iter().flat_map(|device| first(device)).collect(),
        }
    }
}

impl World {
    /// Binds and forgets the bond: for tests that never unbind. A leaked bond is sound (rule U3).
    pub(crate) fn bind_forever(&self, device: &Device, space: &MemorySpace) -> Pasid {
        let bond = self.bind(device, space);
        let pasid = bond.pasid();
        std::mem::forget(bond);
        pasid
    }
}

pub(crate) fn id_of(space: &sva_testkit::MemorySpace) -> sva_core::SpaceId {
    space.handle().id()
}
