//! The device that the world has unless it is given another.

use std::collections::BTreeSet;

use sva_core::ats::{RequestId, TranslationAnswer, TranslationGuard};
use sva_core::pri::ResponseCode;
use sva_core::pri::{GroupOutcome, PageRequestError, PrgIndex};
use sva_core::{Access, AtsPort, FaultReason, Pasid};

use crate::choices::Choices;
use crate::device::{AccessOutcome, CheckedPort, DeviceModel};

/// A device that does everything right: it asks for translations and for pages in groups, uses the
/// translations that it keeps, and stops when told. It reads, writes and executes, with and without
/// privilege, with and without a PASID.
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
    access: Access,
    at: At,
    /// The job ends as soon as it can.
    cancelled: bool,
    /// The job waits for credit that other groups have.
    starved: bool,
    rounds: u32,
}

enum At {
    Start,
    Translating(RequestId),
    /// So many requests of the group are still to be sent before the last one.
    Asking(PrgIndex, u32),
    Waiting(PrgIndex),
    Holding(TranslationGuard),
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
        let (address, access) = (page + u64::from(choices.below(512)) * 8, any_access(choices));
        self.jobs.push(Job {
            pasid,
            address,
            access,
            at: At::Start,
            cancelled: false,
            starved: false,
            rounds: 0,
        });
    }
}

/// Mostly reads and writes without privilege.
fn any_access(choices: &mut Choices) -> Access {
    match choices.below(16) {
        0..=5 => Access::READ,
        6..=11 => Access::WRITE,
        12 | 13 => Access::EXECUTE,
        14 => Access::READ | Access::PRIVILEGED,
        _ => Access::WRITE | Access::PRIVILEGED,
    }
}

impl Job {
    fn step(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices, may_ask: bool) {
        let at = std::mem::replace(&mut self.at, At::Done);
        self.at = match at {
            At::Done => At::Done,
            At::Start if self.cancelled || self.rounds > 6 => At::Done,
            At::Start => self.start(port, choices),
            At::Translating(request) if self.cancelled => {
                port.ats_port().abandon_translation(request);
                At::Done
            }
            At::Translating(request) => match port.ats_port().translation(request) {
                None if choices.one_in(40) => {
                    // As a completion time-out does.
                    port.ats_port().abandon_translation(request);
                    self.again()
                }
                None => At::Translating(request),
                Some(TranslationAnswer::Cached | TranslationAnswer::Outdated) => self.again(),
                Some(TranslationAnswer::Untranslated(permissions))
                    if permissions.permit(self.access) =>
                {
                    match port.access_untranslated(self.pasid, self.address, self.access) {
                        AccessOutcome::Aborted(FaultReason::NotPresent) if may_ask => {
                            self.ask(port, choices)
                        }
                        _ => At::Done,
                    }
                }
                Some(TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess)
                    if may_ask =>
                {
                    self.ask(port, choices)
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
                let asked = port.ats_port().request_page(group, address, self.access, last);
                self.starved = matches!(asked, Err(PageRequestError::NoCredit { .. }));
                match asked {
                    Ok(()) if last => At::Waiting(group),
                    Ok(()) => At::Asking(group, left - 1),
                    Err(PageRequestError::NoCredit { .. }) => At::Asking(group, left),
                    Err(_) => At::Done,
                }
            }
            At::Waiting(group) => match port.ats_port().outcome(group) {
                None => At::Waiting(group),
                Some(GroupOutcome::Response(ResponseCode::Success)) => self.again(),
                Some(_) => At::Done,
            },
            At::Holding(held) => {
                if self.cancelled || choices.below(8) == 0 {
                    At::Done
                } else {
                    port.access_by(&held, self.pasid, self.address, self.access);
                    At::Holding(held)
                }
            }
        };
    }

    fn again(&mut self) -> At {
        self.rounds += 1;
        At::Start
    }

    fn start(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices) -> At {
        if choices.below(2) == 1
            && let Some(held) = port.hold(self.pasid, self.address, self.access)
        {
            port.access_by(&held, self.pasid, self.address, self.access);
            return At::Holding(held);
        }
        match port.access(self.pasid, self.address, self.access) {
            AccessOutcome::Done | AccessOutcome::Aborted(_) => At::Done,
            AccessOutcome::Miss => {
                match port.ats_port().request_translation(self.pasid, self.address, self.access) {
                    Ok(request) => At::Translating(request),
                    Err(sva_core::ats::TranslationRequestError::Off { .. }) => {
                        port.access_untranslated(self.pasid, self.address, self.access);
                        At::Done
                    }
                    Err(_) => At::Done,
                }
            }
        }
    }

    fn ask(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices) -> At {
        match port.ats_port().open_group(self.pasid) {
            Ok(group) => At::Asking(group, choices.below(3)),
            Err(_) => At::Done,
        }
    }
}

impl DeviceModel for WellBehaved {
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

    fn step(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices) {
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
            self.jobs[at].step(port, choices, may_ask);
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
