//! Colours for the drawings of the libraries, which are plain text.
//!
//! The words are found in the text. Rejected: roles in what `sva_topology` and `sva_pci` draw, an
//! API for this command alone. A foreign name that contains such words is coloured too, and no
//! more than that.

use crate::terminal::{Palette, Role};

/// Words of our drawings that say what is missing, before more of the line.
const MISSING: [&str; 4] = ["no group", "no PASID", "no ACS?", "no ACS"];

/// Words that begin a finding.
const FINDINGS: [&str; 4] = ["path:", "caught by", "lost in", "drops TLP prefixes:"];

/// `text` with groups, findings and what is missing in their colours.
pub(crate) fn coloured(text: &str, palette: Palette) -> String {
    text.split_inclusive('\n').map(|line| coloured_line(line, palette)).collect()
}

fn coloured_line(line: &str, palette: Palette) -> String {
    let (mut out, mut rest, mut at_word) = (String::with_capacity(line.len()), line, true);
    while let Some(next) = rest.chars().next() {
        let found = if at_word { marked(rest) } else { None };
        let (length, role) = found.unwrap_or((next.len_utf8(), Role::Faint));
        let (word, behind) = rest.split_at(length);
        match found {
            Some(_) => out.push_str(&palette.paint(role, word)),
            None => out.push(next),
        }
        (rest, at_word) = (behind, !word.ends_with(|c: char| c.is_alphanumeric()));
    }
    out
}

/// The bytes of the marked words that `text` begins with, and what they say.
fn marked(text: &str) -> Option<(usize, Role)> {
    if let Some(number) = text.strip_prefix("group ") {
        let digits = number.len() - number.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let role = Role::Group(number[..digits].parse().ok()?);
        return Some(("group ".len() + digits, role));
    }
    let length = |words: &[&str]| Some(words.iter().find(|word| text.starts_with(**word))?.len());
    let missing = length(&MISSING).map(|length| (length, Role::Warning));
    missing.or_else(|| Some((length(&FINDINGS)?, Role::Bad)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_findings_are_found_and_all_else_is_as_it_was() {
        let text = "├─ 01:00.0 x, group 12: no PASID\n│    path: subgroup 3\n";
        assert_eq!(coloured(text, Palette::default()), text);
        let marks: Vec<&str> = ["group 12: no", "no PASID\n", "path: x", "subgroup 3", "group x"]
            .into_iter()
            .map(|text| marked(text).map_or("", |(length, _)| &text[..length]))
            .collect();
        assert_eq!(marks, ["group 12", "no PASID", "path:", "", ""]);
    }
}
