//! A device that accesses an arena in place, by way of what the IOMMU has kept of it, while the
//! arena changes (rules T1 to T6, U2, U4).

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use sva_core::{
    Access, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, DmaError, DmaPort, EndReason,
    FaultReason, Iommu, IommuConfig, Pasid, PasidWidth, Plug, Segment,
};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_testkit::ArenaChange;
use sva_testkit::{ArenaSpace, FlatTopology, PAGE, Protection};

const BASE: u64 = 0x7000_0000_0000;
const PAGES: usize = 4;
const ALL: u64 = PAGES as u64 * PAGE;
/// The owner goes on until it has made so many changes, and each device until the owner is through.
const ROUNDS: u32 = 2000;
/// For what comes at once unless something is wrong.
const LONG: Duration = Duration::from_secs(60);

struct System {
    /// Before the device, so that it is unbound first.
    bond: Bond<()>,
    device: Device,
    _iommu: Iommu,
    space: ArenaSpace,
}

impl System {
    fn new(space: ArenaSpace) -> Self {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
        let device = iommu.plug(Plug::new(spec)).expect("free").device;
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
        Self { bond, device, _iommu: iommu, space }
    }

    fn pasid(&self) -> Pasid {
        self.bond.pasid()
    }

    fn read(
        &self,
        port: &DmaPort,
        address: u64,
        len: usize,
    ) -> Result<Vec<u8>, (u64, FaultReason)> {
        let mut buf = vec![0xaa; len];
        port.read(Some(self.pasid()), address, &mut buf).map(|()| buf).map_err(fault)
    }

    fn write(&self, port: &DmaPort, address: u64, data: &[u8]) -> Result<(), (u64, FaultReason)> {
        port.write(Some(self.pasid()), address, data).map_err(fault)
    }

    /// Whether an access there would find a translation that is kept.
    fn keeps(&self, port: &DmaPort, address: u64) -> bool {
        port.cached_translation(self.pasid(), address, Access::READ).is_some()
    }
}

fn fault(error: DmaError) -> (u64, FaultReason) {
    (error.done, error.fault().expect("no host failure").reason)
}

// shows T1, T4, T5
#[test]
fn an_access_by_what_is_kept_is_one_by_address() {
    let system = System::new(ArenaSpace::new(1 << 22).poisoning());
    let (space, port) = (&system.space, system.device.port());
    space.map(BASE, ALL, Protection::READ_WRITE);
    let bytes: Vec<u8> = (0..ALL).map(|at| (at % 251) as u8).collect();
    space.poke(BASE, &bytes);
    assert!(!system.keeps(&port, BASE));
    for _ in 0..3 {
        assert_eq!(
            system.read(&port, BASE + 5, 3 * PAGE as usize),
            Ok(bytes[5..5 + 3 * PAGE as usize].to_vec())
        );
        assert!(
            system.keeps(&port, BASE) && system.keeps(&port, BASE + ALL - 1),
            "an extent is cached as a whole"
        );
    }
    system.write(&port, BASE + PAGE - 1, &[1, 2]).expect("mapped");
    assert_eq!(
        space.peek(BASE + PAGE - 2, 4),
        [bytes[PAGE as usize - 2], 1, 2, bytes[PAGE as usize + 1]]
    );
    space.protect(BASE + 2 * PAGE, PAGE, Protection::READ);
    assert!(!system.keeps(&port, BASE + 2 * PAGE));
    for _ in 0..2 {
        assert_eq!(
            system.write(&port, BASE, &[7; ALL as usize]),
            Err((2 * PAGE, FaultReason::Denied))
        );
        assert_eq!(system.read(&port, BASE + ALL - 3, 4), Err((3, FaultReason::NotMapped)));
    }
    assert_eq!(space.peek(BASE + 2 * PAGE - 1, 2), [7, bytes[2 * PAGE as usize]]);
    space.unmap(BASE + PAGE, PAGE);
    assert_eq!(system.read(&port, BASE, 2 * PAGE as usize), Err((PAGE, FaultReason::NotMapped)));
    space.absent(BASE, PAGE);
    assert_eq!(system.read(&port, BASE, 4), Ok(vec![0; 4]));
    assert_eq!(space.stale_write(), None);
}

// shows T2, T3, U4
#[test]
fn each_change_of_an_arena_takes_away_what_was_kept_of_it() {
    type Step = fn(&ArenaSpace);
    let changes: [(&str, Step, Result<u8, FaultReason>); 6] = [
        ("unmap", |space| space.unmap(BASE, ALL), Err(FaultReason::NotMapped)),
        ("map", |space| space.map(BASE, ALL, Protection::READ), Ok(0)),
        ("protect", |space| space.protect(BASE, ALL, Protection::NONE), Err(FaultReason::Denied)),
        ("remap", |space| space.remap(BASE, ALL, BASE + ALL), Err(FaultReason::NotMapped)),
        ("replace", |space| space.replace(BASE, ALL), Ok(7)),
        ("end", |space| space.end(EndReason::Closed), Err(FaultReason::SpaceEnded)),
    ];
    for (name, change, expected) in changes {
        let system = System::new(ArenaSpace::new(1 << 22).poisoning());
        let (space, port) = (&system.space, system.device.port());
        space.map(BASE, ALL, Protection::READ_WRITE);
        space.poke(BASE, &[7; ALL as usize]);
        assert_eq!(system.read(&port, BASE, ALL as usize), Ok(vec![7; ALL as usize]));
        assert!(system.keeps(&port, BASE));
        change(space);
        assert!(!system.keeps(&port, BASE) && !system.keeps(&port, BASE + ALL - 1), "{name}");
        let expected = expected.map(|byte| vec![byte; 2]).map_err(|reason| (0, reason));
        assert_eq!(system.read(&port, BASE, 2), expected, "{name}");
    }
}

// shows T2
#[test]
fn changes_that_are_joined_take_all_away_when_they_have_begun() {
    let system = System::new(ArenaSpace::new(1 << 22).poisoning());
    let (space, port) = (&system.space, system.device.port());
    space.map(BASE, ALL, Protection::READ_WRITE);
    system.read(&port, BASE, ALL as usize).expect("mapped");
    let joined = (0..PAGES as u64)
        .map(|page| space.begin_unmap(BASE + page * PAGE, PAGE))
        .reduce(ArenaChange::and)
        .expect("some");
    assert_eq!(system.read(&port, BASE, 1), Err((0, FaultReason::NotMapped)));
    joined.finish();
    assert_eq!((space.free(), space.changes_under_way()), (1 << 22, 0));
}

// shows T2
#[test]
fn memory_that_a_device_has_in_hand_is_not_freed_before_it_lets_go() {
    let system = System::new(ArenaSpace::new(1 << 20).poisoning());
    system.space.map(BASE, ALL, Protection::READ_WRITE);
    system.space.poke(BASE, &[7; ALL as usize]);
    let ((entered, has_entered), (let_go, may_let_go)) = (mpsc::channel(), mpsc::channel());
    let seen = thread::scope(|scope| {
        let system = &system;
        let device = scope.spawn(move || {
            let (port, piece) = (system.device.port(), Segment { address: BASE, len: ALL });
            port.with_memory(Some(system.pasid()), piece, Access::READ, |slices| {
                entered.send(()).expect("somebody waits");
                may_let_go.recv_timeout(LONG).expect("somebody says so");
                let mut bytes = vec![0u8; ALL as usize];
                slices[0].copy_to(&mut bytes);
                bytes
            })
        });
        has_entered.recv_timeout(LONG).expect("it is in place");
        let change = system.space.begin_unmap(BASE, ALL);
        assert!(!change.is_over());
        scope.spawn(move || {
            // Time for a change that does not wait to free the memory; one that waits is right
            // however long this is.
            thread::sleep(Duration::from_millis(50));
            let_go.send(()).expect("the device waits");
        });
        change.finish();
        device.join().expect("no panic")
    });
    assert!(seen.expect("mapped").iter().all(|byte| *byte == 7));
    assert_eq!((system.space.free(), system.space.stale_write()), (1 << 20, None));
}

/// What one page holds in every word: its number, and the round in which it was mapped.
fn canary(page: usize, round: u32) -> u64 {
    (page as u64 + 1) << 32 | u64::from(round)
}

/// Words of a page as accesses see them, and the first round that may still be seen of it.
#[derive(Default)]
struct Oldest([AtomicU64; PAGES]);

impl Oldest {
    fn check(&self, page: usize, from: u64, words: &[u8]) -> Result<(), String> {
        for word in words
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
        {
            if word != 0 && (word >> 32 != page as u64 + 1 || word & u64::from(u32::MAX) < from) {
                return Err(format!(
                    "page {page} held {word:#x}, where the oldest is of round {from}"
                ));
            }
        }
        Ok(())
    }
}

/// Reads, or writes what no reader objects to. Answers how many accesses found something kept.
fn live(system: &System, oldest: &Oldest, over: &AtomicBool, writes: bool) -> Result<u64, String> {
    let port = system.device.port();
    let mut hits = 0;
    while !over.load(Ordering::Relaxed) {
        for page in 0..PAGES {
            let (address, from) =
                (BASE + page as u64 * PAGE, oldest.0[page].load(Ordering::SeqCst));
            let kept = system.keeps(&port, address);
            let done = if writes {
                let data = canary(page, u32::MAX).to_ne_bytes().repeat(32);
                system.write(&port, address + 256, &data)
            } else {
                let read = system.read(&port, address, PAGE as usize);
                read.as_ref().map_or(Ok(()), |words| oldest.check(page, from, words))?;
                read.map(drop)
            };
            hits += u64::from(kept && done.is_ok());
        }
    }
    Ok(hits)
}

fn change(space: &ArenaSpace, round: u32, oldest: &Oldest) {
    let page = round as usize % PAGES;
    let address = BASE + page as u64 * PAGE;
    match round / PAGES as u32 % 4 {
        0 => space.unmap(address, PAGE),
        1 => space.absent(address, PAGE),
        2 => space.replace(BASE, ALL),
        _ => space.remap(address, PAGE, BASE + 64 * PAGE),
    }
    space.map(address, PAGE, Protection::READ_WRITE);
    oldest.0[page].store(u64::from(round), Ordering::SeqCst);
    space.poke(address, &canary(page, round).to_ne_bytes().repeat(PAGE as usize / 8));
    // The devices get their turn with what is kept.
    thread::yield_now();
}

// shows T2, T3
#[test]
fn no_device_sees_or_touches_memory_that_has_found_another_use() {
    // As few pages as there can be, so that each is used again at once.
    let system = System::new(ArenaSpace::new((2 * PAGES as u64 + 1) * PAGE).poisoning());
    let (oldest, over) = (Oldest::default(), AtomicBool::default());
    let hits = thread::scope(|scope| {
        let devices = [false, true].map(|writes| {
            let (system, oldest, over) = (&system, &oldest, &over);
            scope.spawn(move || live(system, oldest, over, writes))
        });
        for round in 0..ROUNDS {
            change(&system.space, round, &oldest);
        }
        over.store(true, Ordering::Relaxed);
        devices.map(|device| device.join().expect("no panic"))
    });
    for hits in hits {
        assert!(hits.expect("no stale word") > 0, "something was kept between the changes");
    }
    assert_eq!((system.space.stale_write(), system.space.changes_under_way()), (None, 0));
}

// shows T6
#[test]
fn no_atomic_operation_is_lost_while_the_memory_moves() {
    const ADDED: u64 = 3000;
    let system = System::new(ArenaSpace::new(1 << 20).poisoning());
    system.space.map(BASE, ALL, Protection::READ_WRITE);
    thread::scope(|scope| {
        let adders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let port = system.device.port();
                    (0..ADDED).try_for_each(|turn| {
                        port.fetch_add(
                            Some(system.pasid()),
                            BASE + turn % PAGES as u64 * PAGE,
                            1u64,
                        )
                        .map(drop)
                    })
                })
            })
            .collect();
        for _ in 0..1_000_000 {
            if adders.iter().all(|adder| adder.is_finished()) {
                break;
            }
            system.space.replace(BASE, ALL);
            thread::yield_now();
        }
        adders.into_iter().for_each(|adder| adder.join().expect("no panic").expect("in place"));
    });
    let sum = (0..PAGES as u64).map(|page| system.space.peek(BASE + page * PAGE, 8));
    let sum: u64 = sum.map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).sum();
    assert_eq!((sum, system.space.stale_write()), (2 * ADDED, None));
}

// shows U2
#[test]
fn a_device_that_is_unbound_does_not_touch_what_it_wrote_a_moment_ago() {
    let System { bond, device, _iommu, space } = System::new(ArenaSpace::new(1 << 20));
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let (pasid, over) = (bond.pasid(), AtomicBool::default());
    let begun = AtomicU64::new(0);
    let after = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let port = device.port();
            while !over.load(Ordering::Relaxed) {
                let _ = port.write(Some(pasid), BASE, &[7; PAGE as usize]);
                begun.fetch_add(1, Ordering::Relaxed);
            }
        });
        let turns = |count: u64| {
            let from = begun.load(Ordering::Relaxed);
            while begun.load(Ordering::Relaxed) < from + count && !writer.is_finished() {
                thread::yield_now();
            }
        };
        turns(100);
        assert_eq!(space.peek(BASE, 1), [7]);
        let _ = bond.unbind();
        space.poke(BASE, &[1; PAGE as usize]);
        turns(100);
        over.store(true, Ordering::Relaxed);
        space.peek(BASE, PAGE as usize)
    });
    assert_eq!(after, [1; PAGE as usize]);
}
