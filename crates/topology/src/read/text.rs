//! Saved text of any kind: tells `lspci` text from a dump.

use super::error::ReadError;
use super::limit::LONGEST;
use super::{dump, lspci};
use crate::machine::{Machine, Reading};

/// Reads a saved machine: `lspci` text, also in the middle of a mail, or a dump of
/// [`save`](super::save).
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
