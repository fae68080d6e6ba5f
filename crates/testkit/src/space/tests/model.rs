//! Any history of a space against a model that is a list of pages: what each means, what is in it,
//! what each change took.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;
use sva_core::Access;

use super::*;

/// Pages of the universe; not a power of two.
const PAGES: u64 = 20;

#[derive(Debug, Clone)]
enum Step {
    Map(Range<u64>, Protection),
    Unmap(Range<u64>),
    Protect(Range<u64>, Protection),
    Remap(Range<u64>, u64),
    Replace(Range<u64>),
    Absent(Range<u64>),
    Resolve(u64),
    Write(u64, u8),
    WriteFrame(usize, u8),
    Finish(usize),
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..PAGES, 1..=PAGES).prop_map(|(first, len)| first..PAGES.min(first + len))
}

/// Can mostly be moved without touching itself.
fn short() -> impl Strategy<Value = Range<u64>> {
    (0..PAGES, 1..=PAGES / 3).prop_map(|(first, len)| first..PAGES.min(first + len))
}

fn protection() -> impl Strategy<Value = Protection> {
    let any = any::<(bool, bool, bool, bool)>();
    let some = any.prop_map(|(read, write, execute, privileged)| Protection {
        read,
        write,
        execute,
        privileged,
    });
    prop_oneof![2 => Just(Protection::READ_WRITE), 1 => Just(Protection::READ), 2 => some]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (range(), protection()).prop_map(|(range, protection)| Step::Map(range, protection)),
        1 => range().prop_map(Step::Unmap),
        2 => (range(), protection())
            .prop_map(|(range, protection)| Step::Protect(range, protection)),
        3 => (short(), 0..PAGES).prop_map(|(range, to)| Step::Remap(range, to)),
        2 => range().prop_map(Step::Replace),
        2 => range().prop_map(Step::Absent),
        2 => (0..PAGES).prop_map(Step::Resolve),
        2 => (0..PAGES, any::<u8>()).prop_map(|(page, byte)| Step::Write(page, byte)),
        2 => any::<(usize, u8)>().prop_map(|(frame, byte)| Step::WriteFrame(frame, byte)),
        4 => any::<usize>().prop_map(Step::Finish),
    ]
}

/// A frame: which step made it, for which page. Frames of one step are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    step: u64,
    page: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    frame: Made,
    protection: Protection,
    present: bool,
}

#[derive(Default)]
struct Taken {
    ranges: Vec<Range<u64>>,
    old: BTreeMap<u64, Page>,
    freed: Vec<Made>,
}

#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    /// Frame, dead or alive -> the frame whose contents it shares.
    same_as: BTreeMap<Made, Made>,
    contents: BTreeMap<Made, u8>,
    under_way: Vec<Taken>,
    /// Which frames were ever at which page.
    history: BTreeSet<(u64, Made)>,
    steps: u64,
}

impl Model {
    fn unmap(&mut self, range: &Range<u64>, taken: &mut Taken) {
        taken.ranges.push(range.clone());
        for page in range.clone() {
            let Some(old) = self.pages.remove(&page) else { continue };
            taken.freed.push(old.frame);
            taken.old.extend(old.present.then_some((page, old)));
        }
    }

    fn renew(&mut self, range: &Range<u64>, present: bool, taken: &mut Taken) {
        taken.ranges.push(range.clone());
        for page in range.clone() {
            let Some(old) = self.pages.get(&page).copied().filter(|old| old.present) else {
                continue;
            };
            let frame = Made { step: self.steps, page };
            self.same_as.insert(frame, self.same_as[&old.frame]);
            self.pages.insert(page, Page { frame, present, ..old });
            taken.freed.push(old.frame);
            taken.old.insert(page, old);
        }
    }

    /// Makes the change; answers the ranges that the watchers are to hear of.
    fn change(&mut self, step: &Step) -> Vec<Range<u64>> {
        let mut taken = Taken::default();
        match step {
            Step::Map(range, protection) => {
                self.unmap(range, &mut taken);
                for page in range.clone() {
                    let frame = Made { step: self.steps, page };
                    self.same_as.insert(frame, frame);
                    self.pages.insert(page, Page { frame, protection: *protection, present: true });
                }
            }
            Step::Unmap(range) => self.unmap(range, &mut taken),
            Step::Protect(range, protection) => {
                taken.ranges.push(range.clone());
                for page in range.clone() {
                    let Some(entry) = self.pages.get_mut(&page) else { continue };
                    if entry.present
                        && accesses().any(|access| {
                            entry.protection.permits(access) && !protection.permits(access)
                        })
                    {
                        taken.old.insert(page, *entry);
                    }
                    entry.protection = *protection;
                }
            }
            Step::Remap(range, to) => {
                self.unmap(&(*to..to + range.end - range.start), &mut taken);
                taken.ranges.push(range.clone());
                for page in range.clone() {
                    let Some(entry) = self.pages.remove(&page) else { continue };
                    taken.old.extend(entry.present.then_some((page, entry)));
                    self.pages.insert(page - range.start + to, entry);
                }
            }
            Step::Replace(range) => self.renew(range, true, &mut taken),
            Step::Absent(range) => self.renew(range, false, &mut taken),
            _ => unreachable!("not a change"),
        }
        let to_tell = |range: &Range<u64>| {
            let touches = |taken: &Taken| range.clone().any(|page| taken.old.contains_key(&page));
            touches(&taken) || self.under_way.iter().any(touches)
        };
        let told = taken.ranges.iter().filter(|range| to_tell(range)).cloned().collect();
        self.under_way.push(taken);
        told
    }

    fn finish(&mut self, at: usize) {
        let mut over = self.under_way.remove(at);
        for earlier in self.under_way[..at].iter_mut().rev() {
            earlier.old.retain(|page, _| !over.ranges.iter().any(|range| range.contains(page)));
            let in_use = over
                .freed
                .extract_if(.., |frame| earlier.old.values().any(|old| old.frame == *frame));
            earlier.freed.extend(in_use);
        }
    }

    fn is_live(&self, frame: Made) -> bool {
        self.pages.values().any(|page| page.frame == frame)
            || self.under_way.iter().any(|taken| taken.freed.contains(&frame))
    }

    fn permits(&self, page: u64, access: Access, frame: Made) -> bool {
        let now = self.pages.get(&page).filter(|entry| entry.present);
        let old = self.under_way.iter().filter_map(|taken| taken.old.get(&page));
        self.is_live(frame)
            && now
                .into_iter()
                .chain(old)
                .any(|entry| entry.frame == frame && entry.protection.permits(access))
    }

    /// The pages of the largest translation of a present page.
    fn alike(&self, page: u64) -> Range<u64> {
        let entry = self.pages[&page];
        let like = |other: u64| {
            let there = self.pages.get(&other);
            there.is_some_and(|there| {
                Page { frame: entry.frame, ..*there } == entry
                    && there.frame.step == entry.frame.step
            }) && there.is_some_and(|there| {
                there.frame.page.wrapping_sub(other) == entry.frame.page.wrapping_sub(page)
            })
        };
        let aligned = |size: u64| entry.frame.page.wrapping_sub(page).is_multiple_of(size);
        let around =
            [16, 8, 4, 2, 1].map(|size| (size, page / size * size..page / size * size + size));
        let mut fitting =
            around.into_iter().filter(|(size, block)| aligned(*size) && block.clone().all(like));
        fitting.next().expect("a page is like itself").1
    }
}

fn accesses() -> impl Iterator<Item = Access> {
    [Access::empty(), Access::PRIVILEGED]
        .into_iter()
        .flat_map(|access| [Access::READ, Access::WRITE, Access::EXECUTE].map(|kind| kind | access))
}

fn address(page: u64) -> u64 {
    BASE + page * PAGE
}

/// The real space beside the model.
struct Run {
    space: MemorySpace,
    handle: Arc<dyn AddressSpace>,
    watcher: Arc<Watcher>,
    changes: Vec<Change>,
    model: Model,
    /// Step -> what its frames' numbers are above their pages' addresses; learned from
    /// translations.
    bases: BTreeMap<u64, u64>,
}

impl Run {
    fn new() -> Self {
        let (space, watcher) = (MemorySpace::new(), Arc::new(Watcher::default()));
        let handle = space.handle();
        handle.watch(watcher.clone()).expect("alive");
        Self {
            space,
            handle,
            watcher,
            changes: Vec::new(),
            model: Model::default(),
            bases: BTreeMap::new(),
        }
    }

    fn frame(&self, frame: Made) -> Option<Frame> {
        Some(Frame(address(frame.page).wrapping_add(*self.bases.get(&frame.step)?)))
    }

    fn step(&mut self, step: &Step) {
        let at = |range: &Range<u64>| (address(range.start), (range.end - range.start) * PAGE);
        let begun = match step {
            Step::Map(range, protection) => {
                self.space.begin_map(at(range).0, at(range).1, *protection)
            }
            Step::Unmap(range) => self.space.begin_unmap(at(range).0, at(range).1),
            Step::Protect(range, protection) => {
                self.space.begin_protect(at(range).0, at(range).1, *protection)
            }
            Step::Remap(range, to) => {
                let len = range.end - range.start;
                if to + len > PAGES || (*to < range.end && range.start < to + len) {
                    return;
                }
                self.space.begin_remap(at(range).0, at(range).1, address(*to))
            }
            Step::Replace(range) => self.space.begin_replace(at(range).0, at(range).1),
            Step::Absent(range) => self.space.begin_absent(at(range).0, at(range).1),
            other => return self.access(other),
        };
        self.changes.push(begun);
        let told: Vec<_> = self
            .model
            .change(step)
            .iter()
            .map(|range| AddrRange::new(at(range).0, at(range).1).expect("pages"))
            .collect();
        assert_eq!(std::mem::take(&mut *self.watcher.invalidated.lock()), told);
    }

    fn access(&mut self, step: &Step) {
        match step {
            Step::Resolve(page) => {
                let entry = self
                    .model
                    .pages
                    .get_mut(page)
                    .filter(|entry| entry.protection.permits(Access::READ));
                let expected = entry.map(|entry| entry.present = true).is_some();
                assert_eq!(self.handle.resolve(address(*page), Access::READ).is_ok(), expected);
            }
            Step::Write(page, byte) => {
                let Some(entry) = self.model.pages.get(page) else { return };
                self.space.poke(address(*page), &[*byte; PAGE as usize]);
                self.model.contents.insert(self.model.same_as[&entry.frame], *byte);
            }
            Step::WriteFrame(nth, byte) if !self.model.same_as.is_empty() => {
                let (made, same_as) = self
                    .model
                    .same_as
                    .iter()
                    .nth(nth % self.model.same_as.len())
                    .expect("in range");
                let Some(frame) = self.frame(*made) else { return };
                let written = self.handle.write_frame(frame, &[*byte; PAGE as usize]);
                assert_eq!(written.is_ok(), self.model.is_live(*made), "{made:?}");
                if written.is_ok() {
                    self.model.contents.insert(*same_as, *byte);
                }
            }
            Step::Finish(nth) if !self.changes.is_empty() => {
                let nth = nth % self.changes.len();
                self.changes.remove(nth).finish();
                self.model.finish(nth);
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        for page in 0..PAGES {
            self.check_translation(page);
        }
        for &(page, made) in &self.model.history {
            let frame = self.frame(made).expect("seen");
            for access in accesses() {
                let (real, expected) = (
                    self.space.audit(address(page) + 1, access, Frame(frame.0 + 1)),
                    self.model.permits(page, access, made),
                );
                assert_eq!(real.is_ok(), expected, "page {page}, {made:?}, {access:?}: {real:?}");
            }
        }
        for (made, same_as) in &self.model.same_as {
            let Some(frame) = self.frame(*made) else { continue };
            let mut buf = [0; PAGE as usize];
            let real = self
                .handle
                .read_frame(frame, &mut buf)
                .map(|()| [buf[0], buf[PAGE as usize - 1]])
                .ok();
            let expected = self.model.contents.get(same_as).copied().unwrap_or(0);
            assert_eq!(real, self.model.is_live(*made).then_some([expected; 2]), "{made:?}");
        }
        let live: BTreeSet<_> =
            self.model.same_as.keys().filter(|made| self.model.is_live(**made)).collect();
        assert_eq!(
            (self.space.frames(), self.space.changes_under_way()),
            (live.len() as u64, self.changes.len())
        );
    }

    fn check_translation(&mut self, page: u64) {
        let entry = self.model.pages.get(&page).copied();
        for privileged in [false, true] {
            let (real, entry) = match (self.handle.translate(address(page) + 17, privileged), entry)
            {
                (Err(StopCause::NotMapped), None) => return,
                (Err(StopCause::NotPresent), Some(Page { present: false, .. })) => return,
                (Ok(real), Some(entry @ Page { present: true, .. })) => (real, entry),
                (real, expected) => {
                    panic!("page {page}: {real:?} where the model has {expected:?}")
                }
            };
            let alike = self.model.alike(page);
            assert_eq!(
                (real.range.first(), real.range.last()),
                (address(alike.start), address(alike.end) - 1),
                "page {page}: {entry:?}"
            );
            assert_eq!(real.permissions, entry.protection.permissions(privileged));
            assert_eq!(real.frame.is_some(), !real.permissions.is_empty());
            let Some(Frame(frame)) = real.frame else { continue };
            let base = frame
                .wrapping_add(address(page) - address(alike.start))
                .wrapping_sub(address(entry.frame.page));
            assert_eq!(
                *self.bases.entry(entry.frame.step).or_insert(base),
                base,
                "the frames of a step are contiguous and stay"
            );
            self.model.history.insert((page, entry.frame));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // shows T1, T2, T4
    #[test]
    fn any_history_translates_as_the_model_does_and_leaves_nothing(
        steps in prop::collection::vec(step(), 1..50)
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.model.steps += 1;
            run.step(step);
            run.check();
        }
        let made = run.model.same_as.keys();
        let numbers: BTreeSet<_> = made.filter_map(|made| Some(run.frame(*made)?.0)).collect();
        let known = run.model.same_as.keys().filter(|made| run.frame(**made).is_some()).count();
        prop_assert_eq!(numbers.len(), known, "no number is given twice");
        prop_assert!(numbers.first().is_none_or(|first| *first >= 1 << 60));
        run.changes.clear();
        run.space.unmap(BASE, PAGES * PAGE);
        let stored = run.space.shared.memory.read().stored();
        prop_assert_eq!((run.space.frames(), run.space.changes_under_way(), stored), (0, 0, 0));
    }
}
