//! The core's translations as vm-memory's IOMMU.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use sva_core::{Access, Device, DmaPort, Pasid, Pin, Segment, SpaceId};
use thread_local::ThreadLocal;
use vm_memory::iommu::{Error, IotlbIterator};
use vm_memory::{GuestAddress, Iommu, Iotlb, guest_memory};

use super::error::{cannot_resolve, iommu_error};
use super::thread_port::{CachedIotlb, ThreadPort};

/// vm-memory's IOMMU: translates as one device with one PASID.
///
/// For any number of threads. Each of them has a port of its own, which clones share; the ports
/// live until the last clone is dropped.
///
/// Each translation is pinned while its answer lives: an invalidation on another thread waits for
/// it.
#[derive(Clone)]
pub struct DeviceIommu {
    ports: Arc<PortPerThread>,
    pasid: Pasid,
    space: SpaceId,
}

struct PortPerThread {
    device: Device,
    ports: ThreadLocal<ThreadPort>,
}

impl DeviceIommu {
    pub(crate) fn new(device: Device, pasid: Pasid, space: SpaceId) -> Self {
        Self { ports: Arc::new(PortPerThread { device, ports: ThreadLocal::new() }), pasid, space }
    }

    /// This thread's port.
    #[inline]
    pub(super) fn port(&self) -> &ThreadPort {
        self.ports.ports.get_or(|| ThreadPort::new(self.ports.device.port()))
    }

    /// Pins the translation of a range. An access without permissions is taken for a read.
    // Inlined in any case, as are its callers up to vm-memory's code. A result that is returned
    // through memory is written in other pieces than it is read, and the processor waits for its
    // own stores.
    #[inline(always)]
    pub(super) fn pin<'a>(
        &self,
        port: &'a DmaPort,
        address: GuestAddress,
        len: usize,
        access: guest_memory::Permissions,
    ) -> Result<Pin<'a>, Error> {
        let piece = Segment { address: address.0, len: len as u64 };
        let pin = self.pin_for(
            port,
            piece,
            if access.has_write() { Access::WRITE } else { Access::READ },
        )?;
        if access == guest_memory::Permissions::ReadWrite {
            // A pin is for one kind of access. The second one only checks: what it finds holds as
            // long as the first pin lives.
            drop(self.pin_for(port, piece, Access::READ)?);
        }
        Ok(pin)
    }

    #[inline(always)]
    fn pin_for<'a>(
        &self,
        port: &'a DmaPort,
        piece: Segment,
        access: Access,
    ) -> Result<Pin<'a>, Error> {
        let pin =
            port.pin(self.pasid, piece, access).map_err(|error| iommu_error(&error, piece))?;
        if pin.space() == self.space { Ok(pin) } else { Err(self.wrong_space(pin.space())) }
    }

    #[cold]
    fn wrong_space(&self, space: SpaceId) -> Error {
        let reason = format!(
            "PASID {} leads to {space}, which is not the one that this memory is of",
            self.pasid
        );
        Error::IommuMisconfigured { reason }
    }
}

/// An [`Iotlb`] whose translations of the addresses that were asked for hold as long as this lives.
/// Its translations of other addresses mean nothing.
pub struct PinnedIotlb<'a> {
    /// `Some` until the drop.
    iotlb: Option<Box<CachedIotlb>>,
    port: &'a ThreadPort,
    pin: Pin<'a>,
}

impl Deref for PinnedIotlb<'_> {
    type Target = Iotlb;

    #[inline]
    fn deref(&self) -> &Iotlb {
        &self.iotlb.as_ref().expect("there until the drop").iotlb
    }
}

impl Drop for PinnedIotlb<'_> {
    fn drop(&mut self) {
        self.iotlb.take().into_iter().for_each(|iotlb| self.port.put_back(iotlb));
    }
}

impl fmt::Debug for PinnedIotlb<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedIotlb").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Iommu for DeviceIommu {
    type IotlbGuard<'a> = PinnedIotlb<'a>;

    /// # Errors
    /// [`Error::CannotResolve`], from the first address that is at fault on;
    /// [`Error::IommuMisconfigured`] if the bond or the device is at fault. The fault is in the
    /// event log of the IOMMU.
    #[inline(always)]
    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: guest_memory::Permissions,
    ) -> Result<IotlbIterator<PinnedIotlb<'_>>, Error> {
        let piece = Segment { address: iova.0, len: length as u64 };
        if iova.0.checked_add(length as u64).is_none() {
            return Err(cannot_resolve(
                piece,
                iova.0,
                "vm-memory's Iotlb cannot name the last address, nor any beyond".to_owned(),
            ));
        }
        let port = self.port();
        let pin = self.pin(&port.dma, iova, length, access)?;
        let iotlb = Some(port.take_iotlb(pin.extents(), access)?);
        Iotlb::lookup(PinnedIotlb { iotlb, port, pin }, iova, length, access)
            .map_err(|fails| cannot_resolve(piece, iova.0, format!("not permitted: {fails:?}")))
    }
}

impl fmt::Debug for DeviceIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceIommu")
            .field("device", &self.ports.device.bdf())
            .field("pasid", &self.pasid)
            .finish()
    }
}
