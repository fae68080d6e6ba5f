//! What ports have in common.

use super::ats::AtsPort;
use super::port::DmaPort;
use crate::api::fault::DmaError;
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid, PasidTag};
use crate::types::range::Segment;

/// A port through which a device issues transactions: for models that work with either kind,
/// [`DmaPort`] and [`AtsPort`].
///
/// The methods are those of the ports, with the same errors.
pub trait Port {
    /// The device that it issues as.
    fn device(&self) -> Bdf;

    /// The owner that its transactions reach, where they are to reach no other.
    fn owner(&self) -> Option<PasidTag>;

    /// The owner that a PASID has at this device now.
    fn owner_of(&self, pasid: Pasid) -> Option<PasidTag>;

    /// A port whose transactions with `tag`'s PASID reach that owner and no later one.
    fn for_owner(&self, tag: PasidTag) -> Self
    where
        Self: Sized;

    /// Reads `buf.len()` bytes at `address`.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError>;

    /// Writes `data` at `address`.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Reads the pieces one after the other into `buf`, whose length is the sum of theirs.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError>;

    /// Writes `data` to the pieces one after the other; its length is the sum of theirs.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Result<(), DmaError>;
}

macro_rules! port {
    ($port:ty) => {
        impl Port for $port {
            fn device(&self) -> Bdf {
                <$port>::device(self)
            }

            fn owner(&self) -> Option<PasidTag> {
                <$port>::owner(self)
            }

            fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
                <$port>::owner_of(self, pasid)
            }

            fn for_owner(&self, tag: PasidTag) -> Self {
                <$port>::for_owner(self, tag)
            }

            #[inline]
            fn read(
                &self,
                pasid: Option<Pasid>,
                address: u64,
                buf: &mut [u8],
            ) -> Result<(), DmaError> {
                <$port>::read(self, pasid, address, buf)
            }

            #[inline]
            fn write(
                &self,
                pasid: Option<Pasid>,
                address: u64,
                data: &[u8],
            ) -> Result<(), DmaError> {
                <$port>::write(self, pasid, address, data)
            }

            fn gather(
                &self,
                pasid: Option<Pasid>,
                pieces: &[Segment],
                buf: &mut [u8],
                access: Access,
            ) -> Result<(), DmaError> {
                <$port>::gather(self, pasid, pieces, buf, access)
            }

            fn scatter(
                &self,
                pasid: Option<Pasid>,
                pieces: &[Segment],
                data: &[u8],
                access: Access,
            ) -> Result<(), DmaError> {
                <$port>::scatter(self, pasid, pieces, data, access)
            }
        }
    };
}

port!(DmaPort);
port!(AtsPort);
