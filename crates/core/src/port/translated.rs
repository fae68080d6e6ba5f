//! Requests with translated addresses.

use super::{Buffer, DmaPort, Path};
use crate::ats::Frame;
use crate::callback::InCallback;
use crate::fault::{Access, DmaError, FaultReason};
use crate::ids::Pasid;
use crate::iommu::inside::{Inside, Last};
use crate::space::NoSuchFrame;
use crate::sync::atomic::Ordering;
use crate::topology::PeerWindow;

impl DmaPort {
    /// Reads by a translated address, as a device does that keeps translations (PCIe 6.0, section
    /// 10.2.1: AT = 10b). Asks no page table. `access` is to read or to execute; to write counts
    /// as to read.
    ///
    /// For devices that do wrong: no invalidation waits for this request, so that it can come after
    /// the change of the space that took the frame. [`Held`](crate::ats::Held) is waited for.
    ///
    /// # Errors
    /// Nothing was read. ATS is off, the device is blocked, a port on the way blocks translated
    /// requests, the PASID is not bound, or the frame is not the space's.
    pub fn read_translated(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError> {
        let access = if access == Access::Write { Access::Read } else { access };
        self.path.translated_while(pasid, frame, Buffer::Into(buf), access, || true)
    }

    /// Writes by a translated address, as [`read_translated`](Self::read_translated) reads.
    ///
    /// # Errors
    /// Nothing was written; as for reading.
    pub fn write_translated(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        data: &[u8],
    ) -> Result<(), DmaError> {
        self.path.translated_while(pasid, frame, Buffer::From(data), Access::Write, || true)
    }
}

impl Path {
    /// `holds` is asked from inside the gates that a reset shuts: what it said no to is not
    /// accessed.
    pub(crate) fn translated_while(
        &self,
        pasid: Option<Pasid>,
        frame: Frame,
        buffer: Buffer<'_>,
        access: Access,
        holds: impl FnOnce() -> bool,
    ) -> Result<(), DmaError> {
        let abort = |reason| Err(self.fault(0, pasid, frame.0, access, reason));
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else {
            return abort(self.device.why_shut());
        };
        let Some(_translated) =
            Inside::enter(&self.device.services.translated, &self.iommu, Last::Quiet(&self.device))
        else {
            return abort(FaultReason::TranslatedRefused);
        };
        if !holds() {
            return abort(self.device.why_shut());
        }
        let isolation = self.device.isolation(self.iommu.topology());
        let decodes = |window: &&PeerWindow| window.range.contains(frame.0);
        if let Some(window) = isolation.translated_windows().iter().find(decodes) {
            if buffer.len() as u64 > (window.range.last() - frame.0).saturating_add(1) {
                // One request lies in one page, and windows are made of whole pages.
                return abort(FaultReason::PeerAbort(window.decoder));
            }
            return self.to_peer(pasid, window, frame.0, buffer, access, 0);
        }
        // After the windows: those are met before the port that blocks.
        if let Some(port) = isolation.translation_blocked {
            return abort(FaultReason::TranslationBlocked(port));
        }
        let Some(pasid) = pasid.filter(|pasid| self.device.can_issue(*pasid)) else {
            return abort(FaultReason::TranslatedRefused);
        };
        let Some(entry) = self.device.requester.table.read().get(&pasid).cloned() else {
            return abort(self.not_bound(pasid));
        };
        let Some(_inside) = Inside::enter(&entry.gate, &self.iommu, Last::Attachment(&entry))
        else {
            return abort(self.not_bound(pasid));
        };
        if !entry.published.load(Ordering::Acquire) {
            return abort(FaultReason::NotBound);
        }
        if entry.record.ended() {
            return abort(FaultReason::SpaceEnded);
        }
        match buffer {
            Buffer::Into(buf) => entry.record.space.read_frame(frame, buf),
            Buffer::From(data) => entry.record.space.write_frame(frame, data),
        }
        .or_else(|NoSuchFrame(_)| abort(FaultReason::NoSuchFrame))
    }
}
