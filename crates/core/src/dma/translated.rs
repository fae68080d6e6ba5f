//! Requests with translated addresses (PCIe 6.0, section 10.2.1).

use super::buffer::Buffer;
use super::master::BusMaster;
use super::port::DmaPort;
use crate::api::ats::Frame;
use crate::api::fault::{DmaError, FaultReason};
use crate::api::space::NoSuchFrame;
use crate::api::topology::PeerWindow;
use crate::quiesce::callback::InCallback;
use crate::table::{GateGuard, OnDrain};
use crate::types::access::Access;
use crate::types::ids::Pasid;

impl DmaPort {
    /// Reads by a translated address, as a device with an ATC does (PCIe 6.0, section 10.2.1: AT =
    /// 10b). No page table is consulted. An `access` that writes is treated as one that reads.
    ///
    /// This is for models of faulty devices: no invalidation waits for this request, so it may
    /// access the frame after the change of the space that took it away. A correct device uses a
    /// [`TranslationGuard`](crate::ats::TranslationGuard), which invalidations wait for.
    ///
    /// # Errors
    /// See [`DmaError`]; nothing was read. ATS is off, the device is halted, a port on the path
    /// blocks translated requests, the PASID is not bound, or the frame is not a frame of the
    /// space.
    pub fn read_translated(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError> {
        let buffer = Buffer::Into(buf);
        self.master.access_translated(pasid, frame, buffer, access.reading(), || true)
    }

    /// Writes by a translated address, as [`read_translated`](Self::read_translated) reads.
    ///
    /// # Errors
    /// See [`read_translated`](Self::read_translated); nothing was written.
    pub fn write_translated(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        data: &[u8],
    ) -> Result<(), DmaError> {
        self.master.access_translated(pasid, frame, Buffer::From(data), Access::WRITE, || true)
    }
}

impl BusMaster {
    /// Performs a translated request. `is_usable` is called inside the gates that a reset shuts; if
    /// it returns false, nothing is accessed.
    ///
    /// The permissions of the bond are not checked here. They were applied to the translation, and
    /// the IOMMU trusts a device with ATS to keep to them, as hardware does.
    pub(super) fn access_translated(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        buffer: Buffer<'_>,
        access: Access,
        is_usable: impl FnOnce() -> bool,
    ) -> Result<(), DmaError> {
        let abort = |reason| Err(self.fault(0, pasid, frame.0, access, reason));
        let _callback = InCallback::enter();
        let Some(_inside) = self.enter_device() else {
            return abort(self.device.shut_reason());
        };
        let (gate, on_drain) =
            (&self.device.services.translated_gate, OnDrain::CompleteTranslatedDrain(&self.device));
        let Some(_translated) = GateGuard::enter(gate, &self.iommu, on_drain) else {
            return abort(FaultReason::TranslatedRefused);
        };
        if !is_usable() {
            return abort(self.device.shut_reason());
        }
        let routing = self.device.current_routing(self.iommu.topology());
        let decodes = |window: &&PeerWindow| window.range.contains(frame.0);
        if let Some(window) = routing.translated_windows().iter().find(decodes) {
            if buffer.len() as u64 > (window.range.last() - frame.0).saturating_add(1) {
                // A translated request lies in one page, and windows consist of whole pages.
                return abort(FaultReason::PeerAbort(window.decoder));
            }
            return self.access_peer(pasid, window, frame.0, buffer, access, 0);
        }
        // Checked after the windows: the request meets them before the port that blocks it.
        if let Some(port) = routing.translation_blocker {
            return abort(FaultReason::TranslationBlocked(port));
        }
        let Some(pasid) = pasid.filter(|pasid| self.device.can_issue(*pasid)) else {
            return abort(FaultReason::TranslatedRefused);
        };
        let Some(entry) = self.entry(pasid) else { return abort(self.not_bound(pasid)) };
        let _inside = match self.enter_entry(&entry) {
            Ok(inside) => inside,
            Err(reason) => return abort(reason),
        };
        match buffer {
            Buffer::Into(buf) => entry.record.space.read_frame(frame, buf),
            Buffer::From(data) => entry.record.space.write_frame(frame, data),
        }
        .or_else(|NoSuchFrame(_)| abort(FaultReason::NoSuchFrame))
    }
}
