//! Memory in hand: who takes it away waits for those who have it, and for nobody else (rules F7,
//! T2, T4, U1, U2, U3).

use std::sync::Arc;
use std::thread;

use sva_core::bond::Unbinding;
use sva_core::{
    Access, AddressSpace, Bind, Bond, Device, DmaPort, FaultReason, IommuConfig, Pin, Removal,
    Segment, UnbindReport,
};
use sva_sync::Mutex;
use sva_testkit::ArenaChange;
use sva_testkit::{ArenaSpace, PAGE, Protection};

use crate::asked::AskedSpace;
use crate::support::{BASE, Later, World, capable, later, reason, watched, width};

struct Held {
    world: World,
    device: Device,
    space: ArenaSpace,
    bond: Bond<()>,
}

const PAGES: u64 = 8;

impl Held {
    /// Pages none of which has its neighbour beside it.
    fn new() -> Self {
        let (world, space) = (World::new(), ArenaSpace::new(4 * PAGES * PAGE).poisoning());
        let device = world.plug(1);
        (0..PAGES).rev().for_each(|page| space.map(at(page), PAGE, Protection::READ_WRITE));
        let bond = world
            .iommu
            .bind_device(&device, &space.handle(), Bind::new(()))
            .expect("nothing is in the way");
        Self { world, device, space, bond }
    }

    fn pin<'a>(&self, port: &'a DmaPort, address: u64, len: u64) -> Pin<'a> {
        port.pin(self.bond.pasid(), Segment { address, len }, Access::WRITE).expect("mapped")
    }

    /// A port that pins what is kept from the second time on: the first goes the long way.
    fn practised(&self) -> DmaPort {
        let port = self.device.port();
        drop(self.pin(&port, BASE, PAGES * PAGE));
        port
    }

    /// Begins to take a page's permission to be written to away, on a thread that has nothing in
    /// hand.
    fn take_away(&self, page: u64) -> ArenaChange {
        elsewhere(|| self.space.begin_protect(at(page), PAGE, Protection::READ))
    }
}

/// To a thread that has nothing in hand: one's own is not waited for.
fn is_over(change: &ArenaChange) -> bool {
    elsewhere(|| change.is_over())
}

fn elsewhere<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

fn at(page: u64) -> u64 {
    BASE + page * PAGE
}

// shows T2, T4
#[test]
fn a_change_waits_for_those_who_have_some_of_its_range_in_hand_and_for_no_others() {
    watched(|| {
        // The long way, and by what is kept.
        for practised in [false, true] {
            let held = Held::new();
            let port = if practised { held.practised() } else { held.device.port() };
            let pin = held.pin(&port, at(2) + PAGE - 4, 8);
            let changes = [1, 2, 3, 4].map(|page| held.take_away(page));
            assert_eq!(changes.each_ref().map(is_over), [true, false, false, true]);
            drop(pin);
            assert!(changes.iter().all(is_over));
        }
    });
}

// shows T2
#[test]
fn a_port_has_any_number_of_ranges_in_hand_and_each_is_waited_for_by_itself() {
    watched(|| {
        let held = Held::new();
        let port = held.practised();
        // Twice, the second time by the same slots.
        for _ in 0..2 {
            let mut pins: Vec<Option<Pin<'_>>> =
                (0..PAGES).map(|page| Some(held.pin(&port, at(page), 16))).collect();
            let changes: Vec<ArenaChange> = (0..PAGES).map(|page| held.take_away(page)).collect();
            for page in [3, 0, 7, 1, 2, 6, 5, 4] {
                assert!(!is_over(&changes[page]));
                pins[page] = None;
                let over: Vec<bool> = changes.iter().map(is_over).collect();
                let gone: Vec<bool> = pins.iter().map(Option::is_none).collect();
                assert_eq!(over, gone);
            }
            drop(changes);
            held.space.protect(BASE, PAGES * PAGE, Protection::READ_WRITE);
        }
    });
}

// shows T2
#[test]
fn changes_of_other_ranges_meanwhile_do_not_have_a_pin_forgotten() {
    watched(|| {
        let held = Held::new();
        let port = held.practised();
        let pin = held.pin(&port, at(5), 8);
        // The first has the space forget that the port reads, which it no longer does.
        assert!((0..4).all(|page| is_over(&held.take_away(page))));
        let change = held.take_away(5);
        assert!(!is_over(&change));
        drop(pin);
        assert!(is_over(&change));
    });
}

// shows T5, T1
#[test]
fn a_pin_says_what_all_of_the_piece_means_or_nothing() {
    let held = Held::new();
    let port = held.device.port();
    // The long way, and then by what is kept.
    for _ in 0..2 {
        let pin = held.pin(&port, at(1) + 100, 2 * PAGE);
        let ranges: Vec<_> =
            pin.runs().iter().map(|run| (run.range.first(), run.range.last())).collect();
        assert_eq!(ranges, [(at(1) + 100, at(2) - 1), (at(2), at(3) - 1), (at(3), at(3) + 99)]);
        assert_eq!(pin.space(), held.space.handle().id());
        drop(pin);
    }
    held.space.protect(at(3), PAGE, Protection::READ);
    let piece = Segment { address: at(1) + 100, len: 2 * PAGE };
    assert_eq!(
        reason(port.pin(held.bond.pasid(), piece, Access::WRITE).map(drop)),
        Some(FaultReason::Denied)
    );
    assert!(port.pin(held.bond.pasid(), piece, Access::READ).is_ok());
    assert!(is_over(&held.take_away(1)), "what failed has nothing in hand");
    held.space.absent(at(2), PAGE);
    assert!(port.pin(held.bond.pasid(), piece, Access::READ).is_ok());
    assert_eq!(held.space.resolved(), 1, "it was brought in");
    assert!(held.pin(&port, at(0), 0).runs().is_empty());
}

// shows U1, U2, U3
#[test]
fn an_unbind_is_over_when_nothing_of_the_bond_is_in_hand() {
    watched(|| {
        for practised in [false, true] {
            let Held { world, device, space, bond } = Held::new();
            let other = world.plug(2);
            let beside = world
                .iommu
                .bind_device(&other, &space.handle(), Bind::new(()))
                .expect("nothing is in the way");
            let pasid = bond.pasid();
            let piece = Segment { address: BASE, len: 8 };
            let (port, port_beside) = (device.port(), other.port());
            let pin = || port.pin(pasid, piece, Access::READ);
            if practised {
                drop(pin().expect("mapped"));
            }
            let pins = [pin().expect("mapped"), pin().expect("mapped")];
            let of_the_other = port_beside.pin(pasid, piece, Access::READ).expect("bound as well");
            let unbinding = bond.begin_unbind();
            assert_eq!(
                unbinding.report(),
                UnbindReport { deferred: true, drained: 2, ..UnbindReport::default() }
            );
            assert_eq!(reason(pin().map(drop)), Some(FaultReason::NotBound));
            let mut over = vec![unbinding.is_over()];
            for pin in pins {
                drop(pin);
                over.push(unbinding.is_over());
            }
            assert_eq!(over, [false, false, true]);
            drop(of_the_other);
            assert_eq!(beside.unbind().drained, 0);
            let census = world.iommu.object_counts();
            assert_eq!((census.bonds, census.pasids), (0, 0));
        }
    });
}

/// Begins to unbind `bond` when `space` is next asked for a run, or for the page that it brings in;
/// what that is like then.
fn unbind_in_the_middle(
    bond: Bond<()>,
) -> (impl FnOnce() + Send + 'static, Later<(Unbinding, bool)>) {
    let begun = later();
    let to = begun.clone();
    let begin = move || {
        let unbinding = bond.begin_unbind();
        let over = unbinding.is_over();
        *to.lock() = Some((unbinding, over));
    };
    (begin, begun)
}

// shows U1, U2
#[test]
fn an_unbind_counts_once_what_is_just_being_taken_in_hand() {
    watched(|| {
        let (world, space) = (World::new(), ArenaSpace::new(4 * PAGE));
        space.map(BASE, PAGE, Protection::READ_WRITE);
        let (asked, device) = (AskedSpace::new(&space), world.plug(1));
        let handle: Arc<dyn AddressSpace> = asked.clone();
        let bond = world
            .iommu
            .bind_device(&device, &handle, Bind::new(()))
            .expect("nothing is in the way");
        let (port, pasid) = (device.port(), bond.pasid());
        let (begin, begun) = unbind_in_the_middle(bond);
        asked.at_next_run(begin);
        let pin = port
            .pin(pasid, Segment { address: BASE, len: 8 }, Access::READ)
            .expect("it was said to be in hand before");
        let (unbinding, over) = begun.lock().take().expect("asked");
        assert_eq!(
            unbinding.report(),
            UnbindReport { deferred: true, drained: 1, ..UnbindReport::default() }
        );
        assert_eq!([over, unbinding.is_over()], [false, false]);
        drop(pin);
        assert!(unbinding.is_over());
    });
}

// shows U1, U2, F4: what brings a page in for a pin is inside the gate, and nothing is in hand
// meanwhile
#[test]
fn an_unbind_counts_once_what_brings_a_page_in_that_is_to_be_taken_in_hand() {
    watched(|| {
        let Held { device, space, bond, .. } = Held::new();
        space.absent(BASE, PAGE);
        let (port, pasid) = (device.port(), bond.pasid());
        let (begin, begun) = unbind_in_the_middle(bond);
        let begin = Mutex::new(Some(begin));
        space.on_resolve(move |_| {
            if let Some(begin) = begin.lock().take() {
                begin();
            }
            true
        });
        let pinned = port.pin(pasid, Segment { address: BASE, len: 8 }, Access::READ);
        assert_eq!(reason(pinned.map(drop)), Some(FaultReason::NotBound));
        let (unbinding, over) = begun.lock().take().expect("resolved");
        assert_eq!(
            unbinding.report(),
            UnbindReport { deferred: true, drained: 1, ..UnbindReport::default() }
        );
        assert_eq!([over, unbinding.is_over()], [false, true]);
        assert_eq!(space.resolved(), 1);
    });
}

// shows T2, U5: a port knows the next owner of a number from reading, and what it has pinned with
// knows the first
#[test]
fn what_is_in_hand_of_the_next_owner_of_a_number_is_found_by_its_changes() {
    watched(|| {
        let world = World::with(IommuConfig::default().pasid_width(width(1)));
        let device = world.plug_as(1, capable(1)).device;
        let spaces = [(); 2].map(|()| ArenaSpace::new(4 * PAGE));
        spaces.iter().for_each(|space| space.map(BASE, PAGE, Protection::READ_WRITE));
        let bind = |space: &ArenaSpace| {
            world.iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free")
        };
        let (port, piece) = (device.port(), Segment { address: BASE, len: 8 });
        let bond = bind(&spaces[0]);
        (0..2).for_each(|_| drop(port.pin(bond.pasid(), piece, Access::READ).expect("mapped")));
        bond.unbind();
        let bond = bind(&spaces[1]);
        (0..2).for_each(|_| port.read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("mapped"));
        let pin = port.pin(bond.pasid(), piece, Access::READ).expect("mapped");
        assert_eq!(pin.space(), spaces[1].handle().id());
        let change = elsewhere(|| spaces[1].begin_protect(BASE, PAGE, Protection::READ));
        assert!(!is_over(&change));
        drop(pin);
        assert!(is_over(&change));
    });
}

// shows F7, G5
#[test]
fn a_removal_is_over_when_the_device_has_nothing_in_hand() {
    watched(|| {
        let held = Held::new();
        let port = held.practised();
        let pin = held.pin(&port, BASE, 8);
        let removing =
            held.world.iommu.begin_remove(&held.device, Removal::Surprise).expect("there");
        assert!(!removing.is_over());
        let piece = Segment { address: BASE, len: 8 };
        assert_eq!(
            reason(port.pin(held.bond.pasid(), piece, Access::READ).map(drop)),
            Some(FaultReason::DeviceRemoved)
        );
        drop(pin);
        assert!(removing.is_over());
    });
}

// shows U1
#[test]
fn a_reset_is_quiet_when_the_device_has_nothing_in_hand() {
    watched(|| {
        let held = Held::new();
        let port = held.practised();
        let pin = held.pin(&port, BASE, 8);
        let resets =
            [held.device.begin_reset().expect("there"), held.device.begin_reset().expect("there")];
        assert!(!resets[0].is_quiet());
        drop(pin);
        assert!(resets[0].is_quiet() && resets[1].is_quiet());
        drop(resets);
        let pin = held.pin(&port, BASE, 8);
        let change = held.take_away(0);
        assert!(!is_over(&change));
        drop(pin);
        assert!(is_over(&change));
    });
}
