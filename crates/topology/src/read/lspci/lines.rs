//! Lines of a text, without what mail programs put in front of them.

use std::borrow::Cow;

/// The text of a mail that was saved as it was sent: quoted-printable (RFC 2045, section 6.7),
/// recognised by fields that `lspci` never writes so.
pub(super) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    const KEYS: [&[u8]; 4] = [b"DEVSEL", b"primary", b"[size", b"Len"];
    let encoded_at = |at: usize| {
        let (key, value) = text.split_at(at);
        value.starts_with(b"=3D") && KEYS.iter().any(|name| key.ends_with(name))
    };
    if !(0..text.len()).any(|at| text.get(at) == Some(&b'=') && encoded_at(at)) {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let pair = after.first_chunk().and_then(|pair: &[u8; 2]| {
            u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
        });
        match (byte, after, pair) {
            (b'=', [b'\n', after @ ..] | [b'\r', b'\n', after @ ..], _) => rest = after,
            (b'=', [_, _, after @ ..], Some(byte)) => {
                plain.push(byte);
                rest = after;
            }
            _ => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

/// One line.
#[derive(Clone, Copy)]
pub(super) struct Line<'t> {
    /// Counted from 1.
    pub(super) number: usize,
    /// Where `text` begins in it, in bytes from 1.
    pub(super) column: usize,
    /// Without indentation, quote marks and the end of the line.
    pub(super) text: &'t str,
}

/// The lines of `text`. Where about every other line is blank, as some mail programs leave it, the
/// blank line after each other one is left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let lines = || {
        text.lines().enumerate().map(|(index, line)| {
            let text = unquoted(line);
            Line { number: index + 1, column: line.len() - text.len() + 1, text: text.trim_end() }
        })
    };
    let blank = lines().filter(|line| line.text.is_empty()).count();
    let spaced = blank > 8 && blank * 21 >= lines().count() * 10;
    let mut after_text = false;
    lines().filter(move |line| {
        let dropped = spaced && after_text && line.text.is_empty();
        after_text = !line.text.is_empty();
        !dropped
    })
}

/// Without leading blanks and quote marks. A wrapped `>SERR-` loses its mark too, which no field
/// that is read has.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(|c: char| c.is_whitespace() || c == '>' || c == '|')
}

/// A line of `lspci -x`: the offset and up to 16 bytes.
pub(super) fn hex(line: &str) -> Option<(usize, impl Iterator<Item = u8>)> {
    let (offset, bytes) = line.split_once(": ")?;
    let plain =
        (2..=3).contains(&offset.len()) && offset.bytes().all(|byte| byte.is_ascii_hexdigit());
    let offset = plain
        .then(|| usize::from_str_radix(offset, 16).ok())
        .flatten()
        .filter(|offset| offset % 16 == 0)?;
    let byte = |word: &str| if word.len() == 2 { u8::from_str_radix(word, 16).ok() } else { None };
    byte(bytes.split_whitespace().next()?)?;
    // The last byte of a text that is cut short may be half of one.
    Some((offset, bytes.split_whitespace().take(16).map_while(byte)))
}

/// Whether a line says that something was left out here.
pub(super) fn marks_omission(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let words = line.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '…');
    line.len() <= 40
        && (matches!(words, "..." | "…" | "snip" | "snipped" | "cut")
            || words.contains("truncated"))
}
