//! The tracer process: a short-lived process of ours that stops a process's thread, has it make an
//! anchor, and finishes this even if we are killed meanwhile.
//!
//! # Why it is needed
//!
//! When a tracer dies, its tracees continue from wherever they are. A thread whose registers are
//! those of a call made in its name would continue with them and crash. So the tracer of that
//! moment is a process of its own ([`VmProcess`]), which a signal to us does not reach. It restores
//! and detaches the thread, completes the anchor, and hands it over to the tracer thread:
//!
//! 1. The tracer process *parks* the anchor: it sets registers that would make the anchor exit if
//!    it ever ran, and detaches it with SIGSTOP.
//! 2. It changes the state from `MAKING` to `MADE` and waits.
//! 3. The tracer thread seizes the anchor and changes the state to `TAKEN_OVER`. The tracer process
//!    ends.
//!
//! If the tracer thread dies before step 3, with its process or by the process's exec, the tracer
//! process kills the anchor. It also does so if the tracer thread sets `ABANDONED`. If the tracer
//! process dies, the tracer thread kills the anchor. In all cases a pidfd identifies the anchor. A
//! thread that cannot be detached at once keeps the tracer process alive until it can.
//!
//! # What is not covered
//!
//! Both can be killed at once, as with a whole cgroup, or by the kernel for want of memory, which
//! kills all processes that share it.
//!
//! Where only an ancestor may trace (Yama's `ptrace_scope` 1, without CAP_SYS_PTRACE) the tracer
//! process would not have our rights. There, and where it cannot be made, the tracer thread traces
//! the thread from the beginning ([`is_possible`]).

use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CapabilitySet;
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::denial::ptrace_scope;
use super::identify::is_anchor;
use super::make::{MakeError, Outcome, make};
use super::select::TargetThread;
use crate::error::AttachError;
use crate::linux::inject::{
    self, FIRST_STOP, NEXT_STOP, SyscallSite, TraceError, Tracee, restore_and_detach,
};
use crate::linux::procfs;
use crate::linux::sys::clone::{Futex, VmProcess};
use crate::linux::sys::{self, Descriptor, Registers, Tid, gettid};

/// How long the tracer thread waits for a tracer process that makes no progress. It waits for a
/// processor only, unless the target process makes a read of its memory wait.
const LIMIT: Duration = NEXT_STOP.saturating_add(FIRST_STOP);

const MAKING: u32 = 0;
const MADE: u32 = 1;
const TAKEN_OVER: u32 = 2;
const ABANDONED: u32 = 3;

/// One attempt to make an anchor, shared by the tracer process and the tracer thread.
#[derive(Debug)]
struct Handover {
    /// Our process.
    program: Tid,
    /// The thread that takes the anchor over. It dies with our process. It also dies in our
    /// process's exec, which leaves the number of the process alone.
    tracer_thread: Tid,
    pid: Tid,
    target: TargetThread,
    site: SyscallSite,
    state: Futex,
    /// The target thread has not been detached yet.
    holds_target: AtomicBool,
    parked: OnceLock<ParkedAnchor>,
    result: Mutex<Option<(Result<(), MakeError>, Duration)>>,
}

/// An anchor between its two tracers.
#[derive(Debug)]
struct ParkedAnchor {
    tid: Tid,
    pidfd: Descriptor,
}

impl ParkedAnchor {
    fn kill(&self) {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            // Somebody else in our program has closed the descriptor.
            Err(_) if matches!(is_anchor(self.tid), Ok(true)) => drop(sys::kill(self.tid)),
            Err(_) => {}
        }
    }
}

/// A tracer process, as the tracer thread sees it.
#[derive(Debug)]
pub(super) struct TracerProcess(VmProcess<Handover>);

/// Whether a process of ours may trace what we may trace.
pub(super) fn is_possible() -> bool {
    let only_ancestors = ptrace_scope().is_some_and(|scope| scope != 0);
    let may_trace_all = || {
        rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
    };
    cfg!(not(sva_no_tracer_process)) && (!only_ancestors || may_trace_all())
}

impl TracerProcess {
    /// Starts one. The calling thread is the one that will take the anchor over.
    ///
    /// # Errors
    /// The process cannot be made. What it was to work on is returned.
    #[allow(unsafe_code, reason = "`run` keeps the contract under which it is started")]
    pub(super) fn start(
        pid: Tid,
        target: TargetThread,
        site: SyscallSite,
    ) -> Result<Self, (TargetThread, SyscallSite)> {
        // SAFETY: `run`, and all that it calls in `make`, `inject`, `procfs` and `sys`, makes bare
        // system calls and uses its own stack. Of the shared locks it takes that of `result`, and
        // only before it sets `MADE`; we take it only after that. `parked` is set by it and only
        // read by us.
        unsafe { VmProcess::start(handover(pid, target, site), run) }
            .map(Self)
            .map_err(|(handover, _)| (handover.target, handover.site))
    }

    /// Waits for the anchor and takes it over. Returns it, and for how long the target thread was
    /// stopped. To be called once.
    ///
    /// # Errors
    /// There is no anchor. What was made of it is killed, and remains to be reaped
    /// ([`parked`](Self::parked)).
    pub(super) fn take_anchor(&mut self) -> Result<(Tid, Duration), AttachError> {
        let taken = self.wait_and_take_over();
        if let (Err(_), Some(parked)) = (&taken, self.handover().parked.get()) {
            parked.kill();
        }
        taken
    }

    /// The anchor that was parked, if any.
    pub(super) fn parked(&self) -> Option<Tid> {
        self.handover().parked.get().map(|parked| parked.tid)
    }

    fn wait_and_take_over(&mut self) -> Result<(Tid, Duration), AttachError> {
        let (pid, tid) = (self.handover().pid, self.handover().target.tid);
        self.wait_until_made()?;
        let (result, stopped) = self.handover().result.lock().take().ok_or_else(killed)?;
        let parked = match (result, self.handover().parked.get()) {
            (Ok(()), Some(parked)) => parked,
            (Ok(()), None) => return Err(killed()),
            (Err(error), _) => return Err(error.into_attach_error(pid, tid)),
        };
        let (anchor, taken) = (parked.tid, take_over(parked));
        let state = if taken.is_ok() { TAKEN_OVER } else { ABANDONED };
        self.handover().state.change(MADE, state);
        taken.map(|()| (anchor, stopped)).map_err(|error| error.into_attach_error(pid, anchor))
    }

    fn wait_until_made(&mut self) -> Result<(), AttachError> {
        let (mut begin, mut seen) = (Instant::now(), inject::progress());
        while self.handover().state.get() == MAKING {
            self.handover().state.wait_while(MAKING);
            if self.0.has_ended() && self.handover().state.get() == MAKING {
                return Err(killed());
            }
            if inject::progress() != seen {
                (begin, seen) = (Instant::now(), inject::progress());
            }
            let late = begin.elapsed() > LIMIT;
            if late && self.handover().state.change(MAKING, ABANDONED) {
                let tid = self.handover().target.tid as u32;
                return Err(AttachError::DidNotStop { tid, waited: LIMIT });
            }
        }
        Ok(())
    }

    /// Whether it has ended. Does not block.
    pub(super) fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    /// The living thread of process `tgid` that it still traces, if it traces one.
    pub(super) fn held_thread_of(&self, tgid: Tid) -> Option<Tid> {
        let Handover { target, holds_target, state, .. } = self.handover();
        let holds = holds_target.load(SeqCst) || state.get() == ABANDONED;
        let is_held = target.tgid == tgid
            && holds
            && !procfs::status(target.tid).is_ok_and(|status| status.is_dead());
        is_held.then_some(target.tid)
    }

    fn handover(&self) -> &Handover {
        self.0.data()
    }
}

fn killed() -> AttachError {
    AttachError::host("tracer process")(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
}

/// The state of an attempt that nobody has begun.
fn handover(pid: Tid, target: TargetThread, site: SyscallSite) -> Handover {
    Handover {
        program: std::process::id() as Tid,
        tracer_thread: gettid(),
        pid,
        target,
        site,
        state: Futex::new(MAKING),
        holds_target: AtomicBool::new(false),
        parked: OnceLock::new(),
        result: Mutex::new(None),
    }
}

/// Makes the calling thread the tracer of a parked anchor.
fn take_over(parked: &ParkedAnchor) -> Result<(), TraceError> {
    let anchor = Tracee(parked.tid);
    sys::seize(parked.tid)?;
    anchor.wait_for_interrupt(NEXT_STOP)?;
    // Traced, the task keeps its number. The pidfd tells whether the number was the anchor's until
    // then: this process may wait for the task behind it only if it is the tracee.
    if !sys::is_waitable_and_alive(parked.pidfd.as_fd()) {
        restore_and_detach(anchor, None)?;
        return Err(TraceError::Gone);
    }
    Ok(sys::set_options(
        parked.tid,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC,
    )?)
}

impl Handover {
    fn tracer_thread_lives(&self) -> bool {
        sys::has_thread(self.program, self.tracer_thread)
    }

    /// Whether the anchor has been taken over or killed. Kills it where nobody will take it over.
    fn is_complete(&self) -> bool {
        match (self.state.get(), self.parked.get()) {
            (TAKEN_OVER, _) | (_, None) => true,
            (MADE, _) if self.tracer_thread_lives() => false,
            (_, Some(parked)) => {
                parked.kill();
                true
            }
        }
    }
}

/// The body of the tracer process.
fn run(handover: &Handover) {
    // A session of its own: signals to our process group do not reach it.
    let _ = rustix::process::setsid();
    if !handover.tracer_thread_lives() {
        return;
    }
    let Outcome { anchor, stopped, mut pending } =
        make(handover.pid, &handover.target, &handover.site);
    let parked = anchor.and_then(|anchor| {
        park(handover, anchor)
            .map_err(|error| MakeError::Other(error.into_attach_error(handover.pid, anchor)))
    });
    let is_parked = parked.is_ok();
    handover.holds_target.store(pending.is_some(), SeqCst);
    *handover.result.lock() = Some((parked, stopped));
    handover.state.change(MAKING, MADE);
    loop {
        pending = pending.and_then(|mut pending| (!pending.retry()).then_some(pending));
        handover.holds_target.store(pending.is_some(), SeqCst);
        match (&pending, !is_parked || handover.is_complete()) {
            (None, true) => return,
            (None, false) => handover.state.wait_while(MADE),
            (Some(_), _) => sys::sleep(Duration::from_millis(1)),
        }
    }
}

/// Detaches an anchor, stopped. Its pidfd is published first: once detached, the anchor does not
/// die with its tracer any more.
fn park(handover: &Handover, anchor: Tid) -> Result<(), TraceError> {
    let parked = (|| {
        let number = Pid::from_raw(anchor).ok_or(TraceError::Gone)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .map_err(std::io::Error::from)?
            .into();
        let _ = handover.parked.set(ParkedAnchor { tid: anchor, pidfd });
        let registers = sys::registers(anchor)?.ok_or(TraceError::Not64Bit)?;
        let exit = Registers {
            rip: handover.site.instruction,
            rax: libc::SYS_exit as u64,
            orig_rax: u64::MAX,
            rdi: 0,
            ..registers
        };
        sys::set_registers(anchor, &exit)?;
        Ok(sys::detach(anchor, libc::SIGSTOP)?)
    })();
    if parked.is_err() {
        // Best effort: it dies with its tracer at the latest.
        let _ = Tracee(anchor).kill();
    }
    parked
}

#[cfg(test)]
mod tests {
    use super::{
        AttachError, Duration, Handover, MADE, MAKING, MakeError, SyscallSite, TargetThread,
        TracerProcess, VmProcess, gettid, handover, inject, sys,
    };
    use crate::linux::procfs::TaskDir;

    /// Makes progress slowly, as on a busy machine.
    fn slow(handover: &Handover) {
        for _ in 0..6 {
            sys::sleep(Duration::from_millis(500));
            inject::record_progress();
        }
        let error = MakeError::Seize(std::io::Error::from_raw_os_error(libc::EIO));
        *handover.result.lock() = Some((Err(error), Duration::ZERO));
        handover.state.change(MAKING, MADE);
    }

    #[test]
    #[allow(unsafe_code, reason = "`slow` does nothing that `run` does not")]
    fn a_tracer_process_that_makes_progress_slowly_is_waited_for() {
        let tid = gettid();
        let directory = TaskDir::open(tid).unwrap();
        let target = TargetThread { tid, directory, tgid: tid, is_of_sharer: false };
        let site = SyscallSite { instruction: 0, root_path: None };
        // SAFETY: it sleeps, counts, and sets the result as `run` does.
        let started = unsafe { VmProcess::start(handover(tid, target, site), slow) };
        let mut process = TracerProcess(started.unwrap());
        assert!(
            matches!(process.take_anchor(), Err(AttachError::Host(_))),
            "the error is the tracer process's, not ours"
        );
        while !process.has_ended() {
            std::thread::yield_now();
        }
    }
}
