//! Address translation services (PCIe 6.0, sections 10.1 to 10.3): the messages between a device
//! and the IOMMU, as values and bit by bit.

pub mod layout;
mod message;

pub use message::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, Itag, PAGE, RequestId,
    Translation, TranslationCompletion, TranslationRefusal, TranslationRequest,
};
