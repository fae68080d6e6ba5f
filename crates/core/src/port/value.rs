//! Values in a space: what devices read and write as one.

use vm_memory::ByteValued;

use super::DmaPort;
use super::memo::Need;
use crate::fault::{AccessMode, DmaError};
use crate::ids::Pasid;

impl DmaPort {
    /// Reads a value at `address`, which need not be aligned. Its bytes are those of memory: a
    /// field of more than one byte has the order that its type says.
    ///
    /// An aligned word of up to 8 bytes in memory that is accessed in place is read at once;
    /// anything else can have been changed in between.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[inline]
    pub fn read_obj<T: ByteValued>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
    ) -> Result<T, DmaError> {
        if let Some(pasid) = pasid
            && let Some(value) = self.remembered(
                pasid,
                address,
                size_of::<T>(),
                Need::of(AccessMode::READ),
                |place| place.load(),
            )
        {
            return Ok(value);
        }
        let mut value = T::zeroed();
        self.read_elsewhere(pasid, address, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes a value at `address`, as [`read_obj`](Self::read_obj) reads one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn write_obj<T: ByteValued>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && self
                .remembered(pasid, address, size_of::<T>(), Need::of(AccessMode::WRITE), |place| {
                    place.store(value)
                })
                .is_some()
        {
            return Ok(());
        }
        self.write_elsewhere(pasid, address, value.as_slice())
    }
}
