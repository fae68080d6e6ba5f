//! One traced task: its stops, and system calls made in its name. Used by its tracer only.
//!
//! Nothing here allocates or uses `errno`: see
//! [`Shared::start`](crate::sys::shared::Shared::start).
//!
//! A stop is learned from `waitpid` where possible, and from the stop's own siginfo otherwise: any
//! thread of this process may collect a wait status of the keeper's tracees by waiting for all
//! children, and must not be able to make an attach fail by it.

use std::io;
use std::time::{Duration, Instant};

use sva_core::sync::atomic::{AtomicU32, Ordering};

use crate::error::AttachError;
use crate::procfs;
use crate::provider::gettid;
use crate::sys::{self, EVENT_CLONE, EVENT_STOP, Registers, Tid, Waited};

/// How long a task may take to stop at first.
pub(crate) const FIRST_STOP: Duration = Duration::from_millis(250);
/// How long it may take from one stop to the next: a bound against hanging only, since it has
/// nothing to wait for but a processor.
pub(crate) const NEXT_STOP: Duration = Duration::from_secs(2);
/// Stops come within microseconds; a task that takes longer than this waits for a processor, which
/// we would only take from it.
const SPIN: Duration = Duration::from_micros(300);

/// Stops that tracers of this program have seen, the stopper's included.
static SEEN: AtomicU32 = AtomicU32::new(0);

/// Changes whenever a tracer of this program gets on: what only waits for a processor, on a machine
/// that is short of them, is told by it from what hangs.
pub(crate) fn progress() -> u32 {
    SEEN.load(Ordering::SeqCst)
}

/// See [`progress`].
pub(crate) fn get_on() {
    SEEN.fetch_add(1, Ordering::SeqCst);
}

/// Why a task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By PTRACE_INTERRUPT, a group stop, or because it is new.
    Interrupted,
    /// It has made a new task, which is traced as well.
    Cloned,
    /// On entry to or return from a system call.
    Call,
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
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => Self::Call,
            (signal, 0) => Self::Signal(signal),
            (_, event) => Self::Other(event),
        }
    }

    fn from_info((signal, code): (i32, i32)) -> Self {
        if code == libc::SIGTRAP | 0x80 {
            Self::Call
        } else {
            Self::new(signal, if code > 0xff { code >> 8 } else { 0 })
        }
    }
}

/// Why a traced task did not do as it should.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It is dead, and reaped as far as that is ours to do.
    Gone,
    /// It did not stop in time.
    Late,
    /// It stopped for another reason than expected.
    Unexpected,
    /// It is not in 64-bit mode any more.
    Mode,
    /// A request was refused.
    Request(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Request(error)
    }
}

impl Trouble {
    /// As the answer to whoever wanted `pid` attached by way of `tid`.
    pub(crate) fn into_error(self, pid: Tid, tid: Tid) -> AttachError {
        match self {
            Self::Gone => AttachError::Gone { pid: pid as u32 },
            // Killed in the middle of it.
            Self::Request(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                AttachError::Gone { pid: pid as u32 }
            }
            Self::Late => AttachError::DidNotStop { tid: tid as u32, waited: FIRST_STOP },
            // Others stop it and have it go on, again and again.
            Self::Unexpected => AttachError::Busy { tid: tid as u32, call: -1 },
            Self::Mode => AttachError::ThirtyTwoBit { tid: tid as u32 },
            Self::Request(error) => AttachError::host("ptrace")(error),
        }
    }
}

/// A system call to be made: a name for messages, a number, arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 4],
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracee(pub(crate) Tid);

impl Tracee {
    /// Waits for the next stop, whatever it is.
    pub(crate) fn stop(self, limit: Duration) -> Result<Stop, Trouble> {
        let stop = self.next_stop(limit);
        if stop.is_ok() {
            get_on();
        }
        stop
    }

    fn next_stop(self, limit: Duration) -> Result<Stop, Trouble> {
        let begin = Instant::now();
        loop {
            if let Some(stop) = self.look()? {
                return Ok(stop);
            }
            if sys::stop_info(self.0).is_ok() {
                // It has stopped between the two looks, or the stop was collected by somebody else.
                if let Some(stop) = self.look()? {
                    return Ok(stop);
                }
                return Ok(Stop::from_info(sys::stop_info(self.0)?));
            }
            let waited = begin.elapsed();
            if waited <= SPIN && waited <= limit {
                sys::give_way();
            } else if !self.is_traced() {
                return Err(Trouble::Gone);
            } else if waited > limit {
                return Err(Trouble::Late);
            } else {
                sys::pause(SPIN / 4);
            }
        }
    }

    fn look(self) -> Result<Option<Stop>, Trouble> {
        match sys::wait(self.0)? {
            Waited::Stopped { signal, event } => Ok(Some(Stop::new(signal, event))),
            Waited::Nothing => Ok(None),
            Waited::NotOurs => Err(Trouble::Gone),
            Waited::Dead => {
                self.bury();
                Err(Trouble::Gone)
            }
        }
    }

    /// Collects a dead task of the process: as its tracer we are first to, and nobody else can
    /// before. A child of our own process is left to the program that made it.
    fn bury(self) {
        let leads = procfs::status(self.0).is_ok_and(|status| status.tgid == self.0);
        let is_own_child = leads
            && procfs::parent(self.0)
                .is_ok_and(|parent| parent == rustix::process::getpid().as_raw_nonzero().get());
        if !is_own_child {
            let _ = sys::collect(self.0);
        }
    }

    /// Whether the number is a task's that we trace. It may not be the same as before: a thread
    /// that execs takes over the number of the leader. Where that cannot be seen at the moment,
    /// since our program has no descriptor left or has just closed this one, it counts as one:
    /// to give up a task that is traced would be the end of it.
    pub(crate) fn is_traced(self) -> bool {
        procfs::status(self.0)
            .map_or_else(|error| !procfs::is_gone(&error), |status| status.tracer == gettid())
    }

    /// Waits for [`Stop::Interrupted`]; signals that come first are delivered.
    pub(crate) fn interrupted(self, limit: Duration) -> Result<(), Trouble> {
        loop {
            match self.stop(limit)? {
                Stop::Interrupted => return Ok(()),
                Stop::Signal(signal) => sys::resume(self.0, signal)?,
                Stop::Call | Stop::Cloned | Stop::Other(_) => sys::resume(self.0, 0)?,
            }
        }
    }

    /// The first stop of a new task.
    pub(crate) fn first_stop(self) -> Result<(), Trouble> {
        match self.stop(NEXT_STOP)? {
            Stop::Interrupted => Ok(()),
            _ => Err(Trouble::Unexpected),
        }
    }

    /// Leads a stopped task into `call`, made by the instruction at `instruction`: it stands at the
    /// entry.
    pub(crate) fn enter(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Call,
    ) -> Result<(), Trouble> {
        let [a, b, c, d] = call.arguments;
        // No number in orig_rax: what restarts interrupted calls must leave this one alone.
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
            sys::resume_to_call(self.0, signal)?;
            signal = 0;
            match self.stop(NEXT_STOP)? {
                Stop::Call => return Ok(()),
                // A group stop came in between; it is taken up again when the task is let go.
                Stop::Interrupted => {}
                // The one that cannot be blocked: it is to stop the process.
                Stop::Signal(libc::SIGSTOP) => signal = libc::SIGSTOP,
                _ => return Err(Trouble::Unexpected),
            }
        }
        Err(Trouble::Unexpected)
    }

    /// Makes one call in the task's name; it then stands at its return. The inner error is the
    /// kernel's answer.
    pub(crate) fn call(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Call,
    ) -> Result<io::Result<u64>, Trouble> {
        self.enter(registers, instruction, call)?;
        sys::resume_to_call(self.0, 0)?;
        match self.stop(NEXT_STOP)? {
            Stop::Call => self.answer(),
            _ => Err(Trouble::Unexpected),
        }
    }

    /// Makes a clone in the task's name; it then stands at the event, with the call not yet
    /// returned. Answers the new task.
    pub(crate) fn clone(
        self,
        registers: &Registers,
        instruction: u64,
        call: &Call,
    ) -> Result<io::Result<Tid>, Trouble> {
        const ERESTARTNOINTR: i32 = 513;
        for _ in 0..16 {
            self.enter(registers, instruction, call)?;
            sys::resume_to_call(self.0, 0)?;
            match self.stop(NEXT_STOP)? {
                Stop::Cloned => return Ok(Ok(sys::event_message(self.0)?)),
                Stop::Call => match self.answer()? {
                    // A stop was asked of the process meanwhile; on the next entry it has been seen
                    // to.
                    Err(error) if error.raw_os_error() == Some(ERESTARTNOINTR) => {}
                    answer => return Ok(answer.map(|_| 0)),
                },
                _ => return Err(Trouble::Unexpected),
            }
        }
        Err(Trouble::Unexpected)
    }

    /// From inside a call to the stop that follows it, on the way back to user mode: the only kind
    /// of stop that registers with a restart in them may be left from.
    pub(crate) fn finish_call(self) -> Result<(), Trouble> {
        sys::interrupt(self.0)?;
        sys::resume(self.0, 0)?;
        self.interrupted(NEXT_STOP)
    }

    /// What the call that has just returned answered.
    pub(crate) fn answer(self) -> Result<io::Result<u64>, Trouble> {
        let registers = sys::registers(self.0)?.ok_or(Trouble::Mode)?;
        let answer = registers.rax as i64;
        Ok(if (-4095..0).contains(&answer) {
            Err(io::Error::from_raw_os_error(-answer as i32))
        } else {
            Ok(registers.rax)
        })
    }

    /// Kills the task and collects it.
    pub(crate) fn kill(self) -> Result<(), Trouble> {
        self.kill_uncollected()?;
        self.collect()
    }

    /// Kills the task, which until it is collected nobody else can wait for.
    pub(crate) fn kill_uncollected(self) -> Result<(), Trouble> {
        Ok(sys::kill(self.0)?)
    }

    /// Collects a task that dies. If it has a parent of its own, that one can collect it from now
    /// on.
    pub(crate) fn collect(self) -> Result<(), Trouble> {
        let begin = Instant::now();
        loop {
            if sys::collect(self.0)? {
                return Ok(());
            }
            match begin.elapsed() {
                waited if waited > NEXT_STOP => return Err(Trouble::Late),
                waited if waited > SPIN => sys::pause(SPIN / 4),
                _ => sys::give_way(),
            }
        }
    }
}
