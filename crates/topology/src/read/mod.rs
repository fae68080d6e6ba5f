//! Readers of real machines: a live Linux, saved `lspci` text, saved dumps, kernel logs.
//!
//! Each reader fills a [`Reading`], which keeps what was read and nothing else;
//! [`Reading::machine`] completes it. [`from_text`] and [`live`] do both. All input is untrusted:
//! it is bounded in length and in what it makes, nothing panics, and errors say line and column
//! (contract S2).
//!
//! | file | what it reads |
//! |---|---|
//! | `lspci/` | text of `lspci`, of any verbosity and in any state |
//! | `config.rs` | configuration space bytes |
//! | `sysfs.rs`, `iommu.rs` | a live machine; registers of IOMMUs |
//! | `dump.rs` | JSON of [`save`] |
//! | `dmesg.rs` | groups and IOMMUs of a kernel log |
//! | `names.rs` | the PCI ID database |

mod config;
mod dmesg;
mod dump;
mod error;
mod iommu;
mod lspci;
mod names;
mod sysfs;

use std::path::Path;

pub use dmesg::{LogMatch, add_dmesg};
pub use dump::save;
pub use error::ReadError;
pub(crate) use iommu::decode as decode_iommu;
pub(crate) use names::{Named, Names, name_of};

use crate::machine::{Machine, Reading, limit};

/// Reads a saved machine: `lspci` text, also in the middle of a mail, or a dump of [`save`].
///
/// # Errors
///
/// [`ReadError`], with line and column: nothing in it is a PCI function, or it is a damaged dump,
/// or there is too much of it. Damaged `lspci` text is no error; what it does not say is marked so.
pub fn from_text(text: &[u8]) -> Result<Machine, ReadError> {
    parse(text).map(|reading| reading.machine())
}

/// Like [`from_text`], before anything is concluded.
///
/// # Errors
///
/// As [`from_text`].
pub fn parse(text: &[u8]) -> Result<Reading, ReadError> {
    if text.len() > LONGEST {
        return Err(ReadError::TooLong { bytes: text.len(), limit: LONGEST });
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        dump::parse(text)
    } else {
        lspci::parse(text)
    }
}

/// The longest input that is read, in bytes: 64 MiB.
pub const LONGEST: usize = 64 << 20;

/// Reads the machine whose file systems are below `root`: `/` for this one, another folder for a
/// copy of its `/sys` and `/proc`.
///
/// # Errors
///
/// [`ReadError::Live`] where there are no PCI devices to list. A file of a single device that
/// cannot be read is what was not read of it.
pub fn live(root: &Path) -> Result<Machine, ReadError> {
    scan(root).map(|reading| reading.machine())
}

/// Like [`live`], before anything is concluded.
///
/// # Errors
///
/// As [`live`].
pub fn scan(root: &Path) -> Result<Reading, ReadError> {
    sysfs::scan(root)
}

/// Printable, on one line and of bounded length: how foreign names are kept. What is tame stays as
/// it is.
pub(crate) fn tame(name: &str) -> String {
    let words =
        name.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut tame = String::new();
    let mut left = limit::NAME;
    for word in words {
        if !tame.is_empty() {
            tame.push(' ');
            left -= 1;
        }
        tame.extend(word.chars().take(left));
        left = left.saturating_sub(word.chars().count());
        // A blank must have something after it.
        if left < 2 {
            break;
        }
    }
    tame
}
