//! Devices that translate for themselves: they cache translations, use them, and request pages.

mod guard;
mod port;
mod transfer;

pub use guard::TranslationGuard;
pub use port::{AtsPort, TranslationRequestError};
