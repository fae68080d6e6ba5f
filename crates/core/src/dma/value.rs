//! Reads and writes of typed values.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::port::DmaPort;
use crate::api::fault::DmaError;
use crate::types::access::Access;
use crate::types::ids::Pasid;

impl DmaPort {
    /// Reads a value at `address`, which need not be aligned. The bytes are taken as they are in
    /// memory: the byte order of a field is the one that its type says. Derive the traits of
    /// [`zerocopy`] for your own structures.
    ///
    /// An aligned value of 1, 2, 4 or 8 bytes in memory that is accessed in place is read by one
    /// load. A longer or unaligned value may change while it is read.
    ///
    /// # Errors
    /// See [`read`](Self::read).
    #[inline]
    pub fn read_obj<T: FromBytes + IntoBytes>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
    ) -> Result<T, DmaError> {
        if let Some(pasid) = pasid
            && let Some(value) =
                self.first_level_slice(pasid, address, size_of::<T>(), Access::READ, |slice| {
                    slice.load()
                })
        {
            return Ok(value);
        }
        let mut value = T::new_zeroed();
        self.read_miss(pasid, address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value at `address`, as [`read_obj`](Self::read_obj) reads one.
    ///
    /// # Errors
    /// See [`write`](Self::write).
    #[inline]
    pub fn write_obj<T: IntoBytes + Immutable>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && self
                .first_level_slice(pasid, address, size_of::<T>(), Access::WRITE, |slice| {
                    slice.store(&value)
                })
                .is_some()
        {
            return Ok(());
        }
        self.write_miss(pasid, address, value.as_bytes())
    }
}
