//! The stopper: a short-lived process of ours that stops a process's thread and has it make an
//! anchor, and that finishes this when we are killed meanwhile.
//!
//! A tracer's death lets go what it traces, wherever it stands: a thread whose registers are those
//! of a call made in its name would go on with them, and crash. So the tracer of that moment is a
//! process of its own ([`Shared`]) that a signal to us does not reach. It lets the thread go, makes
//! the anchor complete, and leaves it to the keeper:
//!
//! 1. The anchor is *parked*: stopped by SIGSTOP, with registers that make it exit should anybody
//!    have it go on, and let go by the stopper.
//! 2. The stopper says that it is done (`DONE`) and watches.
//! 3. The keeper seizes the anchor and says so (`TAKEN`). The stopper ends.
//!
//! If the keeper's thread dies before step 3, with its process or by the process's exec, the
//! stopper kills the anchor. If the keeper gives up (`GIVEN_UP`), likewise. If the stopper dies,
//! the keeper kills it. The anchor's pidfd says in all cases which task is meant. A thread that
//! cannot be let go at once keeps the stopper alive until it can.
//!
//! What is not covered: a kill of both, such as that of a whole cgroup, or by the kernel for want
//! of memory, which kills all that share it.
//!
//! Where only an ancestor may trace (Yama, mode 1, without CAP_SYS_PTRACE) the stopper would not be
//! allowed what we are; there, and where it cannot be made, the keeper itself is the tracer from
//! the beginning ([`is_possible`]).

use std::fs;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CapabilitySet;
use sva_core::sync::Mutex;
use sva_core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::anchor::{self, Attempt, Failure, Made};
use crate::error::AttachError;
use crate::landmarks::Landmarks;
use crate::procfs;
use crate::provider::gettid;
use crate::saved::let_go;
use crate::sys::shared::{Shared, Word};
use crate::sys::{self, Descriptor, Registers, Tid};
use crate::target::Chosen;
use crate::tracee::{self, FIRST_STOP, NEXT_STOP, Tracee, Trouble};

/// How long the keeper waits for a stopper that does not get on. What it does needs nothing but a
/// processor, unless the process makes a look at its memory wait.
const LIMIT: Duration = NEXT_STOP.saturating_add(FIRST_STOP);

const WORKING: u32 = 0;
const DONE: u32 = 1;
const TAKEN: u32 = 2;
const GIVEN_UP: u32 = 3;

/// One attempt, as both sides see it.
#[derive(Debug)]
struct Order {
    /// Our process.
    program: Tid,
    /// Its thread that takes the anchor over. It dies with the process, and also in its exec,
    /// which leaves the process's number alone.
    keeper: Tid,
    pid: Tid,
    chosen: Chosen,
    landmarks: Landmarks,
    progress: Word,
    /// The thread has not been let go yet.
    is_astray: AtomicBool,
    parked: OnceLock<Parked>,
    result: Mutex<Option<(Result<(), Failure>, Duration)>>,
}

/// An anchor between two tracers.
#[derive(Debug)]
struct Parked {
    tid: Tid,
    pidfd: Descriptor,
}

impl Parked {
    fn kill(&self) {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            // Somebody else in our program has closed it.
            Err(_) if matches!(anchor::is_helper(self.tid), Ok(true)) => drop(sys::kill(self.tid)),
            Err(_) => {}
        }
    }
}

/// A stopper, as the keeper has it.
#[derive(Debug)]
pub(crate) struct Stopper(Shared<Order>);

/// Whether a process of ours may trace what we may.
pub(crate) fn is_possible() -> bool {
    let only_ancestors = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .is_ok_and(|scope| scope.trim() != "0");
    let may_trace_all = || {
        rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
    };
    cfg!(not(sva_keeper_stops)) && (!only_ancestors || may_trace_all())
}

impl Stopper {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot be made; what it was to work on comes back.
    #[allow(unsafe_code, reason = "`work` keeps to the contract that it is started under")]
    pub(crate) fn start(
        pid: Tid,
        chosen: Chosen,
        landmarks: Landmarks,
    ) -> Result<Self, (Chosen, Landmarks)> {
        // SAFETY: `work`, and all that it calls in `anchor`, `saved`, `tracee`, `procfs` and `sys`,
        // makes bare system calls and uses its own stack. It takes the lock of
        // `result` before it says that it is done, we after that; `parked` is set by it and only
        // looked at by us.
        unsafe { Shared::start(order(pid, chosen, landmarks), work) }
            .map(Self)
            .map_err(|(order, _)| (order.chosen, order.landmarks))
    }

    /// Waits for the anchor and takes it over. To be called once.
    ///
    /// # Errors
    /// There is none. What there was of it is killed, and [`remains`](Self::remains).
    pub(crate) fn anchor(&mut self) -> Result<Made, AttachError> {
        let made = self.take();
        if let (Err(_), Some(parked)) = (&made, self.order().parked.get()) {
            parked.kill();
        }
        made
    }

    /// The anchor, which may be ours to collect.
    pub(crate) fn remains(&self) -> Option<Tid> {
        self.order().parked.get().map(|parked| parked.tid)
    }

    fn take(&mut self) -> Result<Made, AttachError> {
        let (pid, tid) = (self.order().pid, self.order().chosen.tid);
        self.wait()?;
        let (result, stopped) = self.order().result.lock().take().ok_or_else(killed)?;
        let parked = match (result, self.order().parked.get()) {
            (Ok(()), Some(parked)) => parked,
            (Ok(()), None) => return Err(killed()),
            (Err(failure), _) => return Err(failure.into_error(pid, tid)),
        };
        let (anchor, taken) = (parked.tid, take_over(parked));
        self.order().progress.change(DONE, if taken.is_ok() { TAKEN } else { GIVEN_UP });
        taken.map(|()| Made { anchor, stopped }).map_err(|trouble| trouble.into_error(pid, anchor))
    }

    fn wait(&mut self) -> Result<(), AttachError> {
        let (mut begin, mut seen) = (Instant::now(), tracee::progress());
        while self.order().progress.get() == WORKING {
            self.order().progress.wait_while(WORKING);
            if self.0.is_over() && self.order().progress.get() == WORKING {
                return Err(killed());
            }
            if tracee::progress() != seen {
                (begin, seen) = (Instant::now(), tracee::progress());
            }
            let late = begin.elapsed() > LIMIT;
            if late && self.order().progress.change(WORKING, GIVEN_UP) {
                return Err(AttachError::DidNotStop {
                    tid: self.order().chosen.tid as u32,
                    waited: LIMIT,
                });
            }
        }
        Ok(())
    }

    /// Whether it is over; does not wait.
    pub(crate) fn is_over(&mut self) -> bool {
        self.0.is_over()
    }

    /// The thread of process `tgid` that it still holds, if it does. A dead one is in nobody's way.
    pub(crate) fn holds(&self, tgid: Tid) -> Option<Tid> {
        let Order { chosen, is_astray, progress, .. } = self.order();
        let holds = is_astray.load(SeqCst) || progress.get() == GIVEN_UP;
        let in_the_way = chosen.tgid == tgid
            && holds
            && !procfs::status(chosen.tid).is_ok_and(|status| status.is_dead());
        in_the_way.then_some(chosen.tid)
    }

    fn order(&self) -> &Order {
        self.0.data()
    }
}

fn killed() -> AttachError {
    AttachError::host("stopper process")(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
}

/// An attempt that nobody has begun; the calling thread is to take the anchor over.
fn order(pid: Tid, chosen: Chosen, landmarks: Landmarks) -> Order {
    Order {
        program: std::process::id() as Tid,
        keeper: gettid(),
        pid,
        chosen,
        landmarks,
        progress: Word::new(WORKING),
        is_astray: AtomicBool::new(false),
        parked: OnceLock::new(),
        result: Mutex::new(None),
    }
}

/// Makes the calling thread the tracer of a parked anchor.
fn take_over(parked: &Parked) -> Result<(), Trouble> {
    let anchor = Tracee(parked.tid);
    sys::seize(parked.tid)?;
    anchor.interrupted(NEXT_STOP)?;
    // Traced, the number stays; was it the anchor's until then?
    if !sys::is_ours(parked.pidfd.as_fd()) {
        let_go(anchor, None)?;
        return Err(Trouble::Gone);
    }
    Ok(sys::set_options(
        parked.tid,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC,
    )?)
}

impl Order {
    fn keeper_lives(&self) -> bool {
        sys::has_thread(self.program, self.keeper)
    }

    /// Whether the anchor is in good hands, or dead.
    fn is_settled(&self) -> bool {
        match (self.progress.get(), self.parked.get()) {
            (TAKEN, _) | (_, None) => true,
            (DONE, _) if self.keeper_lives() => false,
            (_, Some(parked)) => {
                parked.kill();
                true
            }
        }
    }
}

/// What the stopper does.
fn work(order: &Order) {
    // Out of reach of what is sent to our process group.
    let _ = rustix::process::setsid();
    if !order.keeper_lives() {
        return;
    }
    let Attempt { anchor, stopped, mut stray } =
        anchor::make(order.pid, &order.chosen, &order.landmarks);
    let parked = anchor.and_then(|anchor| {
        park(order, anchor).map_err(|trouble| Failure::Other(trouble.into_error(order.pid, anchor)))
    });
    let is_parked = parked.is_ok();
    order.is_astray.store(stray.is_some(), SeqCst);
    *order.result.lock() = Some((parked, stopped));
    order.progress.change(WORKING, DONE);
    loop {
        stray = stray.and_then(|mut stray| (!stray.try_again()).then_some(stray));
        order.is_astray.store(stray.is_some(), SeqCst);
        match (&stray, !is_parked || order.is_settled()) {
            (None, true) => return,
            (None, false) => order.progress.wait_while(DONE),
            (Some(_), _) => sys::pause(Duration::from_millis(1)),
        }
    }
}

/// Lets an anchor go, stopped. Who it is is known to the keeper before: from the moment on that it
/// is let go it does not die with us.
fn park(order: &Order, anchor: Tid) -> Result<(), Trouble> {
    let parked = (|| {
        let number = Pid::from_raw(anchor).ok_or(Trouble::Gone)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .map_err(std::io::Error::from)?
            .into();
        let _ = order.parked.set(Parked { tid: anchor, pidfd });
        let registers = sys::registers(anchor)?.ok_or(Trouble::Mode)?;
        let exit = Registers {
            rip: order.landmarks.instruction,
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
        AttachError, Chosen, DONE, Duration, Failure, Landmarks, Order, Shared, Stopper, WORKING,
        gettid, order, sys, tracee,
    };
    use crate::procfs::TaskDir;

    /// As on a machine that is short of processors.
    fn slow(order: &Order) {
        for _ in 0..6 {
            sys::pause(Duration::from_millis(500));
            tracee::get_on();
        }
        *order.result.lock() = Some((
            Err(Failure::Seize(std::io::Error::from_raw_os_error(libc::EIO))),
            Duration::ZERO,
        ));
        order.progress.change(WORKING, DONE);
    }

    #[test]
    #[allow(unsafe_code, reason = "`slow` does nothing that `work` does not")]
    fn a_stopper_that_gets_on_slowly_is_waited_for() {
        let tid = gettid();
        let chosen =
            Chosen { tid, directory: TaskDir::open(tid).unwrap(), tgid: tid, stands_in: false };
        // SAFETY: it sleeps, counts, and fills in the result as `work` does.
        let started = unsafe {
            Shared::start(order(tid, chosen, Landmarks { instruction: 0, root: None }), slow)
        };
        let mut stopper = Stopper(started.unwrap());
        assert!(
            matches!(stopper.anchor(), Err(AttachError::Host(_))),
            "the answer of the stopper, not ours"
        );
        while !stopper.is_over() {
            std::thread::yield_now();
        }
    }
}
