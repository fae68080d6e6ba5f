//! What a device does under a schedule: one small step at a time, and never waiting.

use std::collections::BTreeSet;

use sva_core::ats::{Held, RequestId, TranslationAnswer};
use sva_core::pri::{GroupOutcome, PrgIndex};
use sva_core::{Access, AccessMode, AtsPort, FaultReason, Pasid};

use crate::choices::Choices;
use crate::world::Eyes;

/// A device model under test. What it may not do, the world finds out: use a PASID after it was
/// told to stop, keep a translation past its invalidation, leave a group behind.
pub trait Driver: Send {
    /// What the device may use without a PASID, classic DMA: these addresses of its domain, of 4
    /// KiB pages. Memory is mapped and unmapped there all the time; an access that meets none
    /// is aborted. Comes once, before anything else; a driver that has no use for it does nothing.
    fn plugged(&mut self, iovas: &[u64]) {
        let _ = iovas;
    }

    /// The device may use this PASID from now on, at `pages` addresses of 4 KiB pages.
    fn bound(&mut self, pasid: Pasid, pages: &[u64]);

    /// The device is to stop to use it: the first step of an unbind. Comes on the thread that
    /// unbinds; what is under way may end later.
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
    pub fn access(&mut self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Tried {
        match self.port.hold(pasid, address, mode) {
            Some(held) => self.access_by(&held, pasid, address, mode),
            None => Tried::Miss,
        }
    }

    /// Holds a translation that the device keeps, to use it in later steps.
    pub fn hold(&mut self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Option<Held> {
        self.port.hold(pasid, address, mode)
    }

    /// Accesses a word by a translation that is held; the mode is the one that it was taken with.
    pub fn access_by(
        &mut self,
        held: &Held,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> Tried {
        self.eyes.access_by(held, pasid, address, mode)
    }

    /// Accesses a word without a translation.
    pub fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> Tried {
        self.eyes.access_untranslated(pasid, address, mode)
    }
}

/// A device that does everything right: translates, asks for pages in groups, uses what it keeps,
/// stops when told. It accesses in every way that there is: reads, writes, executes, with privilege
/// and without, with a PASID and without.
#[derive(Default)]
pub struct WellBehaved {
    iovas: Vec<u64>,
    bindings: Vec<(Pasid, Vec<u64>)>,
    stopped: BTreeSet<u32>,
    jobs: Vec<Job>,
    winding_down: bool,
}

/// Accesses that one device has under way.
const JOBS: usize = 3;

struct Job {
    pasid: Option<Pasid>,
    address: u64,
    mode: AccessMode,
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
        let usable: Vec<_> = self
            .bindings
            .iter()
            .filter(|(pasid, _)| !self.stopped.contains(&pasid.get()))
            .collect();
        let (pasid, pages) = match choices.pick(&usable) {
            Some((pasid, pages)) if self.iovas.is_empty() || !choices.one_in(6) => {
                (Some(*pasid), pages)
            }
            _ => (None, &self.iovas),
        };
        let Some(page) = choices.pick(pages) else { return };
        let (address, mode) = (page + u64::from(choices.below(512)) * 8, any_mode(choices));
        self.jobs.push(Job {
            pasid,
            address,
            mode,
            at: At::Start,
            cancelled: false,
            starved: false,
            rounds: 0,
        });
    }
}

/// Mostly a user's read or write.
fn any_mode(choices: &mut Choices) -> AccessMode {
    let (access, privileged) = match choices.below(16) {
        0..=5 => (Access::Read, false),
        6..=11 => (Access::Write, false),
        12 | 13 => (Access::Execute, false),
        14 => (Access::Read, true),
        _ => (Access::Write, true),
    };
    AccessMode { access, privileged, ..AccessMode::READ }
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
                Some(TranslationAnswer::Kept | TranslationAnswer::Outdated) => self.again(),
                Some(TranslationAnswer::Untranslated(permits))
                    if permits.permits(self.mode.access) =>
                {
                    match view.access_untranslated(self.pasid, self.address, self.mode) {
                        Tried::Aborted(FaultReason::NotPresent) if may_ask => {
                            self.ask(view, choices)
                        }
                        _ => At::Done,
                    }
                }
                Some(TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess)
                    if may_ask =>
                {
                    self.ask(view, choices)
                }
                Some(TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess) => {
                    self.again()
                }
                Some(TranslationAnswer::Refused(_)) => At::Done,
            },
            At::Asking(group, left) => {
                let last = left == 0;
                // The others of the group ask for the pages before this one.
                let address = self.address.wrapping_sub(u64::from(left) * 4096);
                let asked = view.port().ask_page(group, address, self.mode, last);
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
                if self.cancelled || choices.below(8) == 0 {
                    At::Done
                } else {
                    view.access_by(&held, self.pasid, self.address, self.mode);
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
        if choices.below(2) == 1
            && let Some(held) = view.hold(self.pasid, self.address, self.mode)
        {
            view.access_by(&held, self.pasid, self.address, self.mode);
            return At::Holding(held);
        }
        match view.access(self.pasid, self.address, self.mode) {
            Tried::Done | Tried::Aborted(_) => At::Done,
            Tried::Miss => match view.port().ask_translation(self.pasid, self.address, self.mode) {
                Ok(request) => At::Translating(request),
                Err(sva_core::ats::AskTranslationError::Off { .. }) => {
                    view.access_untranslated(self.pasid, self.address, self.mode);
                    At::Done
                }
                Err(_) => At::Done,
            },
        }
    }

    fn ask(&mut self, view: &mut View<'_>, choices: &mut Choices) -> At {
        match view.port().open_group(self.pasid) {
            Ok(group) => At::Asking(group, choices.below(3)),
            Err(_) => At::Done,
        }
    }
}

impl Driver for WellBehaved {
    fn plugged(&mut self, iovas: &[u64]) {
        self.iovas = iovas.to_vec();
    }

    fn bound(&mut self, pasid: Pasid, pages: &[u64]) {
        self.stopped.remove(&pasid.get());
        self.bindings.retain(|(known, _)| *known != pasid);
        self.bindings.push((pasid, pages.to_vec()));
    }

    fn stop(&mut self, pasid: Pasid, port: &AtsPort) {
        self.stopped.insert(pasid.get());
        self.bindings.retain(|(known, _)| *known != pasid);
        for job in self.jobs.iter_mut().filter(|job| job.pasid == Some(pasid)) {
            job.cancelled = true;
            if let At::Asking(..) = job.at {
                // The stop marker gives the open group up.
                job.at = At::Done;
            }
        }
        port.send_stop_marker(pasid);
    }

    fn step(&mut self, view: &mut View<'_>, choices: &mut Choices) {
        if self.jobs.len() < JOBS
            && !self.winding_down
            && (self.jobs.is_empty() || choices.below(3) == 2)
        {
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
