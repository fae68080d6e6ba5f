//! Lines of a text, without what mail programs put in front of them.

/// One line.
#[derive(Clone, Copy, Default)]
pub(super) struct Line<'t> {
    /// Counted from 1.
    pub(super) number: usize,
    /// Where `text` begins in it, in bytes from 1.
    pub(super) column: usize,
    /// Without indentation, quote marks and the end of the line.
    pub(super) text: &'t str,
}

/// The lines of `text`.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().enumerate().map(|(index, line)| {
        let text = unquoted(line);
        Line { number: index + 1, column: line.len() - text.len() + 1, text: text.trim_end() }
    })
}

/// Without leading blanks and quote marks. A wrapped `>SERR-` loses its mark too, which no field that is read has.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(|c: char| c.is_whitespace() || c == '>' || c == '|')
}

/// A line of `lspci -x`: the offset and up to 16 bytes.
pub(super) fn hex(line: &str) -> Option<(usize, impl Iterator<Item = u8>)> {
    let (offset, bytes) = line.split_once(": ")?;
    let plain = (2..=3).contains(&offset.len()) && offset.bytes().all(|byte| byte.is_ascii_hexdigit());
    let offset = plain.then(|| usize::from_str_radix(offset, 16).ok()).flatten().filter(|offset| offset % 16 == 0)?;
    let byte = |word: &str| if word.len() == 2 { u8::from_str_radix(word, 16).ok() } else { None };
    byte(bytes.split_whitespace().next()?)?;
    // The last byte of a text that is cut short may be half of one.
    Some((offset, bytes.split_whitespace().take(16).map_while(byte)))
}

/// Whether a line says that something was left out here.
pub(super) fn says_cut(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let words = line.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '…');
    line.len() <= 40 && (matches!(words, "..." | "…" | "snip" | "snipped" | "cut") || words.contains("truncated"))
}
