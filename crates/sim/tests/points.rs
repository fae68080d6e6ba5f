//! Spaces that end, devices that go, resets and unbinds at every named point of a fault (rules U1
//! to U6, F7, G5).

use std::sync::Arc;

use sva_core::ats::TranslationAnswer;
use sva_core::event::ObjectCounts;
use sva_core::{
    Access, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, EndReason, Iommu, IommuConfig,
    PasidWidth, Plug, Removal,
};
use sva_sim::{Moment, Point, ScheduledLink};
use sva_sync::Mutex;
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

const BASE: u64 = 0x10_0000;

/// What befalls the system.
#[derive(Debug, Clone, Copy)]
enum Blow {
    SpaceEnds,
    Removed(Removal),
    Reset,
    Unbound,
}

const BLOWS: [Blow; 5] = [
    Blow::SpaceEnds,
    Blow::Removed(Removal::Orderly),
    Blow::Removed(Removal::Surprise),
    Blow::Reset,
    Blow::Unbound,
];

/// Every kind of message, as it is sent and before it is delivered.
fn points() -> Vec<Point> {
    let kinds: [fn(Moment) -> Point; 8] = [
        Point::TranslationRequest,
        Point::TranslationCompletion,
        Point::InvalidationRequest,
        Point::InvalidationCompletion,
        Point::PageRequest,
        Point::LastPageRequest,
        Point::StopMarker,
        Point::PageResponse,
    ];
    kinds.into_iter().flat_map(|kind| [kind(Moment::Sent), kind(Moment::Delivery)]).collect()
}

struct System {
    iommu: Iommu,
    device: Device,
    link: Arc<ScheduledLink>,
    space: Arc<MemorySpace>,
    bond: Arc<Mutex<Option<Bond<()>>>>,
}

impl System {
    /// A device whose messages are held, bound to a space whose second page is absent.
    fn new() -> Self {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let (link, space) = (ScheduledLink::new(), Arc::new(MemorySpace::new()));
        space.largest_translation(12);
        space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
        space.absent(BASE + PAGE, PAGE);
        let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
        let device = iommu.plug(Plug::new(spec).link(link.clone())).expect("free").device;
        device.enable_ats().and_then(|()| device.enable_pri()).expect("it has both");
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
        Self { iommu, device, link, space, bond: Arc::new(Mutex::new(Some(bond))) }
    }

    /// Has the blow fall at `point`; answers where it is noted that it has.
    fn prepare(&self, point: Point, blow: Blow) -> Arc<Mutex<bool>> {
        let fallen = Arc::new(Mutex::new(false));
        let (note, iommu, device) = (Arc::clone(&fallen), self.iommu.clone(), self.device.clone());
        let (space, bond) = (Arc::clone(&self.space), Arc::clone(&self.bond));
        self.link.at(point, 0, move || {
            *note.lock() = true;
            match blow {
                Blow::SpaceEnds => space.end(EndReason::Exited),
                Blow::Removed(removal) => {
                    drop(iommu.begin_remove(&device, removal).expect("it is there"))
                }
                Blow::Reset => device.begin_reset().expect("it is there").end(),
                Blow::Unbound => {
                    let bond = bond.lock().take();
                    drop(bond.map(Bond::begin_unbind));
                }
            }
        });
        fallen
    }

    /// A translation that is kept, a group of two pages, a change, a stop: every kind of message.
    fn live(&self) {
        let Some(pasid) = self.bond.lock().as_ref().map(Bond::pasid) else { return };
        let port = self.device.ats_port();
        if let Ok(request) = port.request_translation(Some(pasid), BASE, Access::READ) {
            self.link.settle(100);
            let kept = port.translation(request) == Some(TranslationAnswer::Cached);
            let held = port.use_translation(Some(pasid), BASE, Access::READ).filter(|_| kept);
            drop(held.map(|held| held.read(&mut [0; 8])));
        }
        if let Ok(group) = port.open_group(Some(pasid)) {
            let _ = port.request_page(group, BASE + PAGE, Access::READ, false);
            let _ = port.request_page(group, BASE + 2 * PAGE, Access::WRITE, true);
            self.link.settle(100);
            while self.iommu.sort_page_request() {}
            while let Some(work) = self.iommu.next_page_request_job() {
                work.run();
            }
            self.link.settle(100);
            let _ = port.outcome(group);
        }
        let change = self.space.begin_unmap(BASE, PAGE);
        self.link.settle(100);
        assert!(change.is_over(), "a change waits for a device that has nothing to say any more");
        port.send_stop_marker(pasid);
        self.link.settle(100);
    }

    fn take_down(&self) {
        let bond = self.bond.lock().take();
        let unbinding = bond.map(Bond::begin_unbind);
        assert!(self.link.settle(100));
        while self.iommu.sort_page_request() {}
        assert!(unbinding.is_none_or(|unbinding| unbinding.is_over()));
        let _ = self.iommu.begin_remove(&self.device, Removal::Orderly);
        assert!(self.link.settle(100));
        assert_eq!(self.iommu.object_counts(), ObjectCounts::default());
        assert_eq!((self.space.watches(), self.space.changes_under_way()), (0, 0));
    }
}

// shows U1, U2, U4, F7, G5
#[test]
fn whatever_befalls_a_system_at_any_point_of_a_fault_ends_and_leaves_nothing() {
    for point in points() {
        for blow in BLOWS {
            let system = System::new();
            let fallen = system.prepare(point, blow);
            system.live();
            assert!(*fallen.lock(), "{point:?} was not reached");
            println!("{blow:?} at {point:?}");
            system.take_down();
        }
    }
}
