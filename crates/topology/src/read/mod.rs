//! Readers of real machines: a live Linux, saved `lspci` text, saved dumps, kernel logs.
//!
//! Each reader fills a [`Reading`](crate::machine::Reading), which keeps what was read and nothing
//! else; [`Reading::machine`](crate::machine::Reading::machine) infers the rest. [`from_text`] and
//! [`live`] do both. All input is untrusted: it is bounded in length and in what it makes, nothing
//! panics, and errors say line and column.
//!
//! Uses `acs`, `machine` and `infer`.
//!
//! | module | what it reads |
//! |---|---|
//! | `text` | saved text: `lspci` text or a dump |
//! | `lspci` | text of `lspci`, of any verbosity and in any state |
//! | `dump` | JSON of [`save`] |
//! | `dmesg` | groups and IOMMUs of a kernel log |
//! | `sysfs` | a live machine |
//! | `config` | configuration space bytes |
//! | `options`, `sanitize`, `limit`, `error` | what the readers share |

mod config;
mod dmesg;
mod dump;
mod error;
mod limit;
mod lspci;
mod options;
mod sanitize;
mod sysfs;
mod text;

pub use dmesg::{LogMatch, add_dmesg};
pub use dump::save;
pub use error::ReadError;
pub use limit::LONGEST;
pub use sysfs::{live, scan};
pub use text::{from_text, parse};
