//! What a device does under a schedule: one small step at a time, and never waiting.

use sva_core::ats::TranslationGuard;
use sva_core::{Access, AtsPort, FaultReason, Pasid};

use crate::choices::Choices;

/// A device model under test: what sits behind a [`ScheduledLink`](crate::ScheduledLink) in a
/// [`World`](crate::World).
///
/// The world reports what a device must not do: use a PASID after it was told to stop, keep a
/// translation past its invalidation, leave a page request group without an end. No method blocks.
pub trait DeviceModel: Send {
    /// The addresses that the device may use without a PASID: one in each page of 4 KiB of its
    /// domain. Memory is mapped and unmapped there all the time; an access to an address that is
    /// not mapped is aborted. Called once, before anything else. Does nothing by default.
    fn plugged(&mut self, iovas: &[u64]) {
        let _ = iovas;
    }

    /// The device may use this PASID from now on. `pages` are the first addresses of pages of
    /// 4 KiB, of which some are mapped.
    fn bound(&mut self, pasid: Pasid, pages: &[u64]);

    /// The device must begin no access with this PASID any more: the first step of an unbind.
    /// Called on the thread that unbinds. Accesses and requests under way may end later.
    fn stop(&mut self, pasid: Pasid, port: &AtsPort);

    /// Makes one step: an access, a request, or a look at an answer.
    fn step(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices);

    /// The device was reset: it forgets everything but its bindings.
    fn reset(&mut self);

    /// Whether the device has nothing to do but to wait for answers.
    fn is_idle(&self) -> bool;

    /// Gives up what the device has under way: the run ends. Steps may follow, in which it does
    /// that.
    fn wind_down(&mut self);
}

/// What an access came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessOutcome {
    /// The access was made.
    Done,
    /// The device keeps no translation for it.
    Miss,
    /// The access was aborted.
    Aborted(FaultReason),
}

/// A device's port. Accesses go through it, so that the world's oracle checks each of them.
pub struct CheckedPort<'a> {
    pub(crate) port: &'a AtsPort,
    pub(crate) checker: &'a mut dyn AccessChecker,
}

impl CheckedPort<'_> {
    /// The device's own port, for everything but accesses: requests, their answers, credit.
    pub fn ats_port(&self) -> &AtsPort {
        self.port
    }

    /// Accesses 8 bytes by a translation that the device keeps.
    pub fn access(&mut self, pasid: Option<Pasid>, address: u64, access: Access) -> AccessOutcome {
        match self.port.use_translation(pasid, address, access) {
            Some(held) => self.access_by(&held, pasid, address, access),
            None => AccessOutcome::Miss,
        }
    }

    /// Holds a translation that the device keeps, to use it in later steps. `None` if the device
    /// keeps none that permits the access. An invalidation is not over while it is held.
    pub fn hold(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<TranslationGuard> {
        self.port.use_translation(pasid, address, access)
    }

    /// Accesses 8 bytes by a translation that is held. `mode` is the one that it was taken with.
    pub fn access_by(
        &mut self,
        held: &TranslationGuard,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome {
        self.checker.access_by(held, pasid, address, access)
    }

    /// Accesses 8 bytes without a translation. Does not wait for absent pages.
    pub fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome {
        self.checker.access_untranslated(pasid, address, access)
    }
}

/// Makes the accesses of a device, and judges them.
pub(crate) trait AccessChecker {
    /// Accesses 8 bytes by a translation that is held.
    fn access_by(
        &mut self,
        held: &TranslationGuard,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome;

    /// Accesses 8 bytes without a translation.
    fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> AccessOutcome;
}
