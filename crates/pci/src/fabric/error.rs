//! Why a description was refused, and why a change was.

mod spec;

use sva_core::Bdf;
use sva_core::topology::GroupKey;
use sva_topology::AcsBits;

pub use spec::{Decoder, SpecError};

use crate::fabric::limit;

/// The start of foreign text: what a terminal would obey is escaped, and the line remains one.
pub(crate) fn escaped(text: &str, characters: usize) -> String {
    let mut rest = text.trim_end().chars();
    let mut shown: String = rest.by_ref().take(characters).flat_map(harmless).collect();
    if rest.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// Escapes control characters, among them line feeds, and those that turn the direction of writing.
/// Quotes stay as they are.
fn harmless(c: char) -> impl Iterator<Item = char> {
    let plain = c == '\\' || c == '\'' || c == '"';
    let escaped = (!plain).then(|| c.escape_debug());
    escaped.into_iter().flatten().chain(plain.then_some(c))
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Longer than [`limit::TEXT`].
    #[error("{len} bytes are more than the {} that a fabric file may have", limit::TEXT)]
    TooLong {
        /// Bytes.
        len: usize,
    },
    /// Not TOML, or not of this format: an unknown key, a missing one, a value of another type.
    #[error(
        "line {line}, column {column}: {}; there it says `{excerpt}`",
        escaped(reason.message(), limit::REASON)
    )]
    Toml {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the reader says. No `source`: its own text repeats place and reason, and prints
        /// the whole line as it is.
        reason: Box<toml::de::Error>,
        /// The line around the column, at most [`limit::EXCERPT`] characters before escaping,
        /// control characters escaped.
        excerpt: String,
    },
    /// Well-formed, but no fabric.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Why a function was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It does not fit; among others a BAR outside the windows as they are programmed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Adding it would put a device that is there into another group.
    #[error(
        "adding {added} would move {device} from the group at {} to the one at {}",
        from.0,
        to.0
    )]
    GroupWouldChange {
        /// What was to be added.
        added: Bdf,
        /// What is there.
        device: Bdf,
        /// Its group.
        from: GroupKey,
        /// Its group then.
        to: GroupKey,
    },
}

/// No such function is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no function {0}")]
pub struct NotPresent(pub Bdf);

/// Why ACS control was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No such port or function.
    #[error("there is no port or function {0}")]
    NotPresent(Bdf),
    /// It has no ACS capability.
    #[error("{0} has no ACS capability")]
    NoCapability(Bdf),
    /// Services that it does not implement.
    #[error("{bdf} does not implement ACS {bits}")]
    NotImplemented {
        /// The port or function.
        bdf: Bdf,
        /// The services.
        bits: AcsBits,
    },
    /// Egress control, which is not modelled.
    #[error("ACS EC of {0} cannot be enabled: no egress vector is modelled")]
    EgressControl(Bdf),
}

/// Why a model was not attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such function.
    #[error("there is no function {0}")]
    NotPresent(Bdf),
    /// It has no such BAR.
    #[error("{bdf} has no BAR {index}")]
    NoBar {
        /// The function.
        bdf: Bdf,
        /// The number.
        index: u8,
    },
}
