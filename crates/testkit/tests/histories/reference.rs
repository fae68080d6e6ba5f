//! The slow reference: what a space, the devices that access it, and its owner may do, one
//! operation after the other.
//!
//! An operation takes effect at one point between its call and its return. A change that takes
//! something away may be seen by one access and not yet by the next as long as it has not returned
//! (rule T2): so what it took can be used until then, and not after. Moving a page to other memory
//! changes nothing that anybody could see.

use std::collections::BTreeMap;
use std::ops::Range;

use sva_core::{Access, FaultReason};
use sva_testkit::Protection;

/// So few that nearly everything meets, and as many as a run needs to be kept in one entry: a
/// quarter of 64 KiB.
pub(crate) const PAGES: usize = 4;

/// What is done to the first word of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Read,
    Write(u64),
    Add(u64),
    CompareExchange { expected: u64, new: u64 },
}

/// One operation; pages by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// An access of a device through its port.
    Device {
        page: usize,
        word: Word,
    },
    /// An access of the owner, which asks the table.
    Owner {
        page: usize,
        word: Word,
    },
    /// Zeros, in the place of whatever was there.
    Map {
        pages: Range<usize>,
        protection: Protection,
    },
    Unmap {
        pages: Range<usize>,
    },
    Protect {
        pages: Range<usize>,
        protection: Protection,
    },
    /// Drops the contents: zeros come back.
    Absent {
        pages: Range<usize>,
    },
    /// Moves the pages to other memory, at the same addresses.
    Replace {
        pages: Range<usize>,
    },
    /// Moves one page to another address.
    Remap {
        from: usize,
        to: usize,
    },
}

/// What an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// What was read, or was there before.
    Value(u64),
    Fault(FaultReason),
}

/// One operation as it went. The times are all different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) thread: usize,
    pub(crate) operation: Operation,
    pub(crate) called: u64,
    pub(crate) outcome: Outcome,
    pub(crate) returned: u64,
}

/// Memory of one page: the call that took it into use, and the page.
type Cell = (usize, usize);

/// What a page leads to, and what it permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct View {
    cell: Cell,
    protection: Protection,
}

/// What a page led to before a change that has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Old {
    page: usize,
    view: View,
    /// A bit for each thread whose change took it, or came after: with the return of the first of
    /// them nobody can use it any more.
    until: u32,
}

/// All that decides what can happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pages: [Option<View>; PAGES],
    old: Vec<Old>,
    words: BTreeMap<Cell, u64>,
}

impl State {
    /// All pages hold zeros, and permit reading and writing.
    pub(crate) fn new() -> Self {
        let view = |page| View { cell: (usize::MAX, page), protection: Protection::READ_WRITE };
        Self {
            pages: std::array::from_fn(|page| Some(view(page))),
            old: Vec::new(),
            words: (0..PAGES).map(|page| (view(page).cell, 0)).collect(),
        }
    }

    /// Where it can lead that the call with this number takes effect now, and comes to what it came
    /// to.
    pub(crate) fn effects(&self, number: usize, call: &Call) -> Vec<Self> {
        match &call.operation {
            Operation::Device { page, word } => self.access(*page, *word, true, call.outcome),
            Operation::Owner { page, word } => self.access(*page, *word, false, call.outcome),
            change => {
                let mut after = self.clone();
                after.change(number, call.thread, change);
                vec![after]
            }
        }
    }

    /// A thread's operation has returned.
    pub(crate) fn returned(mut self, thread: usize) -> Self {
        self.old.retain(|old| old.until & 1 << thread == 0);
        self.forget_words();
        self
    }

    fn access(&self, page: usize, word: Word, by_port: bool, outcome: Outcome) -> Vec<Self> {
        let refusal = match self.pages[page] {
            None => Some(FaultReason::NotMapped),
            Some(view) if !permissions(view, word) => Some(FaultReason::Denied),
            Some(_) => None,
        };
        if let Outcome::Fault(reason) = outcome {
            return if refusal == Some(reason) { vec![self.clone()] } else { Vec::new() };
        }
        let old = self.old.iter().filter(|old| by_port && old.page == page).map(|old| old.view);
        let views = self.pages[page].into_iter().chain(old).filter(|view| permissions(*view, word));
        views.filter_map(|view| self.access_by(view.cell, word, outcome)).collect()
    }

    fn access_by(&self, cell: Cell, word: Word, outcome: Outcome) -> Option<Self> {
        let before = self.words[&cell];
        let (expected, now) = match word {
            Word::Read => (Outcome::Value(before), before),
            Word::Write(value) => (Outcome::Done, value),
            Word::Add(value) => (Outcome::Value(before), before.wrapping_add(value)),
            Word::CompareExchange { expected, new } => {
                (Outcome::Value(before), if before == expected { new } else { before })
            }
        };
        let mut after = self.clone();
        after.words.insert(cell, now);
        (expected == outcome).then_some(after)
    }

    fn change(&mut self, number: usize, thread: usize, change: &Operation) {
        let touched = change.pages();
        if !matches!(change, Operation::Replace { .. }) {
            let taken = touched
                .iter()
                .filter_map(|page| Some(Old { page: *page, view: self.pages[*page]?, until: 0 }));
            self.old.extend(taken);
        }
        // Who changes what another is just changing may not return before what that took is out of
        // use.
        let overlapped = self.old.iter_mut().filter(|old| touched.contains(&old.page));
        overlapped.for_each(|old| old.until |= 1 << thread);
        match change {
            Operation::Map { pages, protection } => {
                pages.clone().for_each(|page| self.renew(number, page, *protection))
            }
            Operation::Unmap { pages } => self.pages[pages.clone()].fill(None),
            Operation::Protect { pages, protection } => {
                self.pages[pages.clone()]
                    .iter_mut()
                    .flatten()
                    .for_each(|view| view.protection = *protection);
            }
            Operation::Absent { pages } => {
                for page in pages.clone() {
                    if let Some(View { protection, .. }) = self.pages[page] {
                        self.renew(number, page, protection);
                    }
                }
            }
            Operation::Remap { from, to } => self.pages[*to] = self.pages[*from].take(),
            Operation::Replace { .. } | Operation::Device { .. } | Operation::Owner { .. } => {}
        }
        self.forget_words();
    }

    fn renew(&mut self, number: usize, page: usize, protection: Protection) {
        let cell = (number, page);
        self.words.insert(cell, 0);
        self.pages[page] = Some(View { cell, protection });
    }

    /// Those that nothing leads to: states that differ in nothing else are one.
    fn forget_words(&mut self) {
        let Self { pages, old, words } = self;
        words.retain(|cell, _| {
            pages
                .iter()
                .flatten()
                .chain(old.iter().map(|old| &old.view))
                .any(|view| view.cell == *cell)
        });
    }
}

fn permissions(view: View, word: Word) -> bool {
    let permissions = view.protection.permissions(false);
    match word {
        Word::Read => permissions.permit(Access::READ),
        Word::Write(_) => permissions.permit(Access::WRITE),
        Word::Add(_) | Word::CompareExchange { .. } => {
            permissions.permit(Access::READ) && permissions.permit(Access::WRITE)
        }
    }
}

impl Operation {
    /// The pages that it is about.
    pub(crate) fn pages(&self) -> Vec<usize> {
        match self {
            Self::Device { page, .. } | Self::Owner { page, .. } => vec![*page],
            Self::Map { pages, .. }
            | Self::Unmap { pages }
            | Self::Protect { pages, .. }
            | Self::Absent { pages }
            | Self::Replace { pages } => pages.clone().collect(),
            Self::Remap { from, to } => vec![*from, *to],
        }
    }
}

impl Call {
    /// Whether it is no change.
    pub(crate) fn is_access(&self) -> bool {
        matches!(self.operation, Operation::Device { .. } | Operation::Owner { .. })
    }

    /// Whether it leaves every state as it is.
    pub(crate) fn is_pure(&self) -> bool {
        match (&self.operation, self.outcome) {
            (_, Outcome::Fault(_)) => true,
            (Operation::Device { word, .. } | Operation::Owner { word, .. }, outcome) => match word
            {
                Word::Read => true,
                Word::CompareExchange { expected, .. } => outcome != Outcome::Value(*expected),
                Word::Write(_) | Word::Add(_) => false,
            },
            _ => false,
        }
    }

    /// Whether any order of the others with it is one without it, so that they can be judged alone.
    pub(crate) fn can_be_left_out(&self) -> bool {
        self.is_pure() || matches!(self.operation, Operation::Replace { .. })
    }
}
