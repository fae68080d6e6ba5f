//! The mappings of a process, what a device may do with them, and how to find one by name.

use std::fmt;

use sva_core::{Access, AddrRange};

/// Why a device cannot use a mapping in a given way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unusable {
    /// The process itself may not read it.
    NotReadable,
    /// The process itself may not write it.
    NotWritable,
    /// It is not memory that can be pinned: a device's registers, or pages that belong to the
    /// kernel (VM_IO, VM_PFNMAP).
    NotMemory,
    /// Devices may not execute from a live process.
    Execute,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReadable => "the process may not read it",
            Self::NotWritable => "the process may not write it",
            Self::NotMemory => "it is not ordinary memory",
            Self::Execute => "devices may not execute",
        })
    }
}

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its addresses.
    pub range: AddrRange,
    /// The process may read it.
    pub read: bool,
    /// The process may write it.
    pub write: bool,
    /// The process may execute it.
    pub execute: bool,
    /// Writes are shared with other processes that map the same memory.
    pub shared: bool,
    /// Bytes from the start of the file to the first address; 0 where no file is mapped.
    pub offset: u64,
    /// As the kernel prints it: a path (a newline in it as `\012`, ` (deleted)` after it where the
    /// file has no name any more), a name in brackets such as `[heap]`, or nothing.
    pub name: String,
    /// Whether it is ordinary memory: neither a device's registers nor the kernel's own pages.
    pub(crate) is_memory: bool,
}

impl Region {
    /// Why a device cannot make this kind of access to it; `None` where it can.
    pub fn unusable(&self, access: Access) -> Option<Unusable> {
        if access.is_execute() {
            Some(Unusable::Execute)
        } else if !self.is_memory {
            Some(Unusable::NotMemory)
        } else if access.contains(Access::READ) && !self.read {
            Some(Unusable::NotReadable)
        } else if access.is_write() && !self.write {
            Some(Unusable::NotWritable)
        } else {
            None
        }
    }

    /// Whether `name` is this mapping's name, its path without ` (deleted)`, or the last part of
    /// either.
    fn is_named(&self, name: &str) -> bool {
        let whole = self.name.as_str();
        let path = whole.strip_suffix(" (deleted)").unwrap_or(whole);
        [whole, path].iter().any(|&known| {
            known == name || known.starts_with('/') && known.rsplit('/').next() == Some(name)
        })
    }
}

/// Why a name does not name one mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No mapping has the name.
    #[error("no mapping is named `{name}`; `sva regions` lists the names")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// Several have it.
    #[error(
        "{} mappings are named `{name}`; take one as `{name}#0` to `{name}#{}`, in order of their \
         addresses",
        .ranges.len(), .ranges.len().saturating_sub(1)
    )]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// Where they are, sorted.
        ranges: Vec<AddrRange>,
    },
}

/// Finds the mapping that `name` names: a name in brackets (`[heap]`, `[stack]`), a file's path, or
/// the last part of the path.
///
/// A file is mostly mapped in several parts with different permissions. `name#N` names the N-th of
/// them in order of addresses, counted from 0.
///
/// # Errors
/// No mapping has the name, or several have it and no number was given.
pub fn find<'a>(regions: &'a [Region], name: &str) -> Result<&'a Region, FindError> {
    let named =
        |wanted: &str| regions.iter().filter(|region| region.is_named(wanted)).collect::<Vec<_>>();
    match named(name).as_slice() {
        [one] => return Ok(one),
        [] => {}
        several => {
            let ranges = several.iter().map(|region| region.range).collect();
            return Err(FindError::Ambiguous { name: name.to_owned(), ranges });
        }
    }
    let numbered = name
        .rsplit_once('#')
        .and_then(|(name, number)| named(name).get(number.parse::<usize>().ok()?).copied());
    numbered.ok_or_else(|| FindError::Unknown { name: name.to_owned() })
}
