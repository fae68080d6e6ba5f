//! An open directory of one task, and the system call that the task is in.

use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::file::{File, open};
use super::status::Status;
use crate::linux::sys::{Descriptor, Tid};

/// What a thread is doing, from `/proc/PID/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyscallState {
    /// It is on a processor, or ready to run.
    Running,
    /// It sleeps outside any system call, as in a page fault.
    AsleepOutside,
    /// It sleeps in a system call.
    AsleepIn {
        /// The call's number.
        number: i64,
        /// The call's arguments.
        arguments: [u64; 6],
    },
}

impl SyscallState {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        match words.next()? {
            "running" => Some(Self::Running),
            "-1" => Some(Self::AsleepOutside),
            number => {
                let number = number.parse().ok()?;
                let mut arguments = [0; 6];
                for argument in &mut arguments {
                    *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
                }
                Some(Self::AsleepIn { number, arguments })
            }
        }
    }
}

/// An open `/proc/PID` or `/proc/PID/task/TID`.
///
/// The descriptor belongs to one task and never to a later one with the same number, so what is
/// read through it cannot be about another task.
#[derive(Debug)]
pub(crate) struct TaskDir(Descriptor);

impl TaskDir {
    /// Opens the directory of a thread or process by its number.
    pub(crate) fn open(tid: Tid) -> io::Result<Self> {
        open(format_args!("/proc/{tid}"), OFlags::PATH | OFlags::DIRECTORY).map(Self)
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File(rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into()))
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

    /// Whether its cgroup (version 2) is frozen. A frozen task can be stopped but makes no system
    /// call before it is thawed. `false` also where the kernel does not tell.
    pub(crate) fn is_frozen(&self) -> bool {
        // These are the only functions in which a task sleeps in its signal handling without being
        // stopped. The compiler may have inlined the first into the second.
        self.read("wchan")
            .is_ok_and(|place| matches!(place.as_str(), "do_freezer_trap" | "get_signal"))
    }

    /// `syscall`. Needs the right to trace the task.
    pub(crate) fn syscall_state(&self) -> io::Result<SyscallState> {
        let text = self.read("syscall")?;
        SyscallState::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Whether children of this thread are made in another pid namespace than its own.
    pub(crate) fn makes_children_in_other_pid_namespace(&self) -> io::Result<bool> {
        let namespace = |name| {
            rustix::fs::statat(&self.0, name, rustix::fs::AtFlags::empty())
                .map(|found| found.st_ino)
        };
        let own = namespace("ns/pid")?;
        match namespace("ns/pid_for_children") {
            Ok(children) => Ok(children != own),
            // After unshare and before the first child the link has no target.
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SyscallState;

    #[test]
    fn what_a_thread_is_doing_is_read_from_its_syscall_file() {
        assert_eq!(SyscallState::parse("running\n"), Some(SyscallState::Running));
        assert_eq!(SyscallState::parse("-1 0x7ffc 0x7f00\n"), Some(SyscallState::AsleepOutside));
        let arguments = [3, 0xffff, 0, 0, 0, 6];
        assert_eq!(
            SyscallState::parse("0 0x3 0xffff 0x0 0x0 0x0 0x6 0x7ffc 0x7f00\n"),
            Some(SyscallState::AsleepIn { number: 0, arguments })
        );
        assert_eq!(SyscallState::parse("0 0x3"), None);
        assert_eq!(SyscallState::parse(""), None);
    }
}
