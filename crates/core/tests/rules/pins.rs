//! Pinned memory: a change, an unbind, a removal and a reset wait for the pins of what they take
//! away, and for no others (rules F7, T2, T4, U1, U2, U3).

use std::thread;

use sva_core::bond::Unbinding;
use sva_core::{
    Access, Bind, Bond, Device, DmaPort, FaultReason, IommuConfig, Pin, Removal, Segment,
    UnbindReport,
};
use sva_sync::Mutex;
use sva_testkit::ArenaChange;
use sva_testkit::{ArenaSpace, PAGE, Protection};

use crate::hooked_space::HookedSpace;
use crate::support::{BASE, Later, World, capable, later, reason, watched, width};

struct Setup {
    world: World,
    device: Device,
    space: ArenaSpace,
    bond: Bond<()>,
}

const PAGES: u64 = 8;

impl Setup {
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

    /// A port that pins by its cached translations: the first pin, which fills them, has gone
    /// through the gates.
    fn warm(&self) -> DmaPort {
        let port = self.device.port();
        drop(self.pin(&port, BASE, PAGES * PAGE));
        port
    }

    /// Begins to revoke a page's permission to be written to, on a thread that has no pin.
    fn take_away(&self, page: u64) -> ArenaChange {
        elsewhere(|| self.space.begin_protect(at(page), PAGE, Protection::READ))
    }
}

/// As a thread without pins sees it: nobody waits for pins of its own.
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
fn a_change_waits_for_those_who_pin_some_of_its_range_and_for_no_others() {
    watched(|| {
        // Through the gates, and by what is cached.
        for warm in [false, true] {
            let setup = Setup::new();
            let port = if warm { setup.warm() } else { setup.device.port() };
            let pin = setup.pin(&port, at(2) + PAGE - 4, 8);
            let changes = [1, 2, 3, 4].map(|page| setup.take_away(page));
            assert_eq!(changes.each_ref().map(is_over), [true, false, false, true]);
            drop(pin);
            assert!(changes.iter().all(is_over));
        }
    });
}

// shows T2
#[test]
fn a_port_pins_any_number_of_ranges_and_each_is_waited_for_by_itself() {
    watched(|| {
        let setup = Setup::new();
        let port = setup.warm();
        // Twice, the second time by the same slots.
        for _ in 0..2 {
            let mut pins: Vec<Option<Pin<'_>>> =
                (0..PAGES).map(|page| Some(setup.pin(&port, at(page), 16))).collect();
            let changes: Vec<ArenaChange> = (0..PAGES).map(|page| setup.take_away(page)).collect();
            for page in [3, 0, 7, 1, 2, 6, 5, 4] {
                assert!(!is_over(&changes[page]));
                pins[page] = None;
                let over: Vec<bool> = changes.iter().map(is_over).collect();
                let gone: Vec<bool> = pins.iter().map(Option::is_none).collect();
                assert_eq!(over, gone);
            }
            drop(changes);
            setup.space.protect(BASE, PAGES * PAGE, Protection::READ_WRITE);
        }
    });
}

// shows T2
#[test]
fn changes_of_other_ranges_meanwhile_do_not_have_a_pin_forgotten() {
    watched(|| {
        let setup = Setup::new();
        let port = setup.warm();
        let pin = setup.pin(&port, at(5), 8);
        // The first has the space forget that the port reads, which it no longer does.
        assert!((0..4).all(|page| is_over(&setup.take_away(page))));
        let change = setup.take_away(5);
        assert!(!is_over(&change));
        drop(pin);
        assert!(is_over(&change));
    });
}

// shows T5, T1
#[test]
fn a_pin_says_what_all_of_the_piece_means_or_nothing() {
    let setup = Setup::new();
    let port = setup.device.port();
    // Through the gates, and then by what is cached.
    for _ in 0..2 {
        let pin = setup.pin(&port, at(1) + 100, 2 * PAGE);
        let ranges: Vec<_> = pin
            .extents()
            .iter()
            .map(|extent| (extent.range.first(), extent.range.last()))
            .collect();
        assert_eq!(ranges, [(at(1) + 100, at(2) - 1), (at(2), at(3) - 1), (at(3), at(3) + 99)]);
        assert_eq!(pin.space(), setup.space.handle().id());
        drop(pin);
    }
    setup.space.protect(at(3), PAGE, Protection::READ);
    let piece = Segment { address: at(1) + 100, len: 2 * PAGE };
    assert_eq!(
        reason(port.pin(setup.bond.pasid(), piece, Access::WRITE).map(drop)),
        Some(FaultReason::Denied)
    );
    assert!(port.pin(setup.bond.pasid(), piece, Access::READ).is_ok());
    assert!(is_over(&setup.take_away(1)), "a pin that failed pins nothing");
    setup.space.absent(at(2), PAGE);
    assert!(port.pin(setup.bond.pasid(), piece, Access::READ).is_ok());
    assert_eq!(setup.space.resolved(), 1, "it was brought in");
    assert!(setup.pin(&port, at(0), 0).extents().is_empty());
}

// shows U1, U2, U3
#[test]
fn an_unbind_is_over_when_nothing_of_the_bond_is_pinned() {
    watched(|| {
        for warm in [false, true] {
            let Setup { world, device, space, bond } = Setup::new();
            let other = world.plug(2);
            let beside = world
                .iommu
                .bind_device(&other, &space.handle(), Bind::new(()))
                .expect("nothing is in the way");
            let pasid = bond.pasid();
            let piece = Segment { address: BASE, len: 8 };
            let (port, port_beside) = (device.port(), other.port());
            let pin = || port.pin(pasid, piece, Access::READ);
            if warm {
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
            let counts = world.iommu.object_counts();
            assert_eq!((counts.bonds, counts.pasids), (0, 0));
        }
    });
}

/// What begins to unbind `bond`, as a hook of its space, and whether the unbind was over then.
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
fn an_unbind_counts_once_what_is_just_being_pinned() {
    watched(|| {
        let (world, space) = (World::new(), ArenaSpace::new(4 * PAGE));
        space.map(BASE, PAGE, Protection::READ_WRITE);
        let (hooked, device) = (HookedSpace::new(&space), world.plug(1));
        let bond = world
            .iommu
            .bind_device(&device, &hooked, Bind::new(()))
            .expect("nothing is in the way");
        let (port, pasid) = (device.port(), bond.pasid());
        let (begin, begun) = unbind_in_the_middle(bond);
        hooked.at_next_extent(begin);
        let pin = port
            .pin(pasid, Segment { address: BASE, len: 8 }, Access::READ)
            .expect("the pin was announced before the unbind");
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

// shows U1, U2, F4: what brings a page in for a pin is inside the gate, and nothing is pinned
// meanwhile
#[test]
fn an_unbind_counts_once_what_brings_a_page_in_that_is_to_be_pinned() {
    watched(|| {
        let Setup { device, space, bond, .. } = Setup::new();
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

// shows T2, U5: a port has cached the next owner of a PASID by reading, and its pins have the
// first owner cached
#[test]
fn what_is_pinned_of_the_next_owner_of_a_pasid_is_found_by_its_changes() {
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
fn a_removal_is_over_when_the_device_has_nothing_pinned() {
    watched(|| {
        let setup = Setup::new();
        let port = setup.warm();
        let pin = setup.pin(&port, BASE, 8);
        let removing =
            setup.world.iommu.begin_remove(&setup.device, Removal::Surprise).expect("there");
        assert!(!removing.is_over());
        let piece = Segment { address: BASE, len: 8 };
        assert_eq!(
            reason(port.pin(setup.bond.pasid(), piece, Access::READ).map(drop)),
            Some(FaultReason::DeviceRemoved)
        );
        drop(pin);
        assert!(removing.is_over());
    });
}

// shows U1
#[test]
fn a_reset_is_quiet_when_the_device_has_nothing_pinned() {
    watched(|| {
        let setup = Setup::new();
        let port = setup.warm();
        let pin = setup.pin(&port, BASE, 8);
        let resets = [
            setup.device.begin_reset().expect("there"),
            setup.device.begin_reset().expect("there"),
        ];
        assert!(!resets[0].is_quiet());
        drop(pin);
        assert!(resets[0].is_quiet() && resets[1].is_quiet());
        drop(resets);
        let pin = setup.pin(&port, BASE, 8);
        let change = setup.take_away(0);
        assert!(!is_over(&change));
        drop(pin);
        assert!(is_over(&change));
    });
}
