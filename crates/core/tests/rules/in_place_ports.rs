//! What ports cache of memory that is accessed in place: a port for each thread, thousands of
//! pages, many processes (rules T2, T6, U6).

use sva_core::{Access, Bind, FaultReason};
use sva_testkit::{ArenaSpace, PAGE, Protection};

use crate::in_place::CachedArena;
use crate::support::{BASE, World, reason, stop};

// A port can be moved to another thread, and a handle of the device can be shared.
#[test]
fn each_thread_has_a_port_of_its_own() {
    let cached = CachedArena::new();
    let pasid = cached.pasid();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let port = cached.device.port();
            scope.spawn(move || {
                (0..1000)
                    .for_each(|_| assert!(port.fetch_add(pasid, BASE, 1u64).is_ok(), "in place"))
            });
        }
    });
    assert_eq!(cached.space.peek(BASE, 8), 2000u64.to_ne_bytes());
}

// shows T2
#[test]
fn a_port_that_caches_thousands_of_pages_finds_each_where_it_is() {
    const MANY: u64 = 3000;
    let world = World::new();
    let (device, space) = (world.plug(1), ArenaSpace::new(2 * MANY * PAGE));
    // Apart, so that no two are one run.
    let page = |n: u64| BASE + 2 * n * PAGE;
    (0..MANY).for_each(|n| space.map(page(n), PAGE, Protection::READ_WRITE));
    (0..MANY).for_each(|n| space.poke(page(n), &n.to_ne_bytes()));
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()))
        .expect("nothing is in the way");
    let (port, pasid) = (device.port(), Some(bond.pasid()));
    let all = || {
        (0..MANY)
            .for_each(|n| assert_eq!(port.read_obj::<u64>(pasid, page(n)).expect("it is there"), n))
    };
    (0..4).for_each(|_| all());
    let gone = page(MANY / 2);
    space.unmap(gone, PAGE);
    assert_eq!(reason(port.read_obj::<u64>(pasid, gone).map(drop)), Some(FaultReason::NotMapped));
    space.map(gone, PAGE, Protection::READ_WRITE);
    space.poke(gone, &(MANY / 2).to_ne_bytes());
    (0..2).for_each(|_| all());
}

// shows T2, U6: what is cached by a PASID serves no other, however many there are
#[test]
fn a_port_of_more_processes_than_it_caches_finds_the_memory_of_each() {
    const MANY: u64 = 140;
    let (world, pages) = (World::new(), 3);
    let device = world.plug(1);
    let bound = |n: u64| {
        let space = ArenaSpace::new(pages * PAGE);
        space.map(BASE, pages * PAGE, Protection::READ_WRITE);
        (0..pages)
            .for_each(|page| space.poke(BASE + page * PAGE, &(n * pages + page).to_ne_bytes()));
        let bond = world
            .iommu
            .bind_device(&device, &space.handle(), Bind::new(()))
            .expect("nothing is in the way");
        (space, bond)
    };
    let all: Vec<_> = (0..MANY).map(bound).collect();
    let port = device.port();
    let read = |n: u64, page: u64| {
        let value = port.read_obj::<u64>(Some(all[n as usize].1.pasid()), BASE + page * PAGE);
        assert_eq!(value.expect("it is there"), n * pages + page, "process {n}, page {page}");
    };
    // One after the other; a few in turns, neighbours and some whose numbers differ by a power of
    // two.
    (0..2 * MANY).for_each(|n| (0..pages).for_each(|page| read(n % MANY, page)));
    for apart in [1, 16, 32, 64, 128] {
        for round in 0..30 {
            read(3 + round % 3 * apart % MANY, round % pages);
            read(3 + apart, (round + 1) % pages);
        }
    }
}

// shows T2, T6
#[test]
fn an_access_over_the_edge_of_what_is_cached_is_a_fault_of_what_is_outside() {
    let (world, len) = (World::new(), 401 * PAGE);
    let (device, space) = (world.plug(1), ArenaSpace::new(2 * len));
    // Neither end is that of any block.
    let (first, end) = (BASE + 37 * PAGE, BASE + 37 * PAGE + len);
    space.map(first, len, Protection::READ_WRITE);
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()))
        .expect("nothing is in the way");
    let (port, pasid) = (device.port(), Some(bond.pasid()));
    (0..2).for_each(|_| {
        (0..len)
            .step_by(PAGE as usize)
            .for_each(|at| port.write(pasid, first + at, &[1; 64]).expect("it is there"));
    });
    for outside in 1..64u64 {
        let (done, fault) = stop(port.write(pasid, first - outside, &[2; 64]));
        assert_eq!((done, fault.reason), (0, FaultReason::NotMapped), "{outside} bytes before");
        let (done, fault) = stop(port.write(pasid, end - 64 + outside, &[2; 64]));
        assert_eq!(
            (done, fault.reason),
            (64 - outside, FaultReason::NotMapped),
            "{outside} bytes after"
        );
        assert_eq!(
            reason(port.read(pasid, first - outside, &mut [0; 64])),
            Some(FaultReason::NotMapped)
        );
        assert_eq!(
            reason(port.read_obj::<[u64; 8]>(pasid, first - outside).map(drop)),
            Some(FaultReason::NotMapped)
        );
        assert_eq!(
            reason(port.read_obj::<[u64; 8]>(pasid, end - 64 + outside).map(drop)),
            Some(FaultReason::NotMapped)
        );
        assert!(port.cached_translation(bond.pasid(), first - outside, Access::READ).is_none());
    }
    assert_eq!(space.peek(first, 64), [1; 64]);
    assert_eq!(space.peek(end - 64, 64)[..2], [0, 2]);
}
