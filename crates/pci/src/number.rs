//! Numbers as people write them: addresses in hexadecimal or decimal, sizes with K, M, G or T.

/// The text is not a number that fits 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}; write it in decimal or with 0x, such as {example}")]
pub struct BadNumber {
    /// What was given.
    pub text: String,
    /// What was expected.
    pub what: &'static str,
    /// How to write one.
    pub example: &'static str,
}

/// Reads an address: `0x8000_0000` or decimal; underscores may separate digits.
///
/// # Errors
/// Not a number, or above 64 bits.
pub fn parse_address(text: &str) -> Result<u64, BadNumber> {
    digits(text).ok_or_else(|| BadNumber {
        text: shown(text),
        what: "an address",
        example: "0x80000000",
    })
}

/// Reads a size in bytes: as [`parse_address`], optionally followed by K, M, G or T (powers of
/// 1024).
///
/// # Errors
/// Not a number, or above 64 bits.
pub fn parse_size(text: &str) -> Result<u64, BadNumber> {
    let bad = || BadNumber { text: shown(text), what: "a size", example: "4096, 64K or 2M" };
    let shift = match text.as_bytes().last() {
        Some(b'K' | b'k') => 10,
        Some(b'M' | b'm') => 20,
        Some(b'G' | b'g') => 30,
        Some(b'T' | b't') => 40,
        _ => return digits(text).ok_or_else(bad),
    };
    let number = digits(&text[..text.len() - 1]).ok_or_else(bad)?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Writes a size with the largest unit that divides it.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match units.into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn digits(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    let separated =
        digits.split('_').all(|run| !run.is_empty() && run.chars().all(|c| c.is_digit(radix)));
    if !separated {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// The start of a foreign text, fit for an error message.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows S2
    #[test]
    fn numbers_are_read_exactly_or_refused() {
        assert_eq!(parse_address("0x8000_0000"), Ok(0x8000_0000));
        assert_eq!(parse_address("4096"), Ok(4096));
        assert_eq!(parse_size("0x10K"), Ok(16 << 10));
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        for bad in [
            "",
            "0x",
            "_1",
            "1_",
            "1__2",
            "-1",
            "+1",
            "0x+1",
            "1M",
            " 1",
            "18446744073709551616",
            "é",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
        for bad in ["", "K", "1KK", "16777216T", "1 M", "é", "1é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (4096, "4K"),
            (3 << 20, "3M"),
            (1 << 30, "1G"),
            (1 << 50, "1024T"),
            (1536, "1536"),
        ] {
            assert_eq!(size_text(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }
}
