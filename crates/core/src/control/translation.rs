//! Translation requests: the IOMMU's answers to devices with ATS (PCIe 6.0, section 10.2).
//!
//! An answer is found inside the device's gate, and inside the gate of the PASID entry that it is
//! for. A closed gate therefore waits for the answers that are being found, as it waits for
//! accesses.

use std::sync::Arc;

use crate::api::ats::{AlignedRange, Translation, TranslationRefusal, TranslationRequest};
use crate::api::event::Event;
use crate::api::fault::FaultReason;
use crate::api::space::StopCause;
use crate::quiesce::callback::InCallback;
use crate::table::{DeviceRecord, GateGuard, Iommu, OnDrain, PasidEntry};
use crate::types::access::Permissions;
use crate::types::ids::{Pasid, PasidTag};

impl Iommu {
    /// Answers a translation request of a device. The second value is the owner of the PASID, if
    /// an entry for it was used.
    pub(super) fn translate(
        &self,
        device: &Arc<DeviceRecord>,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let unsupported = (Err(TranslationRefusal::Unsupported), None);
        // The last access that leaves a gate drops values from outside, whose drop is foreign code.
        let _callback = InCallback::enter();
        let Some(_inside) = GateGuard::enter(&device.gate, self, OnDrain::WakeThreads) else {
            return unsupported;
        };
        let routing = device.current_routing(self.topology());
        if let Some(window) =
            routing.windows().iter().find(|window| window.range.contains(request.address))
        {
            // The fabric routes a translation request by its address, as any other request. The
            // peer that decodes the address gets it and answers no translation requests.
            let (pasid, range) = (request.pasid, AlignedRange::page(request.address).range());
            self.log(Event::Misrouted {
                device: device.bdf(),
                pasid,
                range,
                decoder: window.decoder,
                claimed: window.claimed,
            });
            return unsupported;
        }
        if routing.translation_blocker.is_some()
            || device.services.invalidations.lock().is_blocked()
        {
            return unsupported;
        }
        match request.pasid {
            Some(pasid) => self.translate_in_space(device, pasid, request),
            // The answer names permissions and no frame, so the device caches nothing of it. A
            // cached frame would have to be invalidated both when the domain is unmapped and when
            // the mapped space changes.
            None => (Ok(translate_in_domain(device, request)), None),
        }
    }

    fn translate_in_space(
        &self,
        device: &DeviceRecord,
        pasid: Pasid,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let none = Translation::none(request.address);
        let answer = self.with_usable_entry(device, pasid, |entry| {
            let answer = if request.privileged && !entry.features.privileged {
                Ok(none)
            } else {
                self.translate_by_entry(device, entry, request)
            };
            (answer, Some(entry.record.tag))
        });
        answer.unwrap_or_else(|unusable| match unusable {
            UnusableEntry::NotBound => (Err(TranslationRefusal::Unsupported), None),
            UnusableEntry::SpaceEnded(tag) => (Ok(none), Some(tag)),
        })
    }

    /// Looks up the PASID entry that requests of `device` with `pasid` use, enters it, and calls
    /// `then` inside its gate. The close of the entry waits for `then`.
    fn with_usable_entry<R>(
        &self,
        device: &DeviceRecord,
        pasid: Pasid,
        then: impl FnOnce(&PasidEntry) -> R,
    ) -> Result<R, UnusableEntry> {
        let entry = device.requester.entry(pasid).filter(|_| device.can_issue(pasid));
        let entry = entry.ok_or(UnusableEntry::NotBound)?;
        let _inside = entry.enter(self).map_err(|reason| match reason {
            FaultReason::SpaceEnded => UnusableEntry::SpaceEnded(entry.record.tag),
            _ => UnusableEntry::NotBound,
        })?;
        Ok(then(&entry))
    }

    /// Asks the provider for the translation, and reduces its permissions to those that the bond
    /// grants.
    fn translate_by_entry(
        &self,
        device: &DeviceRecord,
        entry: &PasidEntry,
        request: &TranslationRequest,
    ) -> Result<Translation, TranslationRefusal> {
        match entry.record.space.translate(request.address, request.privileged) {
            Ok(found) => {
                // Execute permission is granted if the request asked for it, and only together
                // with read permission (Exe: PCIe 6.0, section 10.2.3).
                let mut granted = entry.granted();
                if !request.execute || !found.permissions.contains(Permissions::READ) {
                    granted.remove(Permissions::EXECUTE);
                }
                let permissions = found.permissions & granted;
                Ok(Translation { permissions, ..found })
            }
            Err(StopCause::Host(failure)) => {
                let errno = failure.source.raw_os_error();
                self.log(Event::HostFailure { device: device.bdf(), call: failure.call, errno });
                Err(TranslationRefusal::Aborted)
            }
            Err(_) => Ok(Translation::none(request.address)),
        }
    }
}

/// Why requests with a PASID cannot use a PASID entry.
enum UnusableEntry {
    /// The device has no published, open entry for the PASID, or cannot issue the PASID.
    NotBound,
    /// The space of the PASID's owner has ended.
    SpaceEnded(PasidTag),
}

/// Returns the permissions of the mapping that holds the address, without a frame.
fn translate_in_domain(device: &DeviceRecord, request: &TranslationRequest) -> Translation {
    let none = Translation::none(request.address);
    let attachment = device.group.domain.current();
    let Some(mapping) = attachment.domain.find(request.address) else { return none };
    Translation { permissions: mapping.permissions & Permissions::READ_WRITE, ..none }
}
