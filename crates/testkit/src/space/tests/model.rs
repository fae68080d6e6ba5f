//! Any history of a space against a model that is a list of pages: what each means, what is in it,
//! what each change took.

mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;
use sva_core::Access;

use super::*;
use run::Run;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // shows T1, T2, T4
    #[test]
    fn any_history_translates_as_the_model_does_and_leaves_nothing(
        steps in prop::collection::vec(step(), 1..50)
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        run.end();
    }
}
