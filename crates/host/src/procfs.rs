//! What `/proc` says about a task.
//!
//! A [`TaskDir`] is an open directory: it belongs to one task and never to a later one with the
//! same number, so facts read through it cannot be another task's.
//!
//! [`status`], [`parent`], [`each_process`] and what a [`TaskDir`] says of its status allocate
//! nothing and leave `errno` alone: they are used where both is not allowed (see `stopper`).

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};

use crate::sys::{Descriptor, Tid};

/// The lines of `/proc/PID/status` that we use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: char,
    pub(crate) tgid: Tid,
    pub(crate) tracer: Tid,
    /// Effective user.
    pub(crate) user: u32,
    /// The number in the task's own pid namespace.
    pub(crate) own_number: Tid,
    pub(crate) has_memory: bool,
    pub(crate) is_kernel_thread: bool,
    pub(crate) blocked: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: u8,
    /// How often it has gone to sleep.
    pub(crate) sleeps: u64,
}

/// What is seen of a status file line by line.
#[derive(Default)]
struct Lines {
    status: Status,
    parent: Tid,
    says_kernel_thread: bool,
    is_kthreadd: bool,
}

impl Lines {
    fn take(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(':') else { return };
        let (status, value) = (&mut self.status, value.trim());
        let word = |number| value.split_ascii_whitespace().nth(number);
        match key {
            "Name" => self.is_kthreadd = value == "kthreadd",
            "State" => status.state = value.chars().next().unwrap_or('?'),
            "Tgid" => status.tgid = value.parse().unwrap_or(0),
            "PPid" => self.parent = value.parse().unwrap_or(0),
            "TracerPid" => status.tracer = value.parse().unwrap_or(0),
            "Uid" => status.user = word(1).and_then(|n| n.parse().ok()).unwrap_or(u32::MAX),
            "NStgid" => {
                status.own_number =
                    value.split_ascii_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0)
            }
            "Kthread" => (self.says_kernel_thread, status.is_kernel_thread) = (true, value == "1"),
            "VmSize" => status.has_memory = word(0).is_some(),
            "SigBlk" => status.blocked = u64::from_str_radix(value, 16).unwrap_or(0),
            "NoNewPrivs" => status.no_new_privileges = value == "1",
            "voluntary_ctxt_switches" => status.sleeps = value.parse().unwrap_or(0),
            "Seccomp" => status.seccomp = value.parse().unwrap_or(2),
            _ => {}
        }
    }

    fn finish(self) -> Status {
        // Kernels before 6.8 do not say it: kthreadd is task 2, and the parent of the others.
        let looks_like_it = !self.says_kernel_thread
            && !self.status.has_memory
            && (self.parent == 2 || self.is_kthreadd);
        Status { is_kernel_thread: self.status.is_kernel_thread || looks_like_it, ..self.status }
    }
}

impl Status {
    fn read(mut file: impl Read) -> io::Result<Self> {
        let mut lines =
            Lines { status: Self { state: '?', ..Self::default() }, ..Lines::default() };
        each_line(&mut file, |line| lines.take(line))?;
        Ok(lines.finish())
    }

    /// Dead, or so far on the way there that its memory is gone.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') || !self.has_memory
    }
}

/// What a thread is doing, from `/proc/PID/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// On a processor, or about to be.
    Running,
    /// Asleep outside any system call, such as in a page fault.
    Asleep,
    /// Asleep in a system call.
    Call {
        /// Its number.
        number: i64,
        /// Its arguments.
        arguments: [u64; 6],
    },
}

impl Doing {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        match words.next()? {
            "running" => Some(Self::Running),
            "-1" => Some(Self::Asleep),
            number => {
                let number = number.parse().ok()?;
                let mut arguments = [0; 6];
                for argument in &mut arguments {
                    *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
                }
                Some(Self::Call { number, arguments })
            }
        }
    }
}

/// An open `/proc/PID` or `/proc/PID/task/TID`.
#[derive(Debug)]
pub(crate) struct TaskDir(Descriptor);

impl TaskDir {
    /// Opens the directory of any task, thread or process, by its number.
    pub(crate) fn open(tid: Tid) -> io::Result<Self> {
        open(format_args!("/proc/{tid}"), OFlags::PATH | OFlags::DIRECTORY).map(Self)
    }

    fn file(&self, name: &str) -> io::Result<File> {
        Ok(File(
            rustix::fs::openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
                .into(),
        ))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.file(name)?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `status`.
    pub(crate) fn status(&self) -> io::Result<Status> {
        Status::read(self.file("status")?)
    }

    /// Whether its cgroup (v2) is frozen: it could be stopped, but would make no call before it is
    /// thawed. Best effort, since the kernel may not tell.
    pub(crate) fn is_frozen(&self) -> bool {
        // The one place where a task sleeps among its signals without being stopped; the compiler
        // may inline the function.
        self.read("wchan")
            .is_ok_and(|place| matches!(place.as_str(), "do_freezer_trap" | "get_signal"))
    }

    /// `syscall`; needs the right to trace.
    pub(crate) fn doing(&self) -> io::Result<Doing> {
        let text = self.read("syscall")?;
        Doing::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Whether children of this thread are made in another pid namespace than its own.
    pub(crate) fn makes_children_elsewhere(&self) -> io::Result<bool> {
        let namespace = |name| {
            rustix::fs::statat(&self.0, name, rustix::fs::AtFlags::empty())
                .map(|found| found.st_ino)
        };
        let own = namespace("ns/pid")?;
        match namespace("ns/pid_for_children") {
            Ok(children) => Ok(children != own),
            // Unshared, and no child made yet: the link leads nowhere.
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens a path below `/proc`, which is short.
fn open(path: fmt::Arguments<'_>, flags: OFlags) -> io::Result<Descriptor> {
    let mut bytes = [0_u8; 64];
    let mut rest = &mut bytes[..];
    rest.write_fmt(path)?;
    let length = 64 - rest.len();
    Ok(rustix::fs::open(
        bytes.get(..length).unwrap_or_default(),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?
    .into())
}

/// An open file, read without `errno`.
struct File(Descriptor);

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, bytes)?)
    }
}

/// Runs `take` on each line; of one that is longer than some kilobytes, on its beginning only.
fn each_line(file: &mut impl Read, mut take: impl FnMut(&str)) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    let (mut held, mut is_rest) = (0, false);
    let mut give = |line: &[u8], is_rest: bool| {
        if !is_rest {
            // A command name may be no text; it has no newline.
            take(str::from_utf8(line).unwrap_or_default());
        }
    };
    loop {
        let read = match file.read(buffer.get_mut(held..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let full = held + read;
        let mut lines = buffer.get(..full).unwrap_or_default().split(|&byte| byte == b'\n');
        let last = lines.next_back().unwrap_or_default().len();
        for line in lines {
            give(line, is_rest);
            is_rest = false;
        }
        let begin = full - last;
        if read == 0 || last == buffer.len() {
            give(buffer.get(begin..full).unwrap_or_default(), is_rest);
            (is_rest, held) = (true, 0);
        } else {
            buffer.copy_within(begin..full, 0);
            held = last;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Whether a read failed because there is no such task (any more), and for no reason of our own,
/// such as want of descriptors.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether an error says that a task is gone or not ours to see (a `/proc` that hides the processes
/// of others), and not that we could not look.
pub(crate) fn is_out_of_sight(error: &io::Error) -> bool {
    is_gone(error) || error.kind() == io::ErrorKind::PermissionDenied
}

/// `/proc/TID/status`, by number.
pub(crate) fn status(tid: Tid) -> io::Result<Status> {
    Status::read(File(open(format_args!("/proc/{tid}/status"), OFlags::RDONLY)?))
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5); only those after the name.
fn stat_field(tid: Tid, field: usize) -> io::Result<u64> {
    let mut bytes = [0_u8; 2048];
    let read = File(open(format_args!("/proc/{tid}/stat"), OFlags::RDONLY)?).read(&mut bytes)?;
    // The name in parentheses may contain anything, also parentheses.
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

/// How many pages of code a task's image has: the same for all tasks that share an address space,
/// and zero while one is in `exec`. In `statm`, unlike `stat`, the kernel waits for no `exec`.
pub(crate) fn code_pages(tid: Tid) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/statm"))?;
    text.split_ascii_whitespace()
        .nth(3)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// When the process started, in clock ticks since boot: stays when it replaces its image.
pub(crate) fn start_time(pid: Tid) -> io::Result<u64> {
    stat_field(pid, 22)
}

/// The parent of a task.
pub(crate) fn parent(tid: Tid) -> io::Result<Tid> {
    stat_field(tid, 4).map(|parent| parent as Tid)
}

/// The command name of a task; empty where it cannot be read.
pub(crate) fn command(tid: Tid) -> String {
    let name = fs::read(format!("/proc/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// Runs `take` on each entry of a directory that is a number.
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

/// All processes, one after the other; those that appear or go meanwhile may be missing.
///
/// # Errors
/// The list could not be read, or not to its end: nothing follows from who is missing.
pub(crate) fn each_process(take: impl FnMut(Tid)) -> io::Result<()> {
    each_number(format_args!("/proc"), take)
}

/// All processes; see [`each_process`].
pub(crate) fn processes() -> io::Result<Vec<Tid>> {
    let mut all = Vec::new();
    each_process(|process| all.push(process)).map(|()| all)
}

/// The threads of a process; none where it has gone, or is not ours to see.
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

#[cfg(test)]
mod tests {
    use super::{Doing, Status};

    #[test]
    fn a_status_file_is_read_by_its_keys() {
        let text = "Name:\tx:\\ny\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t17\nPPid:\t1\nTracerPid:\t9\nUid:\t0\t1000\t0\t0\n\
                    NStgid:\t17\t2\nVmSize:\t  3000 kB\nSigBlk:\tfffffffe7ffbfeff\nNoNewPrivs:\t1\nSeccomp:\t1\nSeccomp_filters:\t0\n";
        let status = Status::read(text.as_bytes()).unwrap();
        assert_eq!((status.state, status.tgid, status.tracer), ('t', 17, 9));
        assert_eq!(
            (status.user, status.own_number, status.has_memory, status.seccomp),
            (1000, 2, true, 1)
        );
        assert!(!status.is_dead() && !status.is_kernel_thread);
        assert!(status.no_new_privileges && status.blocked == 0xffff_fffe_7ffb_feff);
    }

    #[test]
    fn a_long_line_hides_none_that_follow() {
        for length in [1, 4080, 4086, 4087, 4088, 4096, 9000, 100_000] {
            let groups = "7".repeat(length);
            let text = format!(
                "State:\tS\nGroups:\t{groups}\nNStgid:\t5\nVmSize:\t9 kB\nSeccomp:\t2\nSeccomp_filters:\t0"
            );
            let status = Status::read(text.as_bytes()).unwrap();
            assert_eq!(
                (status.state, status.own_number, status.has_memory, status.seccomp),
                ('S', 5, true, 2),
                "{length}"
            );
        }
    }

    #[test]
    fn what_a_thread_is_doing_is_read_from_its_syscall_file() {
        assert_eq!(Doing::parse("running\n"), Some(Doing::Running));
        assert_eq!(Doing::parse("-1 0x7ffc 0x7f00\n"), Some(Doing::Asleep));
        let arguments = [3, 0xffff, 0, 0, 0, 6];
        assert_eq!(
            Doing::parse("0 0x3 0xffff 0x0 0x0 0x0 0x6 0x7ffc 0x7f00\n"),
            Some(Doing::Call { number: 0, arguments })
        );
        assert_eq!(Doing::parse("0 0x3"), None);
        assert_eq!(Doing::parse(""), None);
    }
}
