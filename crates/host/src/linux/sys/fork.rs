//! Telling a process from its children made by fork.
//!
//! Why it is sound: the word lies in a page of its own, which is never unmapped and is accessed as
//! an atomic only.

use std::io;
use std::ptr;

use sva_sync::atomic::{AtomicU32, Ordering};

use super::call::check;

/// A word that the kernel clears in a child made by fork.
///
/// A child has copies of our structures, but not the thread that traces the anchors, so these
/// structures are wrong in it. The mark tells at the cost of one load. It also works where a bare
/// system call made the child; an `atfork` handler would not run there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForkMark(&'static AtomicU32);

impl ForkMark {
    /// Sets the mark in this process.
    pub(crate) fn new() -> io::Result<Self> {
        let length = 4096;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
        let page = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the page that was mapped above; nobody else knows it.
        let advised = unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) };
        check(advised.into())?;
        // SAFETY: the page is aligned, zeroed and never unmapped. From here on it is accessed
        // through this atomic only.
        let word = unsafe { &*page.cast::<AtomicU32>() };
        word.store(1, Ordering::Relaxed);
        Ok(Self(word))
    }

    /// Whether the calling process is the one that set the mark.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}
