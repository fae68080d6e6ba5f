//! The page request interface: the device's side ([`interface`]) and the IOMMU's queue ([`queue`]).

pub(crate) mod group;
pub(crate) mod interface;
pub(crate) mod queue;
