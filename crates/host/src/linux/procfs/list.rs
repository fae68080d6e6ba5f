//! Lists of processes and threads.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{OFlags, RawDir};

use super::file::{is_out_of_sight, open};
use crate::linux::sys::Tid;

/// Calls `take` with each entry of a directory that is a number.
fn each_number(directory: fmt::Arguments<'_>, mut take: impl FnMut(Tid)) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries =
        RawDir::new(open(directory, OFlags::RDONLY | OFlags::DIRECTORY)?, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Some(number) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            take(number);
        }
    }
    Ok(())
}

/// Calls `take` with each process. Processes that start or end meanwhile may be missing.
///
/// # Errors
/// The list could not be read to its end: nothing follows from the absence of a process.
pub(crate) fn each_process(take: impl FnMut(Tid)) -> io::Result<()> {
    each_number(format_args!("/proc"), take)
}

/// All processes; see [`each_process`].
pub(crate) fn processes() -> io::Result<Vec<Tid>> {
    let mut all = Vec::new();
    each_process(|process| all.push(process)).map(|()| all)
}

/// The threads of a process; none where the process has gone or is hidden from us.
///
/// # Errors
/// As for [`each_process`].
pub(crate) fn threads(pid: Tid) -> io::Result<Vec<Tid>> {
    let mut all = Vec::new();
    match each_number(format_args!("/proc/{pid}/task"), |thread| all.push(thread)) {
        Err(error) if !is_out_of_sight(&error) => Err(error),
        _ => Ok(all),
    }
}
