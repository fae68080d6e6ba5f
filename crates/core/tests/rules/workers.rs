//! The threads that resolve page requests (rules S3, F4), and a storm of faults through all of it
//! (rules F1, T2, U2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_core::pri::WorkerConfig;
use sva_core::pri::{GroupOutcome, PrgIndex};
use sva_core::{AtsPort, Bond, Capabilities, Event, Pasid, Removal, Workers};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use sva_testkit::{MemorySpace, PAGE};

use crate::paging::*;
use crate::support::{Noted, Signal, World, eventually, space, watched};

fn workers(world: &World, threads: usize, max_threads: usize) -> Workers {
    Workers::start(&world.iommu, WorkerConfig::default().threads(threads).max_threads(max_threads))
        .expect("the machine has room for threads")
}

/// Waits for what comes of a group.
fn outcome_of(requester: &PageRequester, group: PrgIndex) -> Option<GroupOutcome> {
    let mut outcome = None;
    eventually("the group is answered", || {
        outcome = requester.outcome(group);
        outcome.is_some()
    });
    outcome
}

/// A space, bound to the requester's device.
fn bound(world: &World, requester: &PageRequester) -> (MemorySpace, Bond<()>) {
    let space = absent();
    let bond = world.bind(&requester.device, &space);
    (space, bond)
}

// shows S3
#[test]
fn spaces_take_turns_and_the_groups_of_one_space_keep_their_order() {
    let Setting { world, requester, space, bond } = Setting::new();
    let (other_space, other_bond) = bound(&world, &requester);
    let notes: Noted<(u8, u64)> = Arc::new(Mutex::new(Vec::new()));
    for (name, space) in [(0, &space), (1, &other_space)] {
        let notes = notes.clone();
        space.on_resolve(move |address| {
            notes.lock().push((name, address));
            true
        });
    }
    for n in 0..4 {
        requester.request(Some(bond.pasid()), &[page(n)]);
    }
    requester.request(Some(other_bond.pasid()), &[page(8)]);
    assert_eq!(world.resolve(), 5);
    assert_eq!(
        *notes.lock(),
        [(0, page(0)), (1, page(8)), (0, page(1)), (0, page(2)), (0, page(3))]
    );
}

// shows S3
#[test]
fn the_groups_of_one_space_are_resolved_one_at_a_time_whatever_threads_there_are() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, seen) = (inside.clone(), most.clone());
        space.on_resolve(move |_| {
            let now = count.fetch_add(1, Ordering::SeqCst) + 1;
            if now > seen.load(Ordering::SeqCst) {
                seen.store(now, Ordering::SeqCst);
            }
            (0..20).for_each(|_| std::thread::yield_now());
            count.fetch_sub(1, Ordering::SeqCst);
            true
        });
        let _workers = workers(&world, 4, 8);
        for _ in 0..16 {
            let groups: Vec<PrgIndex> = (0..u64::from(CREDIT))
                .map(|n| requester.request(Some(bond.pasid()), &[page(n)]))
                .collect();
            assert!(groups.into_iter().all(|group| outcome_of(&requester, group) == SUCCESS));
            space.absent(page(0), PAGES_ASKED * PAGE);
        }
        assert_eq!((most.load(Ordering::SeqCst), space.resolved()), (1, 16 * u64::from(CREDIT)));
    });
}

const PAGES_ASKED: u64 = CREDIT as u64;

// shows S3, F4
#[test]
fn a_slow_space_that_holds_the_only_thread_holds_up_no_other_space() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let (_other_space, other_bond) = bound(&world, &requester);
        let slow = Slow::new(&space);
        let workers = workers(&world, 1, 4);
        let held = requester.request(Some(bond.pasid()), &[page(0)]);
        slow.inside.wait();
        let behind = requester.request(Some(bond.pasid()), &[page(1)]);
        let other = requester.request(Some(other_bond.pasid()), &[page(0)]);
        assert_eq!(outcome_of(&requester, other), SUCCESS);
        assert_eq!((requester.outcome(held), requester.outcome(behind)), (None, None));
        // The additional thread ends again, and the slow space still holds up nobody.
        eventually("the additional thread ends", || workers.threads() == 1);
        let other = requester.request(Some(other_bond.pasid()), &[page(1)]);
        assert_eq!(outcome_of(&requester, other), SUCCESS);
        slow.let_go();
        assert_eq!(
            (outcome_of(&requester, held), outcome_of(&requester, behind)),
            (SUCCESS, SUCCESS)
        );
        assert!(world.events().is_empty(), "there was always a thread to be had");
    });
}

// shows S3
#[test]
fn more_slow_spaces_than_threads_are_told_once_and_the_threads_end_when_those_are_done() {
    watched(|| {
        const MOST: usize = 4;
        let world = World::new();
        let requester = world.requester(1, requesting());
        let spaces: Vec<_> = (0..MOST).map(|_| bound(&world, &requester)).collect();
        let (_quick_space, quick_bond) = bound(&world, &requester);
        let slow: Vec<Slow> = spaces.iter().map(|(space, _)| Slow::new(space)).collect();
        let workers = workers(&world, 1, MOST);
        let held: Vec<PrgIndex> = spaces
            .iter()
            .map(|(_, bond)| requester.request(Some(bond.pasid()), &[page(0)]))
            .collect();
        slow.iter().for_each(|slow| slow.inside.wait());
        assert_eq!(workers.threads(), MOST, "one for each slow space");
        let waits = requester.request(Some(quick_bond.pasid()), &[page(0)]);
        let mut events = Vec::new();
        eventually("it is said", || {
            events.extend(world.events());
            !events.is_empty()
        });
        let told = Instant::now();
        eventually("time passes", || told.elapsed() > Duration::from_millis(50));
        events.extend(world.events());
        assert_eq!(events, [Event::WorkersExhausted { threads: MOST }]);
        assert_eq!((workers.threads(), requester.outcome(waits)), (MOST, None));
        slow[2].let_go();
        assert_eq!(
            (outcome_of(&requester, waits), outcome_of(&requester, held[2])),
            (SUCCESS, SUCCESS)
        );
        slow.iter().for_each(Slow::let_go);
        assert!(
            held.iter()
                .enumerate()
                .all(|(n, group)| n == 2 || outcome_of(&requester, *group) == SUCCESS)
        );
        eventually("the threads end", || workers.threads() == 1);
        let again = requester.request(Some(quick_bond.pasid()), &[page(1)]);
        assert_eq!((outcome_of(&requester, again), world.events()), (SUCCESS, vec![]));
    });
}

// shows G5
#[test]
fn workers_that_are_dropped_finish_what_they_are_at_and_leave_the_rest_to_the_next() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let (_other_space, other_bond) = bound(&world, &requester);
        let slow = Slow::new(&space);
        let first = workers(&world, 1, 1);
        let held = requester.request(Some(bond.pasid()), &[page(0)]);
        slow.inside.wait();
        let left = [
            requester.request(Some(bond.pasid()), &[page(1)]),
            requester.request(Some(other_bond.pasid()), &[page(0)]),
        ];
        let over = Signal::new();
        let dropping = std::thread::spawn({
            let over = over.clone();
            move || {
                drop(first);
                over.raise();
            }
        });
        (0..1000).for_each(|_| std::thread::yield_now());
        assert!(!over.is_on(), "the thread is still with the provider");
        slow.let_go();
        dropping.join().expect("no panic");
        assert_eq!(requester.outcome(held), SUCCESS);
        let after = requester.request(Some(bond.pasid()), &[page(2)]);
        (0..1000).for_each(|_| std::thread::yield_now());
        assert_eq!(requester.outcome(after), None, "nobody is there");
        let _second = workers(&world, 2, 2);
        assert!(
            left.into_iter().chain([after]).all(|group| outcome_of(&requester, group) == SUCCESS)
        );
    });
}

// shows S3
#[test]
fn a_provider_that_panics_costs_its_group_and_no_thread() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let (_sound_space, sound_bond) = bound(&world, &requester);
        space.on_resolve(|_| panic!("a provider that cannot"));
        let workers = workers(&world, 1, 1);
        for n in 0..4 {
            let (broken, sound) = (
                requester.request(Some(bond.pasid()), &[page(n)]),
                requester.request(Some(sound_bond.pasid()), &[page(n)]),
            );
            assert_eq!(
                (outcome_of(&requester, broken), outcome_of(&requester, sound)),
                (INVALID, SUCCESS)
            );
        }
        assert_eq!((workers.threads(), world.pages_under_way()), (1, (0, 0)));
        drop(workers);
    });
}

const DEVICES: u8 = 3;
const SPACES: usize = 4;
const THREADS_EACH: u64 = 2;
const ACCESSES: usize = 400;

/// Every page of every space begins with this; nobody writes there.
fn mark(space: usize, number: u64) -> [u8; 8] {
    (0xc0ff_ee00_0000 | (space as u64) << 16 | number).to_le_bytes()
}

/// Where one thread of one device, and nobody else, writes in each page.
fn slot(device: u8, thread: u64) -> u64 {
    64 + (u64::from(device) * THREADS_EACH + thread) * 8
}

/// Reads marks, and writes and reads back what is this thread's own. Every other page is gone when
/// it comes there.
fn storm(
    port: &AtsPort,
    spaces: &[MemorySpace],
    pasids: &[Pasid],
    at: u64,
    random: &mut fastrand::Rng,
) {
    let mut written = vec![[0u64; 16]; pasids.len()];
    for step in 1..=ACCESSES as u64 {
        let (which, number) = (random.usize(..pasids.len()), random.u64(..16));
        let (pasid, address) = (Some(pasids[which]), page(number));
        if random.bool() {
            spaces[which].absent(address, PAGE);
        }
        let mut found = [0; 8];
        port.read(pasid, address, &mut found)
            .unwrap_or_else(|error| panic!("a mapped page: {error}"));
        assert_eq!(found, mark(which, number), "another page's bytes");
        let own = &mut written[which][number as usize];
        port.read(pasid, address + at, &mut found)
            .unwrap_or_else(|error| panic!("a mapped page: {error}"));
        assert_eq!(u64::from_le_bytes(found), *own, "a write was lost, or went elsewhere");
        *own = step;
        port.write(pasid, address + at, &step.to_le_bytes())
            .unwrap_or_else(|error| panic!("a mapped page: {error}"));
    }
}

// shows F1, F4, S3, T2, T3, U2
#[test]
fn a_storm_of_faults_from_all_devices_over_all_spaces_moves_every_byte_where_it_belongs() {
    let seed =
        std::env::var("SVA_STORM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5707);
    println!("seed {seed}; another one with SVA_STORM_SEED");
    watched(move || {
        let world = World::new();
        // Less credit than threads: one that waits for the other's answer must not miss it.
        let requesters: Vec<PageRequester> = (1..=DEVICES)
            .map(|n| world.requester(n, Capabilities { pri: Some(1), ..requesting() }))
            .collect();
        let spaces: Vec<MemorySpace> = (0..SPACES).map(|_| space()).collect();
        for (which, space) in spaces.iter().enumerate() {
            (0..16).for_each(|number| space.poke(page(number), &mark(which, number)));
            space.absent(page(0), 16 * PAGE);
        }
        let bonds: Vec<Vec<Bond<()>>> = requesters
            .iter()
            .map(|requester| {
                spaces.iter().map(|space| world.bind(&requester.device, space)).collect()
            })
            .collect();
        let workers = workers(&world, 2, 4);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (spaces, stop) = (&spaces, &stop);
            let mut threads = Vec::new();
            for (n, requester) in requesters.iter().enumerate() {
                let pasids: Vec<Pasid> = bonds[n].iter().map(Bond::pasid).collect();
                for thread in 0..THREADS_EACH {
                    let (port, pasids, at) =
                        (requester.port.clone(), pasids.clone(), slot(n as u8, thread));
                    let mut random = fastrand::Rng::with_seed(seed ^ at);
                    threads
                        .push(scope.spawn(move || storm(&port, spaces, &pasids, at, &mut random)));
                }
            }
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !stop.load(Ordering::Relaxed) {
                    let (space, number) = (&spaces[random.usize(..SPACES)], random.u64(..16));
                    match random.u8(..4) {
                        0 => space.replace(page(number), PAGE),
                        1 => space.absent(page(0), 16 * PAGE),
                        _ => space.absent(page(number), PAGE),
                    }
                    std::thread::yield_now();
                }
            });
            let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            stop.store(true, Ordering::Relaxed);
            ended
                .into_iter()
                .for_each(|thread| thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
        for bond in bonds.into_iter().flatten() {
            assert!(!bond.unbind().deferred);
        }
        drop(workers);
        let counts = world.iommu.page_queue_counts();
        assert!(counts.groups >= 1000, "a storm: {counts:?}");
        assert_eq!(
            (counts.succeeded, counts.requests),
            (counts.groups, counts.groups),
            "{counts:?}"
        );
        assert_eq!((counts.lost, counts.late_answers, counts.overflows), (0, 0, 0));
        for requester in &requesters {
            let own = requester.device.page_request_counts();
            assert_eq!((own.responses, own.unexpected), (own.requests, 0));
            world.iommu.remove(&requester.device, Removal::Orderly).expect("plugged");
        }
        for (which, space) in spaces.iter().enumerate() {
            (0..16).for_each(|number| assert_eq!(space.peek(page(number), 8), mark(which, number)));
            assert_eq!((space.watches(), space.changes_under_way()), (0, 0));
        }
        assert_eq!(world.iommu.object_counts(), sva_core::event::ObjectCounts::default());
    });
}
