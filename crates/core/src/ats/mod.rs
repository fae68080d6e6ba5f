//! Address translation services (PCIe 6.0, sections 10.1 to 10.3): what a device and the IOMMU say
//! to one another about translations, and what each keeps of it.
//!
//! | module | what |
//! |---|---|
//! | [`message`] | translation and invalidation messages, as checked values |
//! | [`layout`] | the same bit by bit, both ways |

pub(crate) mod cache;
mod held;
pub(crate) mod invalidate;
pub mod layout;
pub mod message;
pub mod port;

pub use cache::{AtcCounts, TranslationAnswer};
pub use held::Held;
pub use invalidate::InvalidationCounts;
pub use message::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, Itag, Permissions, RequestId,
    Translation, TranslationCompletion, TranslationRefusal, TranslationRequest,
};
pub use port::{AskTranslationError, AtsPort};
