//! Files below `/proc`, opened and read without allocation and without `errno`.

use std::fmt;
use std::io::{self, Read, Write};

use rustix::fs::{Mode, OFlags};

use crate::linux::sys::Descriptor;

/// An open file.
pub(super) struct File(pub(super) Descriptor);

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, bytes)?)
    }
}

/// Opens a path below `/proc` of at most 64 bytes.
pub(super) fn open(path: fmt::Arguments<'_>, flags: OFlags) -> io::Result<Descriptor> {
    let mut bytes = [0_u8; 64];
    let mut rest = &mut bytes[..];
    rest.write_fmt(path)?;
    let length = 64 - rest.len();
    let path = bytes.get(..length).unwrap_or_default();
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Calls `take` with each line. Of a line that is longer than some kilobytes it gets the beginning
/// only.
pub(super) fn each_line(file: &mut impl Read, mut take: impl FnMut(&str)) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    // Bytes of an incomplete line at the start of the buffer, and whether what comes next continues
    // a line whose beginning was given already.
    let (mut kept, mut continues) = (0, false);
    let mut give = |line: &[u8], continues: bool| {
        if !continues {
            // The bytes of a command name may be no text. The kernel escapes its newlines.
            take(str::from_utf8(line).unwrap_or_default());
        }
    };
    loop {
        let read = match file.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let full = kept + read;
        let mut lines = buffer.get(..full).unwrap_or_default().split(|&byte| byte == b'\n');
        let last = lines.next_back().unwrap_or_default().len();
        for line in lines {
            give(line, continues);
            continues = false;
        }
        let begin = full - last;
        if read == 0 || last == buffer.len() {
            give(buffer.get(begin..full).unwrap_or_default(), continues);
            (continues, kept) = (true, 0);
        } else {
            buffer.copy_within(begin..full, 0);
            kept = last;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Whether an error says that there is no such task (any more). Other errors, such as a lack of
/// descriptors, say nothing about the task.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether an error says that a task is gone, or hidden from us, as by a `/proc` that hides the
/// processes of other users.
pub(crate) fn is_out_of_sight(error: &io::Error) -> bool {
    is_gone(error) || error.kind() == io::ErrorKind::PermissionDenied
}
