//! Ports of devices with ATS, which request translations, cache them in their ATC, and request
//! pages.

mod guard;
mod port;
mod transfer;

pub use guard::TranslationGuard;
pub use port::{AtsPort, TranslationRequestError};
