//! Models of the core's races, over the production types through the shim.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p sva-core --test loom --release`. Every schedule of each model is tried, without a bound on switches (`LOOM_MAX_PREEMPTIONS` sets
//! one); loom also reports any deadlock.
#![cfg(loom)]

use std::sync::Arc;

use loom::model;
use loom::thread;
use sva_core::sync::Mutex;
use sva_core::*;

/// What a model counts with. Not part of what is modelled, so that it adds no states.
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "not part of the model")]
struct Count(std::sync::atomic::AtomicUsize);

impl Count {
    fn up(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn down(&self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// A space with few states: counts who is inside, and ends when told.
struct Probe {
    id: SpaceId,
    life: Mutex<(Option<EndReason>, Option<Arc<dyn SpaceWatcher>>)>,
    inside: Count,
    hits: Count,
}

impl Probe {
    fn new() -> Arc<Self> {
        Arc::new(Self { id: SpaceId::unique(), life: Mutex::new((None, None)), inside: Count::default(), hits: Count::default() })
    }

    fn space(self: &Arc<Self>) -> Arc<dyn AddressSpace> {
        Arc::clone(self) as _
    }

    fn end(&self) {
        let watcher = {
            let mut life = self.life.lock();
            life.0 = Some(EndReason::Exited);
            life.1.take()
        };
        if let Some(watcher) = watcher {
            watcher.space_ended(self.id, EndReason::Exited).run();
        }
    }

    fn access(&self) -> Result<(), Stopped> {
        self.inside.up();
        thread::yield_now();
        self.hits.up();
        self.inside.down();
        Ok(())
    }
}

impl AddressSpace for Probe {
    fn id(&self) -> SpaceId {
        self.id
    }
    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities { page_faults: true, ..SpaceCapabilities::default() }
    }
    fn ended(&self) -> Option<EndReason> {
        self.life.lock().0
    }
    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut life = self.life.lock();
        if let Some(reason) = life.0 {
            return Err(SpaceEnded(reason));
        }
        life.1 = Some(watcher);
        Ok(WatchToken(0))
    }
    fn unwatch(&self, _: WatchToken) {
        let watcher = self.life.lock().1.take();
        drop(watcher);
    }
    fn read(&self, _: &[Segment], _: &mut [u8], _: AccessMode) -> Result<(), Stopped> {
        self.access()
    }
    fn write(&self, _: &[Segment], _: &[u8], _: AccessMode) -> Result<(), Stopped> {
        self.access()
    }
    fn translate(&self, address: u64, _: bool) -> Result<Translation, StopCause> {
        Ok(Translation::none(address))
    }
    fn resolve(&self, _: u64, _: AccessMode) -> Result<(), StopCause> {
        Ok(())
    }
    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}

/// A bus on which every device stands alone, or all of one slot together.
struct Bus {
    shared: bool,
}

impl Topology for Bus {
    fn policy(&self) -> PathPolicy {
        PathPolicy::Strict
    }
    fn requester(&self, device: Bdf) -> RequesterId {
        RequesterId(device)
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
    fn read_peer(&self, _: Bdf, window: &PeerWindow, _: u64, _: &mut [u8], _: Access) -> Result<(), PeerAborted> {
        Err(PeerAborted(window.decoder))
    }
    fn write_peer(&self, _: Bdf, window: &PeerWindow, _: u64, _: &[u8]) -> Result<(), PeerAborted> {
        Err(PeerAborted(window.decoder))
    }
    fn reserved(&self, _: Bdf) -> Vec<AddrRange> {
        Vec::new()
    }
}

/// A system with few PASIDs (one at 1 bit), so that reuse is at once.
fn system(shared: bool, bits: u8) -> Iommu {
    let pasid_width = PasidWidth::new(bits).expect("1 to 20");
    Iommu::new(Arc::new(Bus { shared }), IommuConfig { pasid_width, event_capacity: 4, ..IommuConfig::default() })
}

fn plug(iommu: &Iommu, function: u8) -> Device {
    let bdf = Bdf::new(0, 1, 0, function).expect("a function");
    iommu.plug(DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) }).expect("a free address").device
}

/// Nothing is left but `devices` devices.
fn assert_clean(iommu: &Iommu, devices: usize) {
    let census = iommu.census();
    assert_eq!((census.devices, census.bonds, census.spaces, census.pasids), (devices, 0, 0, 0));
}

// shows U4, B3
#[test]
fn concurrent_bind_and_exit() {
    model(|| {
        let (iommu, probe, runs) = (system(false, 1), Probe::new(), Arc::new(Count::default()));
        let device = plug(&iommu, 0);
        let ender = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.end()
        });
        let counted = Arc::clone(&runs);
        let bond = iommu.bind_device(&device, &probe.space(), Bind::new(()).on_exit(move |_, ()| counted.up()));
        ender.join().expect("ends");
        match bond {
            // The end was published while the bond lived: its handler has run, once.
            Ok(bond) => {
                assert_eq!(runs.get(), 1);
                assert!(device.port().read(Some(bond.pasid()), 0, &mut [0]).is_err());
                assert!(bond.unbind().handler_ran);
                assert_eq!(runs.get(), 1);
            }
            Err(error) => {
                assert!(matches!(error, BindError::Space(SpaceRefusal::Ended(_))));
                assert_eq!(runs.get(), 0);
            }
        }
        assert_clean(&iommu, 1);
    });
}

// shows U2, U4
#[test]
fn concurrent_unbind_and_exit() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let (runs, running) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let device = plug(&iommu, 0);
        let (counted, inside) = (Arc::clone(&runs), Arc::clone(&running));
        let bind = Bind::new(()).on_exit(move |_, ()| {
            inside.up();
            thread::yield_now();
            counted.up();
            inside.down();
        });
        let bond = iommu.bind_device(&device, &probe.space(), bind).expect("binds");
        let ender = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.end()
        });
        let report = bond.unbind();
        let after = runs.get();
        assert_eq!((running.get(), after), (0, usize::from(report.handler_ran)));
        ender.join().expect("ends");
        assert_eq!(runs.get(), after, "no handler runs after the unbind");
        assert_clean(&iommu, 1);
    });
}

// shows U1, U2
#[test]
fn concurrent_unbind_and_access() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe.space(), Bind::new(())).expect("binds");
        let pasid = bond.pasid();
        let port = device.port();
        let user = thread::spawn(move || port.read(Some(pasid), 0, &mut [0]).is_ok());
        drop(bond);
        assert_eq!(probe.inside.get(), 0);
        let hits = probe.hits.get();
        assert_eq!(user.join().expect("ends"), hits == 1);
        assert_eq!(probe.hits.get(), hits, "no access after the unbind");
        assert_clean(&iommu, 1);
    });
}

// shows U5, U6
#[test]
fn concurrent_pasid_release_and_late_access() {
    model(|| {
        let (iommu, old, new) = (system(false, 1), Probe::new(), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &old.space(), Bind::new(())).expect("binds");
        let tag = bond.tag();
        let port = device.port().for_owner(tag);
        let late = thread::spawn(move || port.read(Some(tag.pasid), 0, &mut [0]).is_ok());
        bond.unbind();
        let next = iommu.bind_device(&device, &new.space(), Bind::new(())).expect("the one PASID is free again");
        assert_eq!(next.pasid(), tag.pasid);
        assert_ne!(next.tag(), tag);
        let reached = late.join().expect("ends");
        assert_eq!(new.hits.get(), 0, "a late access never reaches the next owner");
        assert_eq!(reached, old.hits.get() == 1);
        // Where it did not reach its owner it was dropped and counted.
        assert_eq!(iommu.stale_dropped(), u64::from(!reached));
        drop(next);
        assert_clean(&iommu, 1);
    });
}

// shows U3
#[test]
fn concurrent_handlers_that_unbind_each_other() {
    model(|| {
        let iommu = system(false, 2);
        let device = plug(&iommu, 0);
        let slots: [Arc<Mutex<Option<Bond<()>>>>; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(None)));
        let probes = [Probe::new(), Probe::new()];
        for own in 0..2 {
            let other = Arc::clone(&slots[1 - own]);
            let bind = Bind::new(()).on_exit(move |_, ()| {
                let taken = other.lock().take();
                drop(taken);
            });
            *slots[own].lock() = Some(iommu.bind_device(&device, &probes[own].space(), bind).expect("binds"));
        }
        let ender = thread::spawn({
            let probe = Arc::clone(&probes[0]);
            move || probe.end()
        });
        probes[1].end();
        ender.join().expect("no deadlock");
        for slot in &slots {
            let left = slot.lock().take();
            drop(left);
        }
        assert_clean(&iommu, 1);
    });
}

// shows G5, U2
#[test]
fn concurrent_surprise_removal_and_access() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe.space(), Bind::new(())).expect("binds");
        let (port, pasid) = (device.port(), bond.pasid());
        let user = thread::spawn(move || drop(port.read(Some(pasid), 0, &mut [0])));
        iommu.remove(&device, Removal::Surprise).expect("there");
        assert_eq!(probe.inside.get(), 0);
        let hits = probe.hits.get();
        user.join().expect("ends");
        assert_eq!(probe.hits.get(), hits);
        assert!(bond.unbind().already_ended);
        assert_clean(&iommu, 0);
    });
}

// shows G5, U2
#[test]
fn concurrent_removal_and_unbind() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe.space(), Bind::new(())).expect("binds");
        let remover = thread::spawn({
            let (iommu, device) = (iommu.clone(), device.clone());
            move || iommu.remove(&device, Removal::Orderly).is_ok()
        });
        bond.unbind();
        assert!(remover.join().expect("ends"));
        assert_clean(&iommu, 0);
    });
}

// shows G4, B8
#[test]
fn concurrent_hotplug_and_group_unbind() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let first = plug(&iommu, 0);
        let bond = iommu.bind_group(first.group(), &probe.space(), Bind::new(())).expect("binds");
        let plugger = thread::spawn({
            let iommu = iommu.clone();
            move || plug(&iommu, 1)
        });
        let pasid = bond.pasid();
        bond.unbind();
        let second = plugger.join().expect("plugs");
        for device in [first, second] {
            assert!(device.port().read(Some(pasid), 0, &mut [0]).is_err());
        }
        assert_clean(&iommu, 2);
    });
}

// shows T2, U9
#[test]
fn concurrent_container_leave_and_classic_dma() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let container = iommu.container();
        container.add(device.group()).expect("joins");
        let request = MapRequest { iova: 0, len: 4096, space: probe.space(), address: 0, protection: Protection::READ_WRITE };
        container.map(&request).expect("maps");
        let port = device.port();
        let user = thread::spawn(move || port.read(None, 0, &mut [0]).is_ok());
        container.remove(device.group()).expect("leaves");
        assert_eq!(probe.inside.get(), 0);
        let hits = probe.hits.get();
        assert_eq!(user.join().expect("ends"), hits == 1);
        assert_eq!(probe.hits.get(), hits);
        drop(container);
        assert_clean(&iommu, 1);
    });
}

// shows T2, T3
#[test]
fn concurrent_unmap_and_classic_dma() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let request = MapRequest { iova: 0, len: 4096, space: probe.space(), address: 0, protection: Protection::READ_WRITE };
        iommu.map(device.group(), &request).expect("maps");
        let port = device.port();
        let user = thread::spawn(move || drop(port.read(None, 0, &mut [0])));
        assert_eq!(iommu.unmap(device.group(), 0, 4096), Ok(Unmapped { bytes: 4096, deferred: false }));
        assert_eq!(probe.inside.get(), 0);
        let hits = probe.hits.get();
        user.join().expect("ends");
        assert_eq!(probe.hits.get(), hits);
    });
}

// shows B3, B4
#[test]
fn concurrent_refused_group_bind_and_access() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let bound = plug(&iommu, 1);
        let bond = iommu.bind_device(&bound, &probe.space(), Bind::new(())).expect("alone");
        let first = plug(&iommu, 0);
        let (port, pasid) = (first.port(), bond.pasid());
        let early = thread::spawn(move || port.read(Some(pasid), 0, &mut [0]).is_ok());
        let refused = iommu.bind_group(first.group(), &probe.space(), Bind::new(()));
        assert!(matches!(refused, Err(BindGroupError::Device(Refusal::AlreadyBound { .. }))));
        assert!(!early.join().expect("ends"), "no entry is programmed before all are reserved");
        assert!(bound.port().read(Some(pasid), 0, &mut [0]).is_ok(), "the bond of before lives on");
        drop(bond);
        assert_clean(&iommu, 2);
    });
}

// shows B4, B2
#[test]
fn concurrent_group_bind_and_access() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let devices = [plug(&iommu, 0), plug(&iommu, 1)];
        let ports = [devices[0].port(), devices[1].port()];
        let pasid = Pasid::new(1).expect("the only one");
        let early = thread::spawn(move || {
            // Entries are published in the order of their addresses, when all have been programmed.
            let last = ports[1].read(Some(pasid), 0, &mut [0]).is_ok();
            !last || ports[0].read(Some(pasid), 0, &mut [0]).is_ok()
        });
        let bond = iommu.bind_group(devices[0].group(), &probe.space(), Bind::new(())).expect("binds");
        assert!(early.join().expect("ends"), "an entry was published before all had been programmed");
        assert_eq!(bond.members().len(), 2);
        drop(bond);
        assert_clean(&iommu, 2);
    });
}
