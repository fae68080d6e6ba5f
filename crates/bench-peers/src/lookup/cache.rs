//! What is looked up: a cache of translations, and what is in it.

pub(super) const PAGE: u64 = 4096;
/// Whose translations these are, where a table knows more than one owner.
pub(super) const OWNER: u64 = 0x9a;
/// A page and where it leads.
#[derive(Clone, Copy)]
pub(crate) struct Mapping {
    pub(super) page: u64,
    pub(super) frame: u64,
}

/// A cache of translations.
///
/// Every `find` is inlined into the loop that measures it: left to the compiler, one subject pays
/// for a call and saved registers, and another does not.
pub(crate) trait Lookup {
    /// Where an address leads.
    fn find(&self, address: u64) -> Option<u64>;
}
