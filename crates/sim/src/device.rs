//! What a device does under a schedule: one small step at a time, and never waiting.

use sva_core::ats::Held;
use sva_core::{AccessMode, AtsPort, FaultReason, Pasid};

use crate::choices::Choices;

/// A device model under test. What it may not do, the world finds out: use a PASID after it was
/// told to stop, keep a translation past its invalidation, leave a group behind.
pub trait DeviceModel: Send {
    /// What the device may use without a PASID, classic DMA: these addresses of its domain, of 4
    /// KiB pages. Memory is mapped and unmapped there all the time; an access that meets none
    /// is aborted. Comes once, before anything else; a device that has no use for it does nothing.
    fn plugged(&mut self, iovas: &[u64]) {
        let _ = iovas;
    }

    /// The device may use this PASID from now on, at `pages` addresses of 4 KiB pages.
    fn bound(&mut self, pasid: Pasid, pages: &[u64]);

    /// The device is to stop to use it: the first step of an unbind. Comes on the thread that
    /// unbinds; what is under way may end later.
    fn stop(&mut self, pasid: Pasid, port: &AtsPort);

    /// One step.
    fn step(&mut self, port: &mut CheckedPort<'_>, choices: &mut Choices);

    /// The device was reset: it knows nothing any more but its bindings.
    fn reset(&mut self);

    /// Whether it has nothing to do but wait for answers.
    fn is_idle(&self) -> bool;

    /// Gives up what it has under way, as at the end of a run; a step may follow to see to it.
    fn wind_down(&mut self);
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessOutcome {
    /// The access was made.
    Done,
    /// The device keeps no translation for it.
    Miss,
    /// It was aborted.
    Aborted(FaultReason),
}

/// The device's port, with the oracle's checker on what goes through it.
pub struct CheckedPort<'a> {
    pub(crate) port: &'a AtsPort,
    pub(crate) checker: &'a mut dyn AccessChecker,
}

impl CheckedPort<'_> {
    /// The port itself, for everything but accesses.
    pub fn ats_port(&self) -> &AtsPort {
        self.port
    }

    /// Accesses a word by a translation that the device keeps.
    pub fn access(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> AccessOutcome {
        match self.port.hold(pasid, address, mode) {
            Some(held) => self.access_by(&held, pasid, address, mode),
            None => AccessOutcome::Miss,
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
    ) -> AccessOutcome {
        self.checker.access_by(held, pasid, address, mode)
    }

    /// Accesses a word without a translation.
    pub fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> AccessOutcome {
        self.checker.access_untranslated(pasid, address, mode)
    }
}

/// Makes the accesses of a device, and judges them.
pub(crate) trait AccessChecker {
    /// Accesses a word by a translation that is held.
    fn access_by(
        &mut self,
        held: &Held,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> AccessOutcome;

    /// Accesses a word without a translation.
    fn access_untranslated(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> AccessOutcome;
}
