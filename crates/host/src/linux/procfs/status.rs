//! `/proc/PID/status`.

use std::io::{self, Read};

use rustix::fs::OFlags;

use super::file::{File, each_line, open};
use crate::linux::sys::Tid;

/// The lines that this crate uses.
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
    /// Blocked signals, one bit each.
    pub(crate) blocked: u64,
    pub(crate) no_new_privileges: bool,
    /// 0 none, 1 strict, 2 filter.
    pub(crate) seccomp: u8,
    /// How often it has slept: voluntary context switches.
    pub(crate) sleeps: u64,
}

/// A status file that is being read line by line.
#[derive(Default)]
struct Reader {
    status: Status,
    parent: Tid,
    has_kthread_line: bool,
    is_kthreadd: bool,
}

impl Reader {
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
            "Kthread" => (self.has_kthread_line, status.is_kernel_thread) = (true, value == "1"),
            "VmSize" => status.has_memory = word(0).is_some(),
            "SigBlk" => status.blocked = u64::from_str_radix(value, 16).unwrap_or(0),
            "NoNewPrivs" => status.no_new_privileges = value == "1",
            "voluntary_ctxt_switches" => status.sleeps = value.parse().unwrap_or(0),
            "Seccomp" => status.seccomp = value.parse().unwrap_or(2),
            _ => {}
        }
    }

    fn finish(self) -> Status {
        // Kernels before 6.8 have no line `Kthread`. There kthreadd is task 2, and the parent of
        // all other kernel threads.
        let looks_like_kernel_thread = !self.has_kthread_line
            && !self.status.has_memory
            && (self.parent == 2 || self.is_kthreadd);
        let is_kernel_thread = self.status.is_kernel_thread || looks_like_kernel_thread;
        Status { is_kernel_thread, ..self.status }
    }
}

impl Status {
    pub(super) fn read(mut file: impl Read) -> io::Result<Self> {
        let status = Self { state: '?', ..Self::default() };
        let mut reader = Reader { status, ..Reader::default() };
        each_line(&mut file, |line| reader.take(line))?;
        Ok(reader.finish())
    }

    /// Whether it is dead, or so close to it that its memory is gone.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') || !self.has_memory
    }
}

/// The status of the task that has the number now.
pub(crate) fn status(tid: Tid) -> io::Result<Status> {
    Status::read(File(open(format_args!("/proc/{tid}/status"), OFlags::RDONLY)?))
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn a_status_file_is_read_by_its_keys() {
        let text = "Name:\tx:\\ny\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t17\nPPid:\t1\n\
                    TracerPid:\t9\nUid:\t0\t1000\t0\t0\nNStgid:\t17\t2\nVmSize:\t  3000 kB\n\
                    SigBlk:\tfffffffe7ffbfeff\nNoNewPrivs:\t1\nSeccomp:\t1\nSeccomp_filters:\t0\n";
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
                "State:\tS\nGroups:\t{groups}\nNStgid:\t5\nVmSize:\t9 kB\n\
                 Seccomp:\t2\nSeccomp_filters:\t0"
            );
            let status = Status::read(text.as_bytes()).unwrap();
            assert_eq!(
                (status.state, status.own_number, status.has_memory, status.seccomp),
                ('S', 5, true, 2),
                "{length}"
            );
        }
    }
}
