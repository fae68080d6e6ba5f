//! Memory that is accessed in place, through cached translations: whatever takes an access away
//! takes it from a port that has it cached, at once (rules B7, U1, U2, U4, U5, F7, T1, T2, T6).

use sva_core::topology::PeerWindow;
use sva_core::{
    Access, AddrRange, Bind, Bond, Device, DmaPort, EndReason, Event, FaultReason, Features, Pasid,
    Segment, UnbindReport,
};
use sva_testkit::{ArenaSpace, PAGE, Protection};

use crate::support::{BASE, World, bdf, capable, everything, reason, space, watched, width};

/// A device bound to memory in place, and a port that caches all of its pages.
pub(crate) struct CachedArena {
    pub(crate) world: World,
    pub(crate) device: Device,
    pub(crate) space: ArenaSpace,
    pub(crate) bond: Bond<()>,
    pub(crate) port: DmaPort,
}

pub(crate) const PAGES: u64 = 8;

pub(crate) fn arena() -> ArenaSpace {
    let space = ArenaSpace::new(4 * PAGES * PAGE).poisoning();
    space.map(BASE, PAGES * PAGE, Protection::READ_WRITE);
    space
}

impl CachedArena {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let (device, space) = (world.plug(1), arena());
        let bond = world
            .iommu
            .bind_device(&device, &space.handle(), Bind::new(()))
            .expect("nothing is in the way");
        let cached = Self { port: device.port(), world, device, space, bond };
        cached.touch();
        cached
    }

    pub(crate) fn pasid(&self) -> Option<Pasid> {
        Some(self.bond.pasid())
    }

    pub(crate) fn touch(&self) {
        touch(&self.port, self.bond.pasid());
    }
}

/// Has the port cache every page.
pub(crate) fn touch(port: &DmaPort, pasid: Pasid) {
    port.read(Some(pasid), BASE, &mut [0; (PAGES * PAGE) as usize]).expect("it is all there");
    assert!(is_cached(port, pasid), "it is cached from the first access on");
}

pub(crate) fn is_cached(port: &DmaPort, pasid: Pasid) -> bool {
    (0..PAGES)
        .all(|page| port.cached_translation(pasid, BASE + page * PAGE, Access::READ).is_some())
}

pub(crate) fn read(port: &DmaPort, pasid: Option<Pasid>) -> Option<FaultReason> {
    reason(port.read(pasid, BASE, &mut [0; 8]))
}

// shows U1, U2, U3
#[test]
fn an_unbind_invalidates_what_a_port_caches() {
    let CachedArena { bond, port, .. } = CachedArena::new();
    let pasid = Some(bond.pasid());
    bond.unbind();
    assert_eq!(read(&port, pasid), Some(FaultReason::NotBound));
}

// shows F7, G5
#[test]
fn a_removal_invalidates_what_a_port_caches() {
    let cached = CachedArena::new();
    cached
        .world
        .iommu
        .remove(&cached.device, sva_core::Removal::Surprise)
        .expect("it is plugged in");
    assert_eq!(read(&cached.port, cached.pasid()), Some(FaultReason::DeviceRemoved));
}

// shows U4
#[test]
fn the_end_of_a_space_invalidates_what_a_port_caches() {
    let cached = CachedArena::new();
    cached.space.end(EndReason::Exited);
    assert_eq!(read(&cached.port, cached.pasid()), Some(FaultReason::SpaceEnded));
}

#[test]
fn a_reset_blocks_what_a_port_caches_until_it_is_done() {
    let cached = CachedArena::new();
    let reset = cached.device.reset().expect("it is plugged in");
    assert_eq!(read(&cached.port, cached.pasid()), Some(FaultReason::DeviceHalted));
    reset.end();
    assert_eq!(read(&cached.port, cached.pasid()), None);
}

// shows U5, U6: a port that caches the earlier owner of a number reaches the next one only if it
// is to
#[test]
fn a_port_that_cached_an_earlier_owner_of_a_pasid_finds_the_next_one_by_its_own_table() {
    let world = World::with(sva_core::IommuConfig::default().pasid_width(width(1)));
    let device = world.plug_as(1, capable(1)).device;
    let (first, second) = (arena(), arena());
    first.poke(BASE, &[1; 8]);
    second.poke(BASE, &[2; 8]);
    let bond = world.iommu.bind_device(&device, &first.handle(), Bind::new(())).expect("free");
    let tag = device.port().owner_of(bond.pasid()).expect("bound");
    let (port, pinned) = (device.port(), device.port().for_owner(tag));
    touch(&port, bond.pasid());
    touch(&pinned, bond.pasid());
    bond.unbind();
    let bond =
        world.iommu.bind_device(&device, &second.handle(), Bind::new(())).expect("free again");
    assert_eq!(bond.pasid(), tag.pasid, "there is one number");
    let mut bytes = [0; 8];
    port.read(Some(bond.pasid()), BASE, &mut bytes).expect("bound");
    assert_eq!(bytes, [2; 8]);
    assert_eq!(
        read(&pinned, Some(bond.pasid())),
        Some(FaultReason::NotBound),
        "for the first owner and no other"
    );
}

// shows B7
#[test]
fn a_window_that_appears_on_the_path_invalidates_what_a_port_caches_of_its_addresses() {
    let cached = CachedArena::new();
    let window = AddrRange::new(BASE + PAGE, PAGE).expect("a page");
    let catches = PeerWindow { range: window, decoder: bdf(9), claimed: true };
    cached.world.bus.windows(cached.device.bdf(), &[catches]);
    let outcome = cached.port.read(cached.pasid(), BASE + PAGE - 8, &mut [0; 16]);
    let events = cached.world.events();
    assert!(matches!(events[..], [Event::Misrouted { .. }, ..]), "{events:?} after {outcome:?}");
    // And around it goes on as before: what is cached ends where the window begins.
    cached.port.read(cached.pasid(), BASE, &mut [0; PAGE as usize]).expect("below it");
    cached.port.read(cached.pasid(), BASE + 2 * PAGE, &mut [0; 8]).expect("above it");
    assert!(
        cached
            .port
            .cached_translation(cached.bond.pasid(), BASE + PAGE - 1, Access::READ)
            .is_some()
    );
    assert_eq!(
        cached.port.cached_translation(cached.bond.pasid(), BASE + PAGE, Access::READ),
        None,
        "that is not the IOMMU's"
    );
}

// shows T1
#[test]
fn what_is_cached_permits_what_the_space_and_the_bond_permit() {
    let world = World::new();
    let (device, space) = (world.plug_as(1, everything()).device, ArenaSpace::new(4 * PAGE));
    space.map(BASE, PAGE, Protection::READ);
    space.map(BASE + PAGE, PAGE, Protection { execute: true, ..Protection::READ });
    space.map(BASE + 2 * PAGE, PAGE, Protection { privileged: true, ..Protection::READ_WRITE });
    let features = Features { privileged: true, ..Features::default() };
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()).features(features))
        .expect("free");
    let (port, pasid) = (device.port(), Some(bond.pasid()));
    let execute = Access::EXECUTE;
    let privileged = Access::READ | Access::PRIVILEGED;
    let at = |page: u64| Segment { address: BASE + page * PAGE, len: 8 };
    // Twice: the second time by what the first one left.
    for _ in 0..2 {
        assert_eq!(reason(port.gather(pasid, &[at(0)], &mut [0; 8], Access::READ)), None);
        assert_eq!(
            reason(port.scatter(pasid, &[at(0)], &[0; 8], Access::WRITE)),
            Some(FaultReason::Denied)
        );
        assert_eq!(reason(port.gather(pasid, &[at(1)], &mut [0; 8], Access::READ)), None);
        assert_eq!(
            reason(port.gather(pasid, &[at(1)], &mut [0; 8], execute)),
            Some(FaultReason::NotGranted)
        );
        assert_eq!(reason(port.gather(pasid, &[at(2)], &mut [0; 8], privileged)), None);
        assert_eq!(
            reason(port.gather(pasid, &[at(2)], &mut [0; 8], Access::READ)),
            Some(FaultReason::Denied)
        );
    }
}

// shows T2, U2: what was found with privilege goes with the rest
#[test]
fn a_change_invalidates_what_was_cached_of_privileged_accesses() {
    let world = World::new();
    let (device, space) = (world.plug_as(1, everything()).device, ArenaSpace::new(8 * PAGE));
    // Apart, so that each is an extent of its own.
    let at = |page: u64| Segment { address: BASE + 2 * page * PAGE, len: 8 };
    (0..3).for_each(|page| {
        space.map(at(page).address, PAGE, Protection { privileged: true, ..Protection::READ_WRITE })
    });
    let features = Features { privileged: true, ..Features::default() };
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()).features(features))
        .expect("free");
    let (port, pasid) = (device.port(), Some(bond.pasid()));
    let read = |page| {
        reason(port.gather(pasid, &[at(page)], &mut [0; 8], Access::READ | Access::PRIVILEGED))
    };
    (0..6).for_each(|n| assert_eq!(read(n % 3), None));
    assert_eq!(world.iommu.iotlb_usage().entries, 3);
    space.unmap(at(1).address, PAGE);
    assert_eq!(world.iommu.iotlb_usage().entries, 2);
    assert_eq!([0, 1, 2].map(read), [None, Some(FaultReason::NotMapped), None]);
    bond.unbind();
    assert_eq!(world.iommu.iotlb_usage().entries, 0);
}

// shows T6
#[test]
fn atomic_operations_of_both_sizes_do_what_the_processor_does() {
    let CachedArena { port, bond, space, .. } = CachedArena::new();
    let pasid = Some(bond.pasid());
    assert_eq!(port.fetch_add(pasid, BASE, 5u64).expect("in place"), 0);
    assert_eq!(port.fetch_add(pasid, BASE, u64::MAX).expect("in place"), 5, "and wraps");
    assert_eq!(port.swap(pasid, BASE, 7u64).expect("in place"), 4);
    assert_eq!(port.compare_exchange(pasid, BASE, 7u64, 9).expect("in place"), Ok(7));
    assert_eq!(port.compare_exchange(pasid, BASE, 7u64, 1).expect("in place"), Err(9));
    assert_eq!(port.fetch_add(pasid, BASE + 12, 3u32).expect("in place"), 0);
    assert_eq!(port.swap(pasid, BASE + 12, 1u32).expect("in place"), 3);
    assert_eq!(space.peek(BASE, 16), [9u64.to_ne_bytes(), [0, 0, 0, 0, 1, 0, 0, 0]].concat());
}

// shows T6
#[test]
fn atomic_operations_that_would_not_be_atomic_are_refused_and_change_nothing() {
    let cached = CachedArena::new();
    let why = |outcome: Result<u64, sva_core::DmaError>| reason(outcome.map(drop));
    assert_eq!(
        why(cached.port.fetch_add(cached.pasid(), BASE + 4, 1u64)),
        Some(FaultReason::Misaligned)
    );
    assert_eq!(
        why(cached.port.fetch_add(None, BASE, 1u64)),
        Some(FaultReason::NoAtomics),
        "nothing is cached of domains"
    );
    cached.space.protect(BASE, PAGE, Protection::READ);
    assert_eq!(why(cached.port.fetch_add(cached.pasid(), BASE, 1u64)), Some(FaultReason::Denied));
    assert_eq!(cached.space.peek(BASE, 16), [0; 16]);
    // A provider that copies: another thread's operation could come between the reading and the
    // writing.
    let (world, copied) = (World::new(), space());
    let device = world.plug(1);
    let bond = world.bind(&device, &copied);
    assert_eq!(
        why(device.port().fetch_add(Some(bond.pasid()), BASE, 1u64)),
        Some(FaultReason::NoAtomics)
    );
    assert_eq!(copied.peek(BASE, 8), [0; 8]);
}

// shows T6
#[test]
fn an_atomic_operation_brings_an_absent_page_in() {
    let cached = CachedArena::new();
    cached.space.absent(BASE, PAGE);
    assert_eq!(cached.port.fetch_add(cached.pasid(), BASE, 1u64).expect("brought in"), 0);
    assert_eq!(cached.space.resolved(), 1);
}

// shows U3: from inside, the unbind does not wait for itself
#[test]
fn who_has_memory_pinned_can_unbind_and_change_the_space() {
    watched(|| {
        let CachedArena { port, bond, space, .. } = CachedArena::new();
        let (pasid, piece) = (Some(bond.pasid()), Segment { address: BASE, len: 2 * PAGE });
        let report = port.with_memory(pasid, piece, Access::WRITE, |slices| {
            assert_eq!(slices.iter().map(|slice| slice.len() as u64).sum::<u64>(), 2 * PAGE);
            slices[0].copy_from(&[7u8; 8]);
            space.unmap(BASE + PAGE, PAGE);
            bond.unbind()
        });
        assert_eq!(
            report.expect("in place"),
            UnbindReport { deferred: true, drained: 1, ..UnbindReport::default() }
        );
        assert_eq!(space.peek(BASE, 8), [7; 8]);
        assert_eq!(read(&port, pasid), Some(FaultReason::NotBound));
    });
}

#[test]
fn memory_that_cannot_be_pinned_is_refused_with_the_reason() {
    let cached = CachedArena::new();
    let piece = |address, len| Segment { address, len };
    let refused = |pasid, piece| {
        reason(cached.port.with_memory(pasid, piece, Access::READ, |_| panic!("it does not run")))
    };
    assert_eq!(refused(None, piece(BASE, 8)), Some(FaultReason::NotInPlace));
    assert_eq!(refused(cached.pasid(), piece(u64::MAX, 8)), Some(FaultReason::Wraps));
    assert_eq!(
        refused(cached.pasid(), piece(BASE + PAGES * PAGE - 4, 8)),
        Some(FaultReason::NotMapped)
    );
    let (world, copied) = (World::new(), space());
    let device = world.plug(1);
    let bond = world.bind(&device, &copied);
    let outcome =
        device.port().with_memory(Some(bond.pasid()), piece(BASE, 8), Access::READ, |_| {
            panic!("it does not run")
        });
    assert_eq!(reason(outcome), Some(FaultReason::NotInPlace));
}

// shows T4, T7: no more goes than was asked for, and a port that does not read costs nothing
#[test]
fn an_invalidation_of_one_page_leaves_the_others_cached() {
    let world = World::new();
    let (device, space) = (world.plug(1), ArenaSpace::new(2 * PAGES * PAGE));
    // Apart, so that each is an extent of its own.
    let at = |page: u64| BASE + 2 * page * PAGE;
    (0..PAGES).for_each(|page| space.map(at(page), PAGE, Protection::READ_WRITE));
    let bond = world.iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
    let port = device.port();
    (0..PAGES)
        .for_each(|page| port.read(Some(bond.pasid()), at(page), &mut [0; 8]).expect("mapped"));
    assert_eq!(world.iommu.iotlb_usage().entries, PAGES as usize);
    space.unmap(at(3), PAGE);
    assert_eq!(world.iommu.iotlb_usage().entries, PAGES as usize - 1);
    let is_page_cached =
        |page| port.cached_translation(bond.pasid(), at(page), Access::READ).is_some();
    assert_eq!((0..PAGES).filter(|page| is_page_cached(*page)).count() as u64, PAGES - 1);
    bond.unbind();
    assert_eq!(
        world.iommu.iotlb_usage().entries,
        0,
        "with the last bond of the owner goes what was cached of it"
    );
}

// shows T1, T4
#[test]
fn values_are_what_their_bytes_are_wherever_they_lie() {
    let CachedArena { space, bond, port, .. } = CachedArena::new();
    let pasid = Some(bond.pasid());
    // Aligned, not aligned, and over the boundary of a page.
    for at in [BASE + 64, BASE + 3, BASE + PAGE - 5] {
        port.write_obj(pasid, at, 0x0102_0304_0506_0708u64).expect("it may be written");
        assert_eq!(space.peek(at, 8), 0x0102_0304_0506_0708u64.to_ne_bytes());
        assert_eq!(port.read_obj::<u64>(pasid, at).expect("it may be read"), 0x0102_0304_0506_0708);
        port.write_obj(pasid, at, [7u32; 4]).expect("it may be written");
        assert_eq!(port.read_obj::<[u32; 4]>(pasid, at).expect("it may be read"), [7; 4]);
    }
    space.protect(BASE, PAGE, Protection::READ);
    assert_eq!(reason(port.write_obj(pasid, BASE, 1u8)), Some(FaultReason::Denied));
    assert_eq!(port.read_obj::<u8>(pasid, BASE + 64).expect("it may be read"), 7);
    let without = reason(port.read_obj::<u16>(None, BASE).map(drop));
    assert!(without.is_some() && without == reason(port.read(None, BASE, &mut [0; 2])));
}
