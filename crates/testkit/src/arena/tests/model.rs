//! Any history of an arena against the slow reference: the same bytes, permissions and stops, and
//! as much memory as is mapped.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::MemorySpace;

/// Pages of the universe; not a power of two.
const PAGES: u64 = 20;
/// Pages of the arena: enough for a change that needs as many again for a time, so tight that free
/// pages are scattered.
const ARENA: u64 = 2 * PAGES + 1;

#[derive(Debug, Clone)]
enum Step {
    Map(Range<u64>, Protection),
    Unmap(Range<u64>),
    Protect(Range<u64>, Protection),
    Remap(Range<u64>, u64),
    Replace(Range<u64>),
    Absent(Range<u64>),
    Present(Range<u64>),
    Resolve(u64, Access),
    Poke(Range<u64>, u8),
    Write(u64, u64, u8, Access),
    InPlace(u64, u8),
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..PAGES, 1..=PAGES).prop_map(|(first, len)| first..PAGES.min(first + len))
}

fn protection() -> impl Strategy<Value = Protection> {
    let any = any::<(bool, bool, bool, bool)>();
    let some = any.prop_map(|(read, write, execute, privileged)| Protection {
        read,
        write,
        execute,
        privileged,
    });
    prop_oneof![3 => Just(Protection::READ_WRITE), 1 => Just(Protection::READ), 1 => some]
}

fn access(access: Access) -> impl Strategy<Value = Access> {
    any::<(bool, bool)>().prop_map(move |(privileged, stop)| {
        let access = if privileged { access | Access::PRIVILEGED } else { access };
        if stop { access.present_only() } else { access }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (range(), protection()).prop_map(|(range, protection)| Step::Map(range, protection)),
        2 => range().prop_map(Step::Unmap),
        2 => (range(), protection())
            .prop_map(|(range, protection)| Step::Protect(range, protection)),
        2 => (range(), 0..PAGES).prop_map(|(range, to)| Step::Remap(range, to)),
        2 => range().prop_map(Step::Replace),
        2 => range().prop_map(Step::Absent),
        1 => range().prop_map(Step::Present),
        2 => (0..PAGES, access(Access::WRITE))
            .prop_map(|(page, access)| Step::Resolve(page, access)),
        3 => (range(), any::<u8>()).prop_map(|(range, byte)| Step::Poke(range, byte)),
        3 => (0..PAGES * PAGE, 1..4 * PAGE, any::<u8>(), access(Access::WRITE))
            .prop_map(|(at, len, byte, access)| Step::Write(at, len, byte, access)),
        3 => (0..PAGES * PAGE, any::<u8>()).prop_map(|(at, byte)| Step::InPlace(at, byte)),
    ]
}

fn at(range: &Range<u64>) -> (u64, u64) {
    (BASE + range.start * PAGE, (range.end - range.start) * PAGE)
}

struct Pair {
    arena: ArenaSpace,
    reference: MemorySpace,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            arena: ArenaSpace::new(ARENA * PAGE).poisoning(),
            reference: MemorySpace::new(),
        };
        // One page at a time, so that both name the same ranges whatever frames they have.
        pair.reference.largest_translation(12);
        pair
    }

    fn step(&self, step: &Step) {
        let (arena, reference) = (&self.arena, &self.reference);
        match step {
            Step::Map(range, protection) => {
                // A change needs its memory before it frees what was there.
                arena.map(at(range).0, at(range).1, *protection);
                reference.map(at(range).0, at(range).1, *protection);
            }
            Step::Unmap(range) => {
                arena.unmap(at(range).0, at(range).1);
                reference.unmap(at(range).0, at(range).1);
            }
            Step::Protect(range, protection) => {
                arena.protect(at(range).0, at(range).1, *protection);
                reference.protect(at(range).0, at(range).1, *protection);
            }
            Step::Remap(range, to) => {
                let len = range.end - range.start;
                if to + len <= PAGES && (*to >= range.end || range.start >= to + len) {
                    arena.remap(at(range).0, at(range).1, BASE + to * PAGE);
                    reference.remap(at(range).0, at(range).1, BASE + to * PAGE);
                }
            }
            Step::Replace(range) => {
                arena.replace(at(range).0, at(range).1);
                reference.replace(at(range).0, at(range).1);
            }
            Step::Absent(range) => self.absent(range),
            Step::Present(range) => {
                arena.present(at(range).0, at(range).1);
                reference.present(at(range).0, at(range).1);
            }
            other => self.access(other),
        }
    }

    /// The reference keeps what is in an absent page; as an arena does not, it is cleared there
    /// first.
    fn absent(&self, range: &Range<u64>) {
        for page in range
            .clone()
            .filter(|page| self.reference.handle().translate(BASE + page * PAGE, true).is_ok())
        {
            self.reference.poke(BASE + page * PAGE, &[0; PAGE as usize]);
        }
        self.arena.absent(at(range).0, at(range).1);
        self.reference.absent(at(range).0, at(range).1);
    }

    fn access(&self, step: &Step) {
        let (arena, reference) = (self.arena.handle(), self.reference.handle());
        match step {
            Step::Resolve(page, access) => {
                let outcomes = [&arena, &reference].map(|space| {
                    space.resolve(BASE + page * PAGE, *access).map_err(|cause| cause.to_string())
                });
                assert_eq!(outcomes[0], outcomes[1]);
            }
            Step::Poke(range, byte) => {
                for page in range.clone().filter(|page| {
                    !matches!(arena.extent(BASE + page * PAGE, true), Err(StopCause::NotMapped))
                }) {
                    self.arena.poke(BASE + page * PAGE, &[*byte; PAGE as usize]);
                    self.reference.poke(BASE + page * PAGE, &[*byte; PAGE as usize]);
                }
            }
            Step::Write(at, len, byte, access) => {
                let pieces = [
                    piece(BASE + at, *len),
                    piece(BASE + PAGES * PAGE / 2, 0),
                    piece(BASE + at / 2, 100),
                ];
                let data: Vec<u8> =
                    (0..len + 100).map(|at| (at as u8).wrapping_add(*byte)).collect();
                let outcomes =
                    [&arena, &reference].map(|space| outcome(space.write(&pieces, &data, *access)));
                assert_eq!(outcomes[0], outcomes[1]);
            }
            Step::InPlace(at, byte) => {
                let Ok(Some(extent)) = arena.extent(BASE + at, true) else { return };
                let frame = extent.frame.offset(BASE + at - extent.range.first()).expect("inside");
                arena.memory(frame, 1, true).expect("inside").copy_from(&[*byte]);
                self.reference.poke(BASE + at, &[*byte]);
            }
            other => unreachable!("{other:?} is a change"),
        }
    }

    fn check(&self) {
        let (arena, reference) = (self.arena.handle(), self.reference.handle());
        let mut mapped = 0;
        for page in 0..PAGES {
            let address = BASE + page * PAGE;
            for privileged in [false, true] {
                let [one, two] = [&arena, &reference].map(|space| {
                    space.translate(address, privileged).map_err(|cause| cause.to_string())
                });
                assert_eq!(
                    one.as_ref().map(|one| one.permissions),
                    two.as_ref().map(|two| two.permissions),
                    "page {page}"
                );
                let extent = arena.extent(address, privileged);
                assert_eq!(
                    extent.as_ref().ok().map(|extent| extent.expect("named").permissions),
                    one.ok().map(|one| one.permissions)
                );
                let Ok(Some(extent)) = extent else { continue };
                self.check_extent(address, extent, privileged);
            }
            if !matches!(arena.extent(address, true), Err(StopCause::NotMapped)) {
                mapped += 1;
                assert_eq!(
                    self.arena.peek(address, PAGE as usize),
                    self.reference.peek(address, PAGE as usize),
                    "page {page}"
                );
            }
            let reads = [&arena, &reference].map(|space| {
                let mut buf = vec![0; 3 * PAGE as usize];
                let read = space.read(
                    &[piece(address + 1000, 3 * PAGE)],
                    &mut buf,
                    Access::READ.present_only(),
                );
                (outcome(read), buf)
            });
            assert_eq!(reads[0], reads[1], "page {page}");
        }
        let windows = [pages(0, PAGES)];
        assert_eq!(
            arena.mapped_within(&windows).expect("asks nobody"),
            reference.mapped_within(&windows).expect("asks nobody")
        );
        assert_eq!(self.arena.free(), (ARENA - mapped) * PAGE, "as much memory as is mapped");
        assert_eq!((self.arena.changes_under_way(), self.arena.stale_write()), (0, None));
    }

    /// An extent holds the address, is as large as it can be, and leads to the memory that accesses
    /// by address see.
    fn check_extent(&self, address: u64, extent: Extent, privileged: bool) {
        let arena = self.arena.handle();
        assert!(extent.range.contains(address));
        for edge in [extent.range.first().wrapping_sub(1), extent.range.last().wrapping_add(1)] {
            let Ok(Some(beside)) = arena.extent(edge, privileged) else { continue };
            let contiguous = beside.frame.0.wrapping_sub(beside.range.first())
                == extent.frame.0.wrapping_sub(extent.range.first());
            let compared = [false, true].map(|privileged| {
                let both = [edge, address].map(|address| {
                    arena.extent(address, privileged).expect("present").expect("named").permissions
                });
                (both[0] == both[1], both[0].is_empty())
            });
            let (alike, permit_nothing) =
                (compared.map(|(alike, _)| alike), compared.map(|(_, nothing)| nothing));
            // Protections that permit nothing may differ in their privilege, which no access sees.
            assert!(
                !contiguous || alike != [true, true] || permit_nothing == [true, true],
                "{} and {} are one extent",
                extent.range,
                beside.range
            );
        }
        let frame = extent.frame.offset(address - extent.range.first()).expect("inside");
        assert_eq!(in_place(&self.arena, frame, 8), self.arena.peek(address, 8));
        let translation = arena.translate(address, privileged).expect("present");
        assert!(extent.range.covers(translation.range.range()));
        let Some(first) = translation.frame else { return };
        assert_eq!(first.offset(address - translation.range.first()), Some(frame));
    }
}

fn outcome(outcome: Result<(), Stopped>) -> Result<(), (u64, String)> {
    outcome.map_err(|stopped| (stopped.done, stopped.cause.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // shows T1, T5
    #[test]
    fn any_history_of_an_arena_is_one_of_the_reference(
        steps in prop::collection::vec(step(), 1..50)
    ) {
        let pair = Pair::new();
        for step in &steps {
            pair.step(step);
            pair.check();
        }
        pair.arena.unmap(BASE, PAGES * PAGE);
        prop_assert_eq!(pair.arena.free(), ARENA * PAGE);
    }
}
