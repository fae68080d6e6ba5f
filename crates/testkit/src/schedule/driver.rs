//! What a device does under a schedule: one small step at a time, and never waiting.

use std::collections::BTreeSet;

use sva_core::ats::{Answer, Held, RequestId};
use sva_core::pri::{GroupOutcome, PrgIndex};
use sva_core::{AccessMode, AtsPort, FaultReason, Pasid};

use super::choices::Choices;
use super::world::Eyes;

/// A device model under test. What it may not do, the world finds out: use a PASID after it was told to stop, keep a translation past its invalidation, leave a group behind.
pub trait Driver: Send {
    /// The device may use this PASID from now on, at `pages` addresses of 4 KiB pages.
    fn bound(&mut self, pasid: Pasid, pages: &[u64]);

    /// The device is to stop to use it: the first step of an unbind. Comes on the thread that unbinds; what is under way may end later.
    fn stop(&mut self, pasid: Pasid, port: &AtsPort);

    /// One step.
    fn step(&mut self, view: &mut View<'_>, choices: &mut Choices);

    /// The device was reset: it knows nothing any more but its bindings.
    fn reset(&mut self);

    /// Whether it has nothing to do but wait for answers.
    fn is_idle(&self) -> bool;

    /// Gives up what it has under way, as at the end of a run; a step may follow to see to it.
    fn wind_down(&mut self);
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// The access was made.
    Done,
    /// The device keeps no translation for it.
    Miss,
    /// It was aborted.
    Aborted(FaultReason),
}

/// The device's port, with the oracle's eyes on what goes through it.
pub struct View<'a> {
    pub(super) port: &'a AtsPort,
    pub(super) eyes: &'a mut dyn Eyes,
}

impl View<'_> {
    /// The port itself, for everything but accesses.
    pub fn port(&self) -> &AtsPort {
        self.port
    }

    /// Accesses a word by a translation that the device keeps.
    pub fn access(&mut self, pasid: Pasid, address: u64, write: bool) -> Tried {
        match self.port.hold(Some(pasid), address, mode(write)) {
            Some(held) => self.access_by(&held, pasid, address, write),
            None => Tried::Miss,
        }
    }

    /// Holds a translation that the device keeps, to use it in later steps.
    pub fn hold(&mut self, pasid: Pasid, address: u64, write: bool) -> Option<Held> {
        self.port.hold(Some(pasid), address, mode(write))
    }

    /// Accesses a word by a translation that is held.
    pub fn access_by(&mut self, held: &Held, pasid: Pasid, address: u64, write: bool) -> Tried {
        self.eyes.access_by(held, pasid, address, write)
    }

    /// Accesses a word without a translation.
    pub fn access_untranslated(&mut self, pasid: Pasid, address: u64, write: bool) -> Tried {
        self.eyes.access_untranslated(pasid, address, write)
    }
}

/// How an access is made.
pub(super) fn mode(write: bool) -> AccessMode {
    if write { AccessMode::WRITE } else { AccessMode::READ }
}

/// A device that does everything right: translates, asks for pages in groups, uses what it keeps, stops when told.
#[derive(Default)]
pub struct WellBehaved {
    bindings: Vec<(Pasid, Vec<u64>)>,
    stopped: BTreeSet<u32>,
    jobs: Vec<Job>,
    winding_down: bool,
}

/// Accesses that one device has under way.
const JOBS: usize = 3;

struct Job {
    pasid: Pasid,
    address: u64,
    write: bool,
    at: At,
    /// It ends as soon as it can.
    cancelled: bool,
    /// It waits for the credit of others.
    starved: bool,
    rounds: u32,
}

enum At {
    Start,
    Translating(RequestId),
    /// Requests of the group are still to be sent: so many.
    Asking(PrgIndex, u32),
    Waiting(PrgIndex),
    Holding(Held),
    Done,
}

impl WellBehaved {
    /// A device without anything to do.
    pub fn new() -> Self {
        Self::default()
    }

    fn begin(&mut self, choices: &mut Choices) {
        let usable: Vec<_> = self.bindings.iter().filter(|(pasid, _)| !self.stopped.contains(&pasid.get())).collect();
        if let Some((pasid, pages)) = choices.pick(&usable)
            && let Some(page) = choices.pick(pages)
        {
            let address = page + u64::from(choices.below(512)) * 8;
            let write = choices.below(2) == 1;
            self.jobs.push(Job { pasid: *pasid, address, write, at: At::Start, cancelled: false, starved: false, rounds: 0 });
        }
    }
}

impl Job {
    fn step(&mut self, view: &mut View<'_>, choices: &mut Choices, may_ask: bool) {
        let at = std::mem::replace(&mut self.at, At::Done);
        self.at = match at {
            At::Done => At::Done,
            At::Start if self.cancelled || self.rounds > 6 => At::Done,
            At::Start => self.start(view, choices),
            At::Translating(request) if self.cancelled => {
                view.port().abandon_translation(request);
                At::Done
            }
            At::Translating(request) => match view.port().translation(request) {
                None if choices.one_in(40) => {
                    // As a completion time-out does.
                    view.port().abandon_translation(request);
                    self.again()
                }
                None => At::Translating(request),
                Some(Answer::Kept | Answer::Outdated) => self.again(),
                Some(Answer::Untranslated(permits)) if permits.permits(mode(self.write).access) => {
                    view.access_untranslated(self.pasid, self.address, self.write);
                    At::Done
                }
                Some(Answer::Untranslated(_) | Answer::NoAccess) if may_ask => self.ask(view, choices),
                Some(Answer::Untranslated(_) | Answer::NoAccess) => self.again(),
                Some(Answer::Refused(_)) => At::Done,
            },
            At::Asking(group, left) => {
                let last = left == 0;
                // The others of the group ask for the pages before this one.
                let address = self.address.wrapping_sub(u64::from(left) * 4096);
                let asked = view.port().ask_page(group, address, mode(self.write), last);
                self.starved = matches!(asked, Err(sva_core::pri::AskError::NoCredit { .. }));
                match asked {
                    Ok(()) if last => At::Waiting(group),
                    Ok(()) => At::Asking(group, left - 1),
                    Err(sva_core::pri::AskError::NoCredit { .. }) => At::Asking(group, left),
                    Err(_) => At::Done,
                }
            }
            At::Waiting(group) => match view.port().outcome(group) {
                None => At::Waiting(group),
                Some(GroupOutcome::Response(sva_core::ResponseCode::Success)) => self.again(),
                Some(_) => At::Done,
            },
            At::Holding(held) => {
                if self.cancelled || choices.below(2) == 0 {
                    At::Done
                } else {
                    view.access_by(&held, self.pasid, self.address, self.write);
                    At::Holding(held)
                }
            }
        };
    }

    fn again(&mut self) -> At {
        self.rounds += 1;
        At::Start
    }

    fn start(&mut self, view: &mut View<'_>, choices: &mut Choices) -> At {
        if choices.below(3) == 2
            && let Some(held) = view.hold(self.pasid, self.address, self.write)
        {
            view.access_by(&held, self.pasid, self.address, self.write);
            return At::Holding(held);
        }
        match view.access(self.pasid, self.address, self.write) {
            Tried::Done | Tried::Aborted(_) => At::Done,
            Tried::Miss => match view.port().ask_translation(Some(self.pasid), self.address, mode(self.write)) {
                Ok(request) => At::Translating(request),
                Err(sva_core::ats::AskTranslationError::Off { .. }) => {
                    view.access_untranslated(self.pasid, self.address, self.write);
                    At::Done
                }
                Err(_) => At::Done,
            },
        }
    }

    fn ask(&mut self, view: &mut View<'_>, choices: &mut Choices) -> At {
        match view.port().open_group(Some(self.pasid)) {
            Ok(group) => At::Asking(group, choices.below(3)),
            Err(_) => At::Done,
        }
    }
}

impl Driver for WellBehaved {
    fn bound(&mut self, pasid: Pasid, pages: &[u64]) {
        self.stopped.remove(&pasid.get());
        self.bindings.retain(|(known, _)| *known != pasid);
        self.bindings.push((pasid, pages.to_vec()));
    }

    fn stop(&mut self, pasid: Pasid, port: &AtsPort) {
        self.stopped.insert(pasid.get());
        self.bindings.retain(|(known, _)| *known != pasid);
        for job in self.jobs.iter_mut().filter(|job| job.pasid == pasid) {
            job.cancelled = true;
            if let At::Asking(..) = job.at {
                // The stop marker gives the open group up.
                job.at = At::Done;
            }
        }
        port.send_stop_marker(pasid);
    }

    fn step(&mut self, view: &mut View<'_>, choices: &mut Choices) {
        if self.jobs.len() < JOBS && !self.winding_down && (self.jobs.is_empty() || choices.below(3) == 2) {
            self.begin(choices);
        }
        if !self.jobs.is_empty() {
            let at = choices.below(self.jobs.len() as u32) as usize;
            // Two groups that are half sent can hold all credit, and neither can be completed then.
            let may_ask = !self.jobs.iter().any(|job| matches!(job.at, At::Asking(..)));
            self.jobs[at].step(view, choices, may_ask);
            self.jobs.retain(|job| !matches!(job.at, At::Done));
        }
    }

    fn reset(&mut self) {
        self.jobs.clear();
    }

    fn is_idle(&self) -> bool {
        self.jobs.iter().all(|job| matches!(job.at, At::Waiting(_)) || job.starved)
    }

    fn wind_down(&mut self) {
        self.winding_down = true;
        self.jobs.iter_mut().for_each(|job| job.cancelled = true);
    }
}
