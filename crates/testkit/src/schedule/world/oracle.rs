//! Judges every access.

use sva_core::ats::Held;
use sva_core::{DmaError, FaultReason, Pasid};

use super::{Slot, SpaceSlot};
use crate::schedule::driver::{Tried, mode};
use crate::schedule::races::{Race, Races};

/// What looks at the accesses of a driver.
pub(crate) trait Eyes {
    /// Accesses a word by a translation that is held.
    fn access_by(&mut self, held: &Held, pasid: Pasid, address: u64, write: bool) -> Tried;

    /// Accesses a word without a translation.
    fn access_untranslated(&mut self, pasid: Pasid, address: u64, write: bool) -> Tried;
}

/// What one device may do now, by the model.
pub(super) struct Oracle<'a> {
    pub(super) slot: &'a Slot,
    pub(super) spaces: &'a [SpaceSlot],
    pub(super) races: &'a mut Races,
    pub(super) wrong: &'a mut Option<String>,
    pub(super) accesses: &'a mut u64,
    pub(super) lines: Option<&'a mut Vec<String>>,
}

impl Oracle<'_> {
    /// The space that the device reaches with this PASID.
    fn reached(&self, pasid: Pasid) -> Option<&SpaceSlot> {
        let space = self.slot.bonds.get(&pasid).filter(|_| !self.slot.is_blocked())?;
        self.spaces.get(*space)
    }

    fn accuse(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Why this refusal is no surprise.
    fn explains(&self, pasid: Pasid, reason: FaultReason) -> bool {
        let Some(space) = self.reached(pasid) else { return reason != FaultReason::NoSuchFrame };
        match reason {
            // A reset or a switch of ATS in between has voided the translation.
            FaultReason::DeviceBlocked => true,
            FaultReason::TranslatedRefused => !self.slot.ats_on,
            FaultReason::SpaceEnded | FaultReason::NoSuchFrame => space.ended,
            FaultReason::NotMapped | FaultReason::NotPresent | FaultReason::Denied => true,
            _ => false,
        }
    }

    fn judge(&mut self, outcome: Result<(), DmaError>, what: impl Fn() -> String, pasid: Pasid) -> Tried {
        let line = |came: &str| format!("  {} {}: {came}", self.slot.bdf, what());
        let tried = match &outcome {
            Ok(()) => Tried::Done,
            Err(error) => error.fault().map_or(Tried::Miss, |fault| Tried::Aborted(fault.reason)),
        };
        let line = line(&format!("{tried:?}"));
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
        match tried {
            Tried::Done => {
                *self.accesses += 1;
                match self.reached(pasid) {
                    None => self.accuse(format!("{} went through: {} is not bound or is blocked", what(), self.slot.bdf)),
                    Some(space) if !space.changes.is_empty() => self.races.reached(Race::UseDuringChange),
                    Some(_) => {}
                }
            }
            Tried::Aborted(reason) if !self.explains(pasid, reason) => {
                self.accuse(format!("{} of {} was refused without a reason: {reason}", what(), self.slot.bdf));
            }
            _ => {}
        }
        if tried == Tried::Aborted(FaultReason::SpaceEnded) && self.reached(pasid).is_some_and(|space| !space.announced) {
            self.races.reached(Race::UseBeforeAnnouncement);
        }
        tried
    }
}

impl Eyes for Oracle<'_> {
    fn access_by(&mut self, held: &Held, pasid: Pasid, address: u64, write: bool) -> Tried {
        // Before the access, as the space wants it; nothing happens in between.
        let audit = self.reached(pasid).map(|space| space.space.audit(address, mode(write), held.frame()));
        let outcome = if write { held.write(&[7; 8]) } else { held.read(&mut [0; 8]) };
        let what = || format!("a translated {} at {address:#x} with PASID {pasid}", if write { "write" } else { "read" });
        let tried = self.judge(outcome.map(drop), what, pasid);
        if let (Tried::Done, Some(Err(stale))) = (tried, audit) {
            // Frames are numbered through the whole program: what a line says must not depend on them.
            let because = match stale.because {
                crate::StaleBecause::Elsewhere(_) => "the address leads elsewhere".to_owned(),
                because => because.to_string(),
            };
            self.accuse(format!("stale: {} of {}: {because}", what(), self.slot.bdf));
        }
        tried
    }

    fn access_untranslated(&mut self, pasid: Pasid, address: u64, write: bool) -> Tried {
        let Some(device) = &self.slot.device else { return Tried::Miss };
        let (port, mode) = (device.port(), mode(write).stop_on_absent());
        let piece = [sva_core::Segment { address, len: 8 }];
        let outcome =
            if write { port.scatter(Some(pasid), &piece, &[7; 8], mode) } else { port.gather(Some(pasid), &piece, &mut [0; 8], mode) };
        let what = || format!("an untranslated {} at {address:#x} with PASID {pasid}", if write { "write" } else { "read" });
        self.judge(outcome, what, pasid)
    }
}
