//! The trait of ports: the methods that [`DmaPort`] and [`AtsPort`] share.

use super::ats::AtsPort;
use super::port::DmaPort;
use crate::api::fault::DmaError;
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid, PasidTag};
use crate::types::range::Segment;

/// A port through which a device issues transactions. Device models that work with both [`DmaPort`]
/// and [`AtsPort`] are generic over it.
///
/// Each method is the port's own method of the same name, with the same errors and the same
/// blocking.
pub trait Port {
    /// The device that this port issues transactions as.
    fn device(&self) -> Bdf;

    /// The owner that transactions with its PASID must reach; `None` for a port that reaches any
    /// owner.
    fn owner(&self) -> Option<PasidTag>;

    /// The current owner of a PASID at this device; `None` if the PASID is not bound here.
    fn owner_of(&self, pasid: Pasid) -> Option<PasidTag>;

    /// Makes a port whose transactions with `tag`'s PASID reach that owner and no later one.
    fn for_owner(&self, tag: PasidTag) -> Self
    where
        Self: Sized;

    /// Reads `buf.len()` bytes at `address`.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError>;

    /// Writes `data` at `address`.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
    fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Reads the pieces one after the other into `buf`, whose length must be the sum of theirs.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError>;

    /// Writes `data` to the pieces one after the other; its length must be the sum of theirs.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
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
