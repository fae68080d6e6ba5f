//! What `/proc` says about a task.
//!
//! A [`TaskDir`] is an open directory: it belongs to one task and never to a later one with the same number, so facts read through it cannot be
//! another task's.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::sys::Tid;

/// The lines of `/proc/PID/status` that we use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) name: String,
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

impl Status {
    fn parse(text: &str) -> Self {
        let mut status = Self { state: '?', ..Self::default() };
        let mut parent = 0;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let first = || value.split_ascii_whitespace().next().unwrap_or("");
            match key {
                // The kernel escapes newlines in the name.
                "Name" => status.name = value.to_owned(),
                "State" => status.state = value.chars().next().unwrap_or('?'),
                "Tgid" => status.tgid = value.parse().unwrap_or(0),
                "PPid" => parent = value.parse().unwrap_or(0),
                "TracerPid" => status.tracer = value.parse().unwrap_or(0),
                "Uid" => status.user = value.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(u32::MAX),
                "NStgid" => status.own_number = value.split_ascii_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0),
                "Kthread" => status.is_kernel_thread = value == "1",
                "VmSize" => status.has_memory = !first().is_empty(),
                "SigBlk" => status.blocked = u64::from_str_radix(value, 16).unwrap_or(0),
                "NoNewPrivs" => status.no_new_privileges = value == "1",
                "voluntary_ctxt_switches" => status.sleeps = value.parse().unwrap_or(0),
                "Seccomp" => status.seccomp = value.parse().unwrap_or(2),
                _ => {}
            }
        }
        // Kernels before 6.8 do not say it: kthreadd is task 2, and the parent of the others.
        status.is_kernel_thread |= !text.contains("\nKthread:") && !status.has_memory && (parent == 2 || status.name == "kthreadd");
        status
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
pub(crate) struct TaskDir(OwnedFd);

impl TaskDir {
    /// Opens the directory of any task, thread or process, by its number.
    pub(crate) fn open(tid: Tid) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(format!("/proc/{tid}"), flags, Mode::empty())?))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = rustix::fs::openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut bytes = Vec::new();
        fs::File::from(file).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `status`.
    pub(crate) fn status(&self) -> io::Result<Status> {
        self.read("status").map(|text| Status::parse(&text))
    }

    /// Whether its cgroup (v2) is frozen: it could be stopped, but would make no call before it is thawed. Best effort, since the kernel may not tell.
    pub(crate) fn is_frozen(&self) -> bool {
        // The one place where a task sleeps among its signals without being stopped; the compiler may inline the function.
        self.read("wchan").is_ok_and(|place| matches!(place.as_str(), "do_freezer_trap" | "get_signal"))
    }

    /// `syscall`; needs the right to trace.
    pub(crate) fn doing(&self) -> io::Result<Doing> {
        let text = self.read("syscall")?;
        Doing::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Whether children of this thread are made in another pid namespace than its own.
    pub(crate) fn makes_children_elsewhere(&self) -> io::Result<bool> {
        let namespace = |name| rustix::fs::statat(&self.0, name, rustix::fs::AtFlags::empty()).map(|found| found.st_ino);
        let own = namespace("ns/pid")?;
        match namespace("ns/pid_for_children") {
            Ok(children) => Ok(children != own),
            // Unshared, and no child made yet: the link leads nowhere.
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// `/proc/TID/status`, by number.
pub(crate) fn status(tid: Tid) -> io::Result<Status> {
    fs::read(format!("/proc/{tid}/status")).map(|bytes| Status::parse(&String::from_utf8_lossy(&bytes)))
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5); only those after the name.
fn stat_field(tid: Tid, field: usize) -> io::Result<u64> {
    let text = fs::read(format!("/proc/{tid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    // The name in parentheses may contain anything, also parentheses.
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let word = after_name.split_ascii_whitespace().nth(field.saturating_sub(3));
    word.and_then(|word| word.parse().ok()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// How many pages of code a task's image has: the same for all tasks that share an address space, and zero while one is in `exec`. In `statm`, unlike `stat`, the kernel waits for
/// no `exec`.
pub(crate) fn code_pages(tid: Tid) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/statm"))?;
    text.split_ascii_whitespace().nth(3).and_then(|word| word.parse().ok()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
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

fn numbers(directory: &str) -> Vec<Tid> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// All processes; those that appear or go meanwhile may be missing.
pub(crate) fn processes() -> Vec<Tid> {
    numbers("/proc")
}

/// The threads of a process; none where it has gone.
pub(crate) fn threads(pid: Tid) -> Vec<Tid> {
    numbers(&format!("/proc/{pid}/task"))
}

#[cfg(test)]
mod tests {
    use super::{Doing, Status};

    #[test]
    fn a_status_file_is_read_by_its_keys() {
        let text = "Name:\tx:\\ny\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t17\nPPid:\t1\nTracerPid:\t9\nUid:\t0\t1000\t0\t0\n\
                    NStgid:\t17\t2\nVmSize:\t  3000 kB\nSigBlk:\tfffffffe7ffbfeff\nNoNewPrivs:\t1\nSeccomp:\t1\nSeccomp_filters:\t0\n";
        let status = Status::parse(text);
        assert_eq!((status.name.as_str(), status.state, status.tgid, status.tracer), ("x:\\ny", 't', 17, 9));
        assert_eq!((status.user, status.own_number, status.has_memory, status.seccomp), (1000, 2, true, 1));
        assert!(!status.is_dead() && !status.is_kernel_thread);
        assert!(status.no_new_privileges && status.blocked == 0xffff_fffe_7ffb_feff);
    }

    #[test]
    fn what_a_thread_is_doing_is_read_from_its_syscall_file() {
        assert_eq!(Doing::parse("running\n"), Some(Doing::Running));
        assert_eq!(Doing::parse("-1 0x7ffc 0x7f00\n"), Some(Doing::Asleep));
        let arguments = [3, 0xffff, 0, 0, 0, 6];
        assert_eq!(Doing::parse("0 0x3 0xffff 0x0 0x0 0x0 0x6 0x7ffc 0x7f00\n"), Some(Doing::Call { number: 0, arguments }));
        assert_eq!(Doing::parse("0 0x3"), None);
        assert_eq!(Doing::parse(""), None);
    }
}
