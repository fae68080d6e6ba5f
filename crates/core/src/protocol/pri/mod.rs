//! Page requests: the page request interface of a device ([`interface`]), and the page request
//! queue of the IOMMU ([`queue`]).

mod counts;
pub(crate) mod interface;
pub(crate) mod queue;
pub(crate) mod records;
