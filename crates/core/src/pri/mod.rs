//! The page request interface (PCIe 6.0, section 10.4): what a device that can wait for a page says, what the IOMMU keeps of it, and what it answers.
//!
//! | module | what |
//! |---|---|
//! | [`message`] | page requests, stop markers and responses, as checked values |
//! | [`layout`] | the same bit by bit, both ways |

pub mod layout;
pub mod message;

pub use message::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
