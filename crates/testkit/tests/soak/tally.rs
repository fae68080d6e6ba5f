//! What has been done: nothing found is worth as much as there was to find.

use std::fmt;
use std::ops::AddAssign;

/// Counts of the accesses of a thread, or of many.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) accesses: u64,
    /// Those that faulted.
    pub(crate) faults: u64,
    /// Those that were made by what was kept alone.
    pub(crate) kept: u64,
    /// Those during which a change of a page of theirs, or of the bond, was under way.
    pub(crate) overlapping: u64,
    /// Those of these that were made all the same.
    pub(crate) overlapping_made: u64,
    /// And those of these by what was kept, with a change that began after they had.
    pub(crate) caught: u64,
    /// What was added to ledgers.
    pub(crate) added: u64,
}

impl Tally {
    #[inline]
    pub(crate) fn count(&mut self, made: bool, kept: bool, overlaps: bool, began: bool) {
        self.accesses += 1;
        self.faults += u64::from(!made);
        self.kept += u64::from(made && kept);
        self.overlapping += u64::from(overlaps);
        self.overlapping_made += u64::from(overlaps && made);
        self.caught += u64::from(began && made && kept);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.kept += other.kept;
        self.overlapping += other.overlapping;
        self.overlapping_made += other.overlapping_made;
        self.caught += other.caught;
        self.added += other.added;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accesses, faults, kept, overlapping, overlapping_made, caught, added } = self;
        write!(
            f,
            "{accesses} accesses: {kept} by what was kept, {faults} faults, {added} added to \
             ledgers; "
        )?;
        write!(
            f,
            "{overlapping} overlapped a change: {overlapping_made} of them were made, {caught} by \
             what was kept when the change began after them"
        )
    }
}
