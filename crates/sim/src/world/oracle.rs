//! The oracle: checks every access against the model and the space.

use std::sync::Arc;

use sva_core::ats::TranslationGuard;
use sva_core::{
    Access, AddressSpace, DmaError, FaultReason, Features, Frame, Pasid, Segment, StopCause,
};
use sva_testkit::{PAGE, StaleReason};

use super::model::{Domain, Grant, Slot, SpaceSlot};
use crate::device::{AccessChecker, AccessOutcome};
use crate::races::{Race, Races};

/// What one device may do at this instant, by the model.
pub(super) struct Oracle<'a> {
    pub(super) slot: &'a Slot,
    /// In use by its group.
    pub(super) domain: &'a Domain,
    pub(super) spaces: &'a [SpaceSlot],
    pub(super) races: &'a mut Races,
    pub(super) violation: &'a mut Option<String>,
    pub(super) accesses: &'a mut u64,
    pub(super) lines: Option<&'a mut Vec<String>>,
}

/// The outcome that an access without a translation must have.
enum Verdict {
    /// It reaches this place of this space.
    Reaches(Arc<dyn AddressSpace>, Frame),
    /// It is aborted for one of these reasons.
    Aborts(&'static [FaultReason]),
}

fn granted(features: Features, access: Access) -> bool {
    (features.privileged || !access.is_privileged())
        && (features.execute || access.kind() != Access::EXECUTE)
}

impl Oracle<'_> {
    /// What the device may do with this PASID, and the space; `None` if it may do nothing.
    fn reached(&self, pasid: Option<Pasid>) -> Option<(&Grant, &SpaceSlot)> {
        let grant = self.slot.bonds.get(&pasid?).filter(|_| !self.slot.is_halted())?;
        Some((grant, self.spaces.get(grant.space)?))
    }

    fn report(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn line(&mut self, what: &str, tried: AccessOutcome) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("  {} {what}: {tried:?}", self.slot.bdf));
        }
    }

    /// Whether the model explains that a translated access was refused for this reason.
    fn explains(&self, pasid: Option<Pasid>, reason: FaultReason) -> bool {
        let Some((_, space)) = self.reached(pasid) else {
            return reason != FaultReason::NoSuchFrame;
        };
        match reason {
            // A reset or a switch of ATS in between has voided the translation.
            FaultReason::DeviceHalted => true,
            FaultReason::TranslatedRefused => !self.slot.ats_on,
            FaultReason::SpaceEnded => space.ended,
            // What one change moves and still waits for, another may have taken at its new address.
            FaultReason::NoSuchFrame => {
                space.ended || space.changes.iter().any(|changing| changing.moves)
            }
            _ => false,
        }
    }

    /// The outcome that an access without a translation must have at this instant.
    fn expect(&self, pasid: Option<Pasid>, address: u64, access: Access) -> Verdict {
        if self.slot.is_halted() {
            return Verdict::Aborts(&[FaultReason::DeviceHalted]);
        }
        let (space, address, access) = match pasid {
            Some(_) => {
                let Some((grant, slot)) = self.reached(pasid) else {
                    return Verdict::Aborts(&[FaultReason::NotBound]);
                };
                if slot.announced {
                    return Verdict::Aborts(&[FaultReason::SpaceEnded]);
                }
                if !granted(grant.features, access) {
                    return Verdict::Aborts(&[FaultReason::NotGranted]);
                }
                (slot.space.handle(), address, access)
            }
            None => {
                let Some((mapping, target)) = self.domain.find(address) else {
                    return Verdict::Aborts(&[FaultReason::NoDomainMapping]);
                };
                if access.is_execute() || !mapping.permissions.permit(access) {
                    return Verdict::Aborts(&[FaultReason::Denied]);
                }
                (Arc::clone(&mapping.space), target, access.unprivileged())
            }
        };
        match space.translate(address, access.is_privileged()) {
            Ok(found) if found.permissions.permit(access) => match found.frame {
                Some(frame) => {
                    Verdict::Reaches(space, Frame(frame.0 + (address - found.range.first())))
                }
                None => Verdict::Aborts(&[]),
            },
            Ok(_) => Verdict::Aborts(&[FaultReason::Denied]),
            Err(StopCause::Ended) => Verdict::Aborts(&[FaultReason::SpaceEnded]),
            Err(StopCause::NotMapped) => Verdict::Aborts(&[FaultReason::NotMapped]),
            // Of an absent page a translation does not tell the protection.
            Err(_) => Verdict::Aborts(&[FaultReason::NotPresent, FaultReason::Denied]),
        }
    }

    /// The races that an access without a translation shows.
    fn note(&mut self, pasid: Option<Pasid>, address: u64, access: Access, tried: AccessOutcome) {
        let page = address & !(PAGE - 1);
        let race = match tried {
            AccessOutcome::Aborted(FaultReason::SpaceEnded)
                if self.reached(pasid).is_some_and(|(_, space)| !space.announced) =>
            {
                Race::UseBeforeAnnouncement
            }
            AccessOutcome::Aborted(FaultReason::NoDomainMapping)
                if self.domain.unmapped.contains(&page) =>
            {
                Race::UseAfterUnmap
            }
            AccessOutcome::Aborted(FaultReason::NotGranted) => Race::NotGranted,
            AccessOutcome::Aborted(FaultReason::Denied)
                if access.is_execute() && pasid.is_some() =>
            {
                Race::ExecuteRefused
            }
            AccessOutcome::Done
                if self.reached(pasid).is_some_and(|(_, space)| !space.changes.is_empty()) =>
            {
                Race::UseDuringChange
            }
            _ => return,
        };
        self.races.reached(race);
    }
}

/// How a trace names an access.
fn named(how: &str, pasid: Option<Pasid>, address: u64, access: Access) -> String {
    let privileged = if access.is_privileged() { "privileged " } else { "" };
    let of =
        pasid.map_or_else(|| "without a PASID".to_owned(), |pasid| format!("with PASID {pasid}"));
    format!("{how} {privileged}{} at {address:#x} {of}", access.kind())
}

fn came_of(outcome: &Result<(), DmaError>) -> AccessOutcome {
    match outcome {
        Ok(()) => AccessOutcome::Done,
        Err(error) => {
            error.fault().map_or(AccessOutcome::Miss, |fault| AccessOutcome::Aborted(fault.reason))
        }
    }
}

impl AccessChecker for Oracle<'_> {
    fn access_by(
        &mut self,
        held: &TranslationGuard,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome {
        // Before the access, as `audit` demands. Nothing happens in between.
        let audit =
            self.reached(pasid).map(|(_, space)| space.space.audit(address, access, held.frame()));
        let outcome = if access.is_write() { held.write(&[7; 8]) } else { held.read(&mut [0; 8]) };
        let tried = came_of(&outcome.map(drop));
        let what = || named("a translated", pasid, address, access);
        if self.lines.is_some() {
            self.line(&what(), tried);
        }
        match (tried, audit) {
            (AccessOutcome::Done, Some(Err(stale))) => {
                // Frames are numbered through the whole program: a message that names one would
                // differ between two runs of one seed.
                let because = match stale.reason {
                    StaleReason::Elsewhere(_) => "the address leads elsewhere".to_owned(),
                    because => because.to_string(),
                };
                self.report(format!("stale: {} of {}: {because}", what(), self.slot.bdf));
            }
            (AccessOutcome::Done, None) => self.report(format!(
                "{} went through: {} is not bound or is halted",
                what(),
                self.slot.bdf
            )),
            (AccessOutcome::Done, Some(Ok(()))) => {
                *self.accesses += 1;
                let reached = self.reached(pasid);
                let (may, changing) = reached.map_or((false, false), |(grant, space)| {
                    (granted(grant.features, access), !space.changes.is_empty())
                });
                if !may {
                    self.report(format!(
                        "{} of {} went through, and the bond does not grant it",
                        what(),
                        self.slot.bdf
                    ));
                }
                let executes = changing && access.is_execute();
                let privileged = changing && access.is_privileged();
                for (race, reached) in [
                    (Race::UseDuringChange, changing),
                    (Race::ExecuteDuringChange, executes),
                    (Race::PrivilegedDuringChange, privileged),
                ] {
                    self.races.add(race, u64::from(reached));
                }
            }
            (AccessOutcome::Aborted(reason), _) => {
                if !self.explains(pasid, reason) {
                    self.report(format!(
                        "{} of {} was refused without a reason: {reason}",
                        what(),
                        self.slot.bdf
                    ));
                }
                self.note(pasid, address, access, tried);
            }
            (AccessOutcome::Miss, _) => {}
        }
        tried
    }

    fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome {
        let Some(device) = &self.slot.device else { return AccessOutcome::Miss };
        let (port, how) = (device.port(), access.present_only());
        let verdict = self.expect(pasid, address, access);
        let piece = [Segment { address, len: 8 }];
        let mut word = (*self.accesses).to_le_bytes();
        let outcome = match access.kind() {
            Access::WRITE => port.scatter(pasid, &piece, &word, how),
            _ => port.gather(pasid, &piece, &mut word, how),
        };
        let tried = came_of(&outcome);
        let what = || named("an untranslated", pasid, address, access);
        if self.lines.is_some() {
            self.line(&what(), tried);
        }
        match (tried, verdict) {
            (AccessOutcome::Done, Verdict::Reaches(space, frame)) => {
                *self.accesses += 1;
                let mut there = [0; 8];
                if space.read_frame(frame, &mut there).is_err() || there != word {
                    self.report(format!("{} of {} reached another place", what(), self.slot.bdf));
                }
            }
            (AccessOutcome::Done, Verdict::Aborts(because)) => {
                self.report(format!(
                    "{} of {} went through, and is to be aborted: {because:?}",
                    what(),
                    self.slot.bdf
                ));
            }
            (AccessOutcome::Aborted(reason), Verdict::Aborts(because))
                if because.contains(&reason) => {}
            (AccessOutcome::Aborted(reason), _) => {
                self.report(format!(
                    "{} of {} was refused without a reason: {reason}",
                    what(),
                    self.slot.bdf
                ));
            }
            (AccessOutcome::Miss, _) => {}
        }
        self.note(pasid, address, access, tried);
        tried
    }
}
