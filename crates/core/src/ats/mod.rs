//! Address translation services (PCIe 6.0, sections 10.1 to 10.3): what a device and the IOMMU say to one another about translations, and what each keeps of it.
//!
//! | module | what |
//! |---|---|
//! | [`message`] | translation and invalidation messages, as checked values |
//! | [`layout`] | the same bit by bit, both ways |

pub mod layout;
pub mod message;

pub use message::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, Itag, Permissions, RequestId, Translation, TranslationCompletion,
    TranslationRefusal, TranslationRequest,
};
