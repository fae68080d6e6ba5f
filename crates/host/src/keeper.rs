//! The keeper: the one thread that traces. It makes anchors, and collects them when they have died.
//!
//! `ptrace` answers only to the thread that attached, and a tracer's end ends its tracing: so there is one thread for the whole program, which lives as long as the program.
//! It waits for its own tasks by number and never for "any child": the program around us has children of its own.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::anchor::{self, Landmarks, Made, Stray};
use crate::error::AttachError;
use crate::sys::{self, Tid};
use crate::target::Chosen;

/// How often tasks that are yet to die or to stop are looked at.
const PAUSE: Duration = Duration::from_millis(1);

enum Request {
    Make { pid: Tid, chosen: Chosen, landmarks: Landmarks, answer: Sender<Result<Made, AttachError>> },
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

    /// Makes an anchor; see [`anchor::make`]. Blocks until it is done.
    pub(crate) fn make(&self, pid: Tid, chosen: Chosen, landmarks: Landmarks) -> Result<Made, AttachError> {
        let (answer, made) = mpsc::channel();
        let lost = || AttachError::host("keeper thread")(io::Error::from(io::ErrorKind::BrokenPipe));
        self.0.send(Request::Make { pid, chosen, landmarks, answer }).map_err(|_| lost())?;
        made.recv().map_err(|_| lost())?
    }

    /// Kills an anchor and has it collected. Does not block. From now on its number may come to belong to another task.
    pub(crate) fn collect(&self, anchor: Tid) {
        let _ = sys::kill(anchor);
        // Without a keeper the anchor has died with it.
        let _ = self.0.send(Request::Collect(anchor));
    }
}

fn run(requests: &Receiver<Request>) {
    sys::block_signals();
    let mut strays: Vec<Stray> = Vec::new();
    let mut dying: Vec<Tid> = Vec::new();
    loop {
        let request = if strays.is_empty() && dying.is_empty() {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(PAUSE)
        };
        match request {
            Ok(Request::Make { pid, chosen, landmarks, answer }) => {
                let made = anchor::make(pid, &chosen, &landmarks, &mut strays);
                if let Err(mpsc::SendError(Ok(unwanted))) = answer.send(made) {
                    let _ = sys::kill(unwanted.anchor);
                    dying.push(unwanted.anchor);
                }
            }
            Ok(Request::Collect(anchor)) => dying.push(anchor),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        dying.retain(|&anchor| matches!(sys::collect(anchor), Ok(false)));
        strays.retain_mut(|stray| !stray.try_again());
    }
}
