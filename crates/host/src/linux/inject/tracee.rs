//! One traced task: its stops, and system calls made in its name. Used by its tracer only.
//!
//! Nothing here allocates or uses `errno`: see
//! [`VmProcess::start`](crate::linux::sys::clone::VmProcess::start).
//!
//! A stop is learned from `waitid` where possible, and otherwise from the siginfo of the stop. Any
//! thread of this process may take the wait status of a tracee by waiting for all children, and
//! that must not make an attach fail.

use std::io;
use std::time::{Duration, Instant};

use sva_sync::atomic::{AtomicU32, Ordering};

use crate::error::AttachError;
use crate::linux::procfs;
use crate::linux::sys::{self, EVENT_CLONE, EVENT_STOP, Registers, Tid, WaitStatus, gettid};

/// How long a task may take to its first stop.
pub(crate) const FIRST_STOP: Duration = Duration::from_millis(250);
/// How long a task may take from one stop to the next. It waits for a processor only; the limit
/// guards against a hang.
pub(crate) const NEXT_STOP: Duration = Duration::from_secs(2);
/// Stops come within microseconds. A task that takes longer than this waits for a processor, which
/// spinning would only take from it.
const SPIN: Duration = Duration::from_micros(300);

/// Stops that tracers of this program have seen, the tracer process included.
static STOPS_SEEN: AtomicU32 = AtomicU32::new(0);

/// A count of the progress that tracers of this program have made. A tracer that only waits for a
/// processor makes some from time to time; one that hangs makes none.
pub(crate) fn progress() -> u32 {
    STOPS_SEEN.load(Ordering::SeqCst)
}

/// Counts one step of [`progress`].
pub(crate) fn record_progress() {
    STOPS_SEEN.fetch_add(1, Ordering::SeqCst);
}

/// Why a task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By PTRACE_INTERRUPT or a group stop, or because it is new.
    Interrupted,
    /// It has made a new task, which is traced too.
    Cloned,
    /// On the entry to or the return from a system call.
    Syscall,
    /// A signal is about to be delivered.
    Signal(i32),
    /// Another event.
    Other(i32),
}

impl Stop {
    fn new(signal: i32, event: i32) -> Self {
        match (signal, event) {
            (_, EVENT_STOP) => Self::Interrupted,
            (_, EVENT_CLONE) => Self::Cloned,
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => Self::Syscall,
            (signal, 0) => Self::Signal(signal),
            (_, event) => Self::Other(event),
        }
    }

    fn from_info((signal, code): (i32, i32)) -> Self {
        if code == libc::SIGTRAP | 0x80 {
            Self::Syscall
        } else {
            Self::new(signal, if code > 0xff { code >> 8 } else { 0 })
        }
    }
}

/// Why a traced task did not do as it should.
#[derive(Debug)]
pub(crate) enum TraceError {
    /// It is dead, and reaped as far as that is our duty.
    Gone,
    /// It did not stop in time.
    TimedOut,
    /// It stopped for another reason than expected.
    UnexpectedStop,
    /// It is not in 64-bit mode any more.
    Not64Bit,
    /// The kernel refused a request.
    Request(io::Error),
}

impl From<io::Error> for TraceError {
    fn from(error: io::Error) -> Self {
        Self::Request(error)
    }
}

impl TraceError {
    /// The error of an attach of process `pid` by way of thread `tid`.
    pub(crate) fn into_attach_error(self, pid: Tid, tid: Tid) -> AttachError {
        match self {
            Self::Gone => AttachError::Gone { pid: pid as u32 },
            // It was killed between two requests.
            Self::Request(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                AttachError::Gone { pid: pid as u32 }
            }
            Self::TimedOut => AttachError::DidNotStop { tid: tid as u32, waited: FIRST_STOP },
            // Others stop and continue it again and again.
            Self::UnexpectedStop => AttachError::Busy { tid: tid as u32, call: -1 },
            Self::Not64Bit => AttachError::ThirtyTwoBit { tid: tid as u32 },
            Self::Request(error) => AttachError::host("ptrace")(error),
        }
    }
}

/// A system call to make: its name for messages, its number, its arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Syscall {
    pub(crate) name: &'static str,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 4],
}

/// A task that the calling thread traces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracee(pub(crate) Tid);

impl Tracee {
    /// Waits for the next stop of any kind.
    pub(crate) fn wait_for_stop(self, limit: Duration) -> Result<Stop, TraceError> {
        let stop = self.next_stop(limit);
        if stop.is_ok() {
            record_progress();
        }
        stop
    }

    fn next_stop(self, limit: Duration) -> Result<Stop, TraceError> {
        let begin = Instant::now();
        loop {
            if let Some(stop) = self.poll()? {
                return Ok(stop);
            }
            if sys::stop_info(self.0).is_ok() {
                // It has stopped since the poll, or somebody else has taken the wait status.
                if let Some(stop) = self.poll()? {
                    return Ok(stop);
                }
                return Ok(Stop::from_info(sys::stop_info(self.0)?));
            }
            let waited = begin.elapsed();
            if waited <= SPIN && waited <= limit {
                sys::yield_processor();
            } else if !self.is_traced() {
                return Err(TraceError::Gone);
            } else if waited > limit {
                return Err(TraceError::TimedOut);
            } else {
                sys::sleep(SPIN / 4);
            }
        }
    }

    fn poll(self) -> Result<Option<Stop>, TraceError> {
        match sys::wait(self.0)? {
            WaitStatus::Stopped { signal, event } => Ok(Some(Stop::new(signal, event))),
            WaitStatus::Unchanged => Ok(None),
            WaitStatus::NotWaitable => Err(TraceError::Gone),
            WaitStatus::Zombie => {
                self.reap_unless_own_child();
                Err(TraceError::Gone)
            }
        }
    }

    /// Reaps a dead task of the process, which its parent cannot do before its tracer has. A child
    /// of our own process is left to the program that made it.
    fn reap_unless_own_child(self) {
        let is_leader = procfs::status(self.0).is_ok_and(|status| status.tgid == self.0);
        let is_own_child = is_leader
            && procfs::parent(self.0)
                .is_ok_and(|parent| parent == rustix::process::getpid().as_raw_nonzero().get());
        if !is_own_child {
            let _ = sys::reap(self.0);
        }
    }

    /// Whether the number belongs to a task that this thread traces. It may be another task than
    /// before: a thread that execs takes over the number of its leader. Where this cannot be seen,
    /// because our program has no descriptor left or has just closed this one, the answer is yes:
    /// a traced task that is given up never runs again.
    pub(crate) fn is_traced(self) -> bool {
        procfs::status(self.0)
            .map_or_else(|error| !procfs::is_gone(&error), |status| status.tracer == gettid())
    }

    /// Waits for [`Stop::Interrupted`] and delivers the signals that come first.
    pub(crate) fn wait_for_interrupt(self, limit: Duration) -> Result<(), TraceError> {
        loop {
            match self.wait_for_stop(limit)? {
                Stop::Interrupted => return Ok(()),
                Stop::Signal(signal) => sys::resume(self.0, signal)?,
                Stop::Syscall | Stop::Cloned | Stop::Other(_) => sys::resume(self.0, 0)?,
            }
        }
    }

    /// Waits for the first stop of a new task.
    pub(crate) fn wait_for_first_stop(self) -> Result<(), TraceError> {
        match self.wait_for_stop(NEXT_STOP)? {
            Stop::Interrupted => Ok(()),
            _ => Err(TraceError::UnexpectedStop),
        }
    }

    /// Takes a stopped task to the entry of `call`, made by the `syscall` instruction at
    /// `instruction`.
    pub(crate) fn enter(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Syscall,
    ) -> Result<(), TraceError> {
        let [a, b, c, d] = call.arguments;
        // No number in orig_rax: the kernel must not take this for an interrupted call to restart.
        let prepared = Registers {
            rip: instruction,
            rax: call.number as u64,
            orig_rax: u64::MAX,
            rdi: a,
            rsi: b,
            rdx: c,
            r10: d,
            r8: 0,
            r9: 0,
            ..*registers
        };
        sys::set_registers(self.0, &prepared)?;
        let mut signal = 0;
        for _ in 0..16 {
            sys::resume_to_syscall(self.0, signal)?;
            signal = 0;
            match self.wait_for_stop(NEXT_STOP)? {
                Stop::Syscall => return Ok(()),
                // A group stop came in between. It continues when the task is detached.
                Stop::Interrupted => {}
                // The one signal that cannot be blocked. It is to stop the process.
                Stop::Signal(libc::SIGSTOP) => signal = libc::SIGSTOP,
                _ => return Err(TraceError::UnexpectedStop),
            }
        }
        Err(TraceError::UnexpectedStop)
    }

    /// Makes one call in the task's name, which then stands at the call's return. The inner error
    /// is the kernel's answer.
    pub(crate) fn call(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Syscall,
    ) -> Result<io::Result<u64>, TraceError> {
        self.enter(registers, instruction, call)?;
        sys::resume_to_syscall(self.0, 0)?;
        match self.wait_for_stop(NEXT_STOP)? {
            Stop::Syscall => self.result(),
            _ => Err(TraceError::UnexpectedStop),
        }
    }

    /// Makes a clone in the task's name, which then stands at the event, before the call returns.
    /// Returns the new task.
    pub(crate) fn clone(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Syscall,
    ) -> Result<io::Result<Tid>, TraceError> {
        const ERESTARTNOINTR: i32 = 513;
        for _ in 0..16 {
            self.enter(registers, instruction, call)?;
            sys::resume_to_syscall(self.0, 0)?;
            match self.wait_for_stop(NEXT_STOP)? {
                Stop::Cloned => return Ok(Ok(sys::event_message(self.0)?)),
                Stop::Syscall => match self.result()? {
                    // The process was told to stop. The next entry takes care of it first.
                    Err(error) if error.raw_os_error() == Some(ERESTARTNOINTR) => {}
                    result => return Ok(result.map(|_| 0)),
                },
                _ => return Err(TraceError::UnexpectedStop),
            }
        }
        Err(TraceError::UnexpectedStop)
    }

    /// Takes the task from inside a call to the interrupt stop that follows it, on the way back to
    /// user mode. A task may be detached with a restart in its registers from such a stop only.
    pub(crate) fn finish_call(self) -> Result<(), TraceError> {
        sys::interrupt(self.0)?;
        sys::resume(self.0, 0)?;
        self.wait_for_interrupt(NEXT_STOP)
    }

    /// The result of the call that has just returned.
    pub(crate) fn result(self) -> Result<io::Result<u64>, TraceError> {
        let registers = sys::registers(self.0)?.ok_or(TraceError::Not64Bit)?;
        let result = registers.rax as i64;
        Ok(if (-4095..0).contains(&result) {
            Err(io::Error::from_raw_os_error(-result as i32))
        } else {
            Ok(registers.rax)
        })
    }

    /// Kills the task and reaps it.
    pub(crate) fn kill(self) -> Result<(), TraceError> {
        self.kill_without_reaping()?;
        self.reap()
    }

    /// Kills the task. Until its tracer has reaped it, nobody else can wait for it.
    pub(crate) fn kill_without_reaping(self) -> Result<(), TraceError> {
        Ok(sys::kill(self.0)?)
    }

    /// Waits for a task that dies, and reaps it as its tracer. Its parent, if it has another, can
    /// wait for it from then on.
    pub(crate) fn reap(self) -> Result<(), TraceError> {
        let begin = Instant::now();
        loop {
            if sys::reap(self.0)? {
                return Ok(());
            }
            match begin.elapsed() {
                waited if waited > NEXT_STOP => return Err(TraceError::TimedOut),
                waited if waited > SPIN => sys::sleep(SPIN / 4),
                _ => sys::yield_processor(),
            }
        }
    }
}
