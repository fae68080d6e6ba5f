//! The keeper: the one thread that traces anchors. It has them made, and collects them when they
//! have died.
//!
//! `ptrace` answers only to the thread that attached, and a tracer's end ends its tracing: so there
//! is one thread for the whole program, which lives as long as the program. It waits for its own
//! tasks by number and never for "any child": the program around us has children of its own.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::anchor::{self, Attempt, Made};
use crate::error::AttachError;
use crate::landmarks::Landmarks;
use crate::procfs;
use crate::saved::Stray;
use crate::stopper::{self, Stopper};
use crate::sys::{self, Tid};
use crate::target::Chosen;
use crate::tracee::FIRST_STOP;

/// How often tasks that are yet to die or to stop are looked at.
const PAUSE: Duration = Duration::from_millis(1);

enum Request {
    Make {
        pid: Tid,
        chosen: Chosen,
        landmarks: Landmarks,
        answer: Sender<Result<Made, AttachError>>,
    },
    Collect(Tid),
}

/// The way to the keeper's thread.
#[derive(Debug)]
pub(crate) struct Keeper(Sender<Request>);

impl Keeper {
    /// Starts the thread, which ends when this value goes.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, requests) = mpsc::channel();
        thread::Builder::new().name("sva-keeper".into()).spawn(move || run(&requests))?;
        Ok(Self(sender))
    }

    /// Makes an anchor. Blocks until it is done; where the thread cannot be stopped, or does not
    /// get on, for some seconds.
    pub(crate) fn make(
        &self,
        pid: Tid,
        chosen: Chosen,
        landmarks: Landmarks,
    ) -> Result<Made, AttachError> {
        let (answer, made) = mpsc::channel();
        let lost =
            || AttachError::host("keeper thread")(io::Error::from(io::ErrorKind::BrokenPipe));
        self.0.send(Request::Make { pid, chosen, landmarks, answer }).map_err(|_| lost())?;
        made.recv().map_err(|_| lost())?
    }

    /// Kills an anchor and has it collected. Does not block. From now on its number may come to
    /// belong to another task.
    pub(crate) fn collect(&self, anchor: Tid) {
        let _ = sys::kill(anchor);
        // Without a keeper the anchor has died with it.
        let _ = self.0.send(Request::Collect(anchor));
    }
}

fn run(requests: &Receiver<Request>) {
    sys::block_signals();
    let mut keeping = Keeping::default();
    loop {
        let request = if keeping.is_idle() {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(PAUSE)
        };
        match request {
            Ok(Request::Make { pid, chosen, landmarks, answer }) => {
                if let Err(mpsc::SendError(Ok(unwanted))) =
                    answer.send(keeping.make(pid, chosen, landmarks))
                {
                    let _ = sys::kill(unwanted.anchor);
                    keeping.dying.push(unwanted.anchor);
                }
            }
            Ok(Request::Collect(anchor)) => keeping.dying.push(anchor),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        keeping.look();
    }
}

/// What the keeper has to come back to.
#[derive(Default)]
struct Keeping {
    stoppers: Vec<Stopper>,
    strays: Vec<Stray>,
    dying: Vec<Tid>,
}

impl Keeping {
    fn is_idle(&self) -> bool {
        self.stoppers.is_empty() && self.strays.is_empty() && self.dying.is_empty()
    }

    fn look(&mut self) {
        self.stoppers.retain_mut(|stopper| !stopper.is_over());
        self.strays.retain_mut(|stray| !stray.try_again());
        self.dying.retain(|&anchor| matches!(sys::collect(anchor), Ok(false)));
    }

    fn make(
        &mut self,
        pid: Tid,
        chosen: Chosen,
        landmarks: Landmarks,
    ) -> Result<Made, AttachError> {
        self.settle(chosen.tgid)
            .map_err(|tid| AttachError::DidNotStop { tid: tid as u32, waited: FIRST_STOP })?;
        if !stopper::is_possible() {
            return self.make_here(pid, &chosen, &landmarks);
        }
        match Stopper::start(pid, chosen, landmarks) {
            Ok(mut stopper) => {
                let made = stopper.anchor();
                if made.is_err() {
                    self.dying.extend(stopper.remains());
                }
                self.stoppers.push(stopper);
                made
            }
            Err((chosen, landmarks)) => self.make_here(pid, &chosen, &landmarks),
        }
    }

    /// With this thread as the tracer from the beginning.
    fn make_here(
        &mut self,
        pid: Tid,
        chosen: &Chosen,
        landmarks: &Landmarks,
    ) -> Result<Made, AttachError> {
        let Attempt { anchor, stopped, stray } = anchor::make(pid, chosen, landmarks);
        self.strays.extend(stray);
        anchor
            .map(|anchor| Made { anchor, stopped })
            .map_err(|failure| failure.into_error(pid, chosen.tid))
    }

    /// Waits until none of a process's threads is held any more: to seize a second one while the
    /// process is in exec, and the exec waits for the first to be collected, would hang. A dead
    /// leader stays astray until its threads are dead too, and is in nobody's way.
    fn settle(&mut self, tgid: Tid) -> Result<(), Tid> {
        let begin = Instant::now();
        loop {
            self.look();
            let astray = |stray: &&Stray| {
                stray.tgid == tgid
                    && !procfs::status(stray.tracee.0).is_ok_and(|status| status.is_dead())
            };
            let strays = self.strays.iter().find(astray).map(|stray| stray.tracee.0);
            match strays.or_else(|| self.stoppers.iter().find_map(|stopper| stopper.holds(tgid))) {
                None => return Ok(()),
                Some(tid) if begin.elapsed() > FIRST_STOP => return Err(tid),
                Some(_) => thread::sleep(PAUSE),
            }
        }
    }
}
