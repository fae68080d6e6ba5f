//! Single facts about a task: parent, start time, command name, size of its code.

use std::fs;
use std::io::{self, Read};

use rustix::fs::OFlags;

use super::file::{File, open};
use crate::linux::sys::Tid;

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5). Only fields after the name.
fn stat_field(tid: Tid, field: usize) -> io::Result<u64> {
    let mut bytes = [0_u8; 2048];
    let read = File(open(format_args!("/proc/{tid}/stat"), OFlags::RDONLY)?).read(&mut bytes)?;
    // The name in parentheses may itself contain parentheses and spaces.
    let after_name = bytes
        .get(..read)
        .and_then(|bytes| bytes.rsplit(|&byte| byte == b')').next())
        .unwrap_or_default();
    let word = str::from_utf8(after_name)
        .unwrap_or_default()
        .split_ascii_whitespace()
        .nth(field.saturating_sub(3));
    word.and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The parent of a task.
pub(crate) fn parent(tid: Tid) -> io::Result<Tid> {
    stat_field(tid, 4).map(|parent| parent as Tid)
}

/// When the process started, in clock ticks since boot. An exec does not change it.
pub(crate) fn start_time(pid: Tid) -> io::Result<u64> {
    stat_field(pid, 22)
}

/// The command name of a task; empty where it cannot be read.
pub(crate) fn command(tid: Tid) -> String {
    let name = fs::read(format!("/proc/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// How many pages of code a task's image has. The number is the same for all tasks of an address
/// space, and 0 during `exec`. It is read from `statm`: for `stat` the kernel waits while the task
/// is in `exec`.
pub(crate) fn code_pages(tid: Tid) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/statm"))?;
    text.split_ascii_whitespace()
        .nth(3)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
