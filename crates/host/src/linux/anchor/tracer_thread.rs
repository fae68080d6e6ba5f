//! The tracer thread: the one thread that traces anchors. It has them made, and reaps them when
//! they have died.
//!
//! The kernel accepts `ptrace` requests from the thread that attached only, and tracing ends when
//! that thread ends. So there is one such thread for the whole program, which lives as long as the
//! program. It waits for its tracees by number and never for "any child": the program has children
//! of its own.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::make::{Outcome, make};
use super::select::TargetThread;
use super::tracer_process::{self, TracerProcess};
use crate::error::AttachError;
use crate::linux::inject::{FIRST_STOP, PendingDetach, SyscallSite};
use crate::linux::procfs;
use crate::linux::sys::{self, Tid};

/// The time between two looks at tasks that are to die or to stop.
const INTERVAL: Duration = Duration::from_millis(1);

/// An anchor, and for how long the target thread was stopped to make it.
type Made = Result<(Tid, Duration), AttachError>;

enum Request {
    Make { pid: Tid, target: TargetThread, site: SyscallSite, reply: Sender<Made> },
    Reap(Tid),
}

/// A handle of the tracer thread. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct TracerThread(Sender<Request>);

impl TracerThread {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, requests) = mpsc::channel();
        thread::Builder::new().name("sva-tracer".into()).spawn(move || run(&requests))?;
        Ok(Self(sender))
    }

    /// Makes an anchor by way of the thread `target` of process `pid`, which the tracer thread
    /// traces from then on. Blocks until it is done; for some seconds where the target thread
    /// cannot be stopped or makes no progress.
    pub(super) fn make(&self, pid: Tid, target: TargetThread, site: SyscallSite) -> Made {
        let (reply, made) = mpsc::channel();
        let lost =
            || AttachError::host("tracer thread")(io::Error::from(io::ErrorKind::BrokenPipe));
        self.0.send(Request::Make { pid, target, site, reply }).map_err(|_| lost())?;
        made.recv().map_err(|_| lost())?
    }

    /// Kills an anchor and has it reaped. Does not block. From now on its number may be reused.
    pub(super) fn kill_and_reap(&self, anchor: Tid) {
        let _ = sys::kill(anchor);
        // If the tracer thread is gone, the anchor has died with it.
        let _ = self.0.send(Request::Reap(anchor));
    }
}

fn run(requests: &Receiver<Request>) {
    sys::block_signals();
    let mut work = Work::default();
    loop {
        let request = if work.is_empty() {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(INTERVAL)
        };
        match request {
            Ok(Request::Make { pid, target, site, reply }) => {
                if let Err(mpsc::SendError(Ok((unwanted, _)))) =
                    reply.send(work.make(pid, target, site))
                {
                    let _ = sys::kill(unwanted);
                    work.dying.push(unwanted);
                }
            }
            Ok(Request::Reap(anchor)) => work.dying.push(anchor),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        work.poll();
    }
}

/// What the tracer thread has to return to.
#[derive(Default)]
struct Work {
    /// Tracer processes that have not ended.
    processes: Vec<TracerProcess>,
    /// Threads that this thread traces and could not detach yet.
    pending: Vec<PendingDetach>,
    /// Anchors that were killed and are not zombies yet.
    dying: Vec<Tid>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.pending.is_empty() && self.dying.is_empty()
    }

    fn poll(&mut self) {
        self.processes.retain_mut(|process| !process.has_ended());
        self.pending.retain_mut(|pending| !pending.retry());
        self.dying.retain(|&anchor| matches!(sys::reap(anchor), Ok(false)));
    }

    fn make(&mut self, pid: Tid, target: TargetThread, site: SyscallSite) -> Made {
        self.wait_until_detached(target.tgid)
            .map_err(|tid| AttachError::DidNotStop { tid: tid as u32, waited: FIRST_STOP })?;
        if !tracer_process::is_possible() {
            return self.make_here(pid, &target, &site);
        }
        match TracerProcess::start(pid, target, site) {
            Ok(mut process) => {
                let made = process.take_anchor();
                if made.is_err() {
                    self.dying.extend(process.parked());
                }
                self.processes.push(process);
                made
            }
            Err((target, site)) => self.make_here(pid, &target, &site),
        }
    }

    /// Makes an anchor with this thread as the tracer from the beginning.
    fn make_here(&mut self, pid: Tid, target: &TargetThread, site: &SyscallSite) -> Made {
        let Outcome { anchor, stopped, pending } = make(pid, target, site);
        self.pending.extend(pending);
        anchor
            .map(|anchor| (anchor, stopped))
            .map_err(|error| error.into_attach_error(pid, target.tid))
    }

    /// Waits until no living thread of process `tgid` is traced for an earlier attempt.
    ///
    /// Otherwise this could hang: an exec of the process waits until the traced thread has been
    /// reaped, and a seize of a second thread waits for the exec. A dead leader stays pending until
    /// its threads are dead too, and is in nobody's way.
    fn wait_until_detached(&mut self, tgid: Tid) -> Result<(), Tid> {
        let begin = Instant::now();
        loop {
            self.poll();
            let is_held = |pending: &&PendingDetach| {
                pending.tgid == tgid
                    && !procfs::status(pending.tracee.0).is_ok_and(|status| status.is_dead())
            };
            let held = self.pending.iter().find(is_held).map(|pending| pending.tracee.0);
            match held
                .or_else(|| self.processes.iter().find_map(|process| process.held_thread_of(tgid)))
            {
                None => return Ok(()),
                Some(tid) if begin.elapsed() > FIRST_STOP => return Err(tid),
                Some(_) => thread::sleep(INTERVAL),
            }
        }
    }
}
