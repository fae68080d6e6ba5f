//! Why a process could not be attached, or its mappings could not be listed.

use std::fmt;
use std::time::Duration;

use sva_core::port::HostFailure;

/// Live processes can be attached on x86-64 Linux only, and this program runs elsewhere.
///
/// It exists on all platforms, so that a program handles it in one place. On x86-64 Linux no
/// function returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "live processes can be used on x86-64 Linux only; this program was built for {os} on {arch}"
)]
#[non_exhaustive]
pub struct UnsupportedPlatform {
    /// The operating system that this program was built for, as [`std::env::consts::OS`].
    pub os: &'static str,
    /// The processor that this program was built for, as [`std::env::consts::ARCH`].
    pub arch: &'static str,
}

/// The likely reason for which the kernel does not permit to trace a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// It runs as another user.
    OtherUser {
        /// The user it runs as.
        theirs: u32,
        /// The user we run as.
        ours: u32,
    },
    /// The Yama security module restricts tracing.
    Yama {
        /// `kernel.yama.ptrace_scope`.
        scope: u8,
    },
    /// The process is protected: not dumpable, or with capabilities that we lack.
    Protected,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherUser { theirs, ours } => {
                write!(
                    f,
                    "it runs as user {theirs} and we as {ours}; \
                     run as the same user or with CAP_SYS_PTRACE"
                )
            }
            Self::Yama { scope: 1 } => f.write_str(
                "kernel.yama.ptrace_scope is 1; let the process call prctl(PR_SET_PTRACER), \
                 run with CAP_SYS_PTRACE, or set the sysctl to 0",
            ),
            Self::Yama { scope: 3 } => f.write_str(
                "kernel.yama.ptrace_scope is 3: nobody may trace until the system restarts",
            ),
            Self::Yama { scope } => write!(
                f,
                "kernel.yama.ptrace_scope is {scope}; \
                 run with CAP_SYS_PTRACE, or set the sysctl to 0"
            ),
            Self::Protected => f.write_str(
                "it is not dumpable or has capabilities that we lack; run with CAP_SYS_PTRACE",
            ),
        }
    }
}

/// Why a process could not be attached. The process is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such task.
    #[error("there is no process {pid}; ps -e lists those that run")]
    NoSuchProcess {
        /// The number asked for.
        pid: u32,
    },
    /// It has exited and waits to be reaped.
    #[error("process {pid} has exited and has no address space any more")]
    Zombie {
        /// The number asked for.
        pid: u32,
    },
    /// It is a thread of the kernel.
    #[error("{pid} is a kernel thread and has no address space of its own")]
    KernelThread {
        /// The number asked for.
        pid: u32,
    },
    /// Another tracer traces it.
    #[error(
        "thread {tid} is traced by {tracer} ({name}); a task has one tracer: detach that one first"
    )]
    AlreadyTraced {
        /// The thread of the process.
        tid: u32,
        /// Its tracer; 0 where that is outside our pid namespace.
        tracer: u32,
        /// The tracer's command name.
        name: String,
    },
    /// Its threads run under seccomp.
    #[error(
        "thread {tid} runs under seccomp (mode {mode}), which may forbid or kill what the anchor \
         needs; attach before the filter is installed"
    )]
    Seccomp {
        /// A thread that is filtered.
        tid: u32,
        /// 1 strict, 2 filter.
        mode: u8,
    },
    /// The kernel does not let us trace it.
    #[error("no right to trace process {pid}: {why}")]
    NotPermitted {
        /// The number asked for.
        pid: u32,
        /// The likely reason.
        why: Denial,
    },
    /// It runs 32-bit code.
    #[error("thread {tid} runs 32-bit code; only 64-bit processes can be attached")]
    ThirtyTwoBit {
        /// The thread.
        tid: u32,
    },
    /// Its next child would be the first process of a new pid namespace.
    #[error(
        "thread {tid} has called unshare or setns for a pid namespace: a task made in it would \
         become that namespace's first process; choose one of its children, or attach before that \
         call"
    )]
    PidNamespace {
        /// The thread.
        tid: u32,
    },
    /// It uses syscall user dispatch.
    #[error("thread {tid} has its system calls dispatched to itself (syscall user dispatch)")]
    SyscallUserDispatch {
        /// The thread.
        tid: u32,
    },
    /// Orphans become its children, and the anchor would be one.
    #[error(
        "process {pid} adopts orphans (it is the first process of its pid namespace, or a child \
         subreaper): its own waits would see the anchor; choose one of its children"
    )]
    AdoptsOrphans {
        /// The process.
        pid: u32,
    },
    /// Every thread is in a system call whose result a stop could change.
    #[error("thread {tid} {}, and no other thread is better off; try again", busy(*call))]
    Busy {
        /// The thread that was examined last.
        tid: u32,
        /// The call's number; -1 where no call could be seen, or where others stop and continue the
        /// thread all the time.
        call: i64,
    },
    /// Its cgroup is frozen.
    #[error("thread {tid} is frozen with its cgroup; thaw it (cgroup.freeze) and try again")]
    Frozen {
        /// The thread.
        tid: u32,
    },
    /// The chosen thread did not stop.
    #[error(
        "thread {tid} did not stop within {waited:?}; try again when it is not in an \
         uninterruptible call"
    )]
    DidNotStop {
        /// The thread.
        tid: u32,
        /// How long we waited for it.
        waited: Duration,
    },
    /// No instruction that makes a system call was found in it.
    #[error("process {pid} has no executable mapping with a system call instruction")]
    NoSyscallInstruction {
        /// The process.
        pid: u32,
    },
    /// The kernel refused a system call that was made in the process's name.
    #[error("{call} was refused to the process: {source}")]
    Refused {
        /// The call.
        call: &'static str,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// It exited or replaced its image while it was being attached.
    #[error("process {pid} exited or replaced its image while it was being attached")]
    Gone {
        /// The number asked for.
        pid: u32,
    },
    /// This process is a child, made by fork, of the one that has the attachments.
    #[error(
        "this process was forked from one that uses sva; attach from a program of its own \
         (after exec)"
    )]
    Forked,
    /// This platform has no provider of live processes.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedPlatform),
    /// A call failed for a reason that says nothing about the process.
    #[error(transparent)]
    Host(HostFailure),
}

/// Why the mappings of a process could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionsError {
    /// There is no such process.
    #[error("there is no process {pid}; ps -e lists those that run")]
    NoSuchProcess {
        /// The number asked for.
        pid: u32,
    },
    /// The kernel does not permit it.
    #[error(
        "no right to see the mappings of process {pid}; run as its user, or with CAP_SYS_PTRACE"
    )]
    NotPermitted {
        /// The number asked for.
        pid: u32,
    },
    /// It has exited, or is a thread of the kernel.
    #[error("process {pid} has no address space")]
    NoMemory {
        /// The number asked for.
        pid: u32,
    },
    /// The address space has ended.
    #[error("the address space has ended")]
    Ended,
    /// This platform has no provider of live processes.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedPlatform),
    /// A call failed for a reason that says nothing about the process.
    #[error(transparent)]
    Host(HostFailure),
}

fn busy(call: i64) -> String {
    match call {
        0.. => format!("is in system call {call} that a stop could cut short"),
        _ => "runs calls that a stop could cut short, or is stopped and continued by others"
            .to_owned(),
    }
}
