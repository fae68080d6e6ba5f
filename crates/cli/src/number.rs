//! Numbers and names as users write them, beyond what the fabric's reader has.

use sva_pci::{BadNumber, parse_address, parse_size};

/// The text is not the number that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BadArgument {
    /// Not a number, or above 64 bits.
    #[error(transparent)]
    Number(#[from] BadNumber),
    /// A length of nothing.
    #[error("a length of 0 leaves nothing to do")]
    Zero,
    /// No name at all.
    #[error("name a region, such as [heap]; sva regions lists them")]
    NoName,
    /// A byte above 255.
    #[error("{value:#x} is not a byte; give 0 to 255")]
    NotAByte {
        /// What was given.
        value: u64,
    },
    /// No process number, or one that no process can have.
    #[error("`{text}` is not a process number; ps -e lists the processes with their numbers")]
    NotAProcess {
        /// What was given.
        text: String,
    },
}

/// Reads a length in bytes, at least 1, optionally with K, M, G or T for powers of 1024.
///
/// # Errors
/// [`BadArgument`].
pub(crate) fn length(text: &str) -> Result<u64, BadArgument> {
    match parse_size(text)? {
        0 => Err(BadArgument::Zero),
        len => Ok(len),
    }
}

/// Reads a byte, 0..=255.
///
/// # Errors
/// [`BadArgument`].
pub(crate) fn byte(text: &str) -> Result<u8, BadArgument> {
    let value = parse_address(text)?;
    u8::try_from(value).map_err(|_| BadArgument::NotAByte { value })
}

/// Reads the number of a process, from 1 on, in decimal as `ps` prints it.
///
/// # Errors
/// [`BadArgument::NotAProcess`].
pub(crate) fn process(text: &str) -> Result<u32, BadArgument> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| BadArgument::NotAProcess { text: text.to_owned() })
}

/// Reads a mapping's name. The empty name is refused: it is that of all anonymous memory.
///
/// # Errors
/// [`BadArgument::NoName`].
pub(crate) fn region(text: &str) -> Result<String, BadArgument> {
    if text.is_empty() { Err(BadArgument::NoName) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows S2
    #[test]
    fn lengths_are_never_0_and_bytes_have_8_bits() {
        assert_eq!(length("4K"), Ok(4096));
        assert_eq!(length("0"), Err(BadArgument::Zero));
        assert_eq!(length("0G"), Err(BadArgument::Zero));
        assert!(matches!(length("-1"), Err(BadArgument::Number(_))));
        assert_eq!(byte("0xff"), Ok(255));
        assert_eq!(byte("256"), Err(BadArgument::NotAByte { value: 256 }));
        assert_eq!(process("1"), Ok(1));
        for text in ["0", "-1", "self", "0x10", "4294967296", ""] {
            assert_eq!(process(text), Err(BadArgument::NotAProcess { text: text.to_owned() }));
        }
    }
}
