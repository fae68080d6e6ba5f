//! How wide a text may come out, in whatever font a viewer has.

/// Widths of the printable ASCII characters, in thousandths of the font size: those of DejaVu Sans,
/// which is among the widest of the fonts that a viewer may choose.
const ASCII: [u16; 95] = [
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636,
    636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632,
    575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685,
    611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352, 635, 634, 278, 278, 579,
    278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838,
];

/// A face: size in pixels, weight and family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Face {
    /// The class of the style sheet.
    pub(super) class: &'static str,
    /// Pixels.
    pub(super) size: f32,
    pub(super) bold: bool,
    pub(super) mono: bool,
}

/// Pixels that `text` takes at most.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand pixels"
)]
pub(super) fn width(text: &str, face: Face) -> u32 {
    let thousandths: u32 = text.chars().map(|c| u32::from(of(c, face.mono))).sum();
    // Bold faces are about a tenth wider; in a monospaced family they are not.
    let weight = if face.bold && !face.mono { 1.13 } else { 1.0 };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^24")]
    let pixels = thousandths as f32 / 1000.0 * face.size * weight;
    pixels.ceil() as u32
}

fn of(c: char, mono: bool) -> u16 {
    let index = (c as usize).wrapping_sub(0x20);
    match c {
        _ if mono && c.is_ascii() => 620,
        _ if c.is_ascii() => ASCII.get(index).copied().unwrap_or(1000),
        '\u{a0}'..='\u{2ff}' => 1000,
        _ => 1200,
    }
}

/// As much of `text` as fits `most` pixels, with an ellipsis where something was cut.
pub(super) fn fitted(text: &str, face: Face, most: u32) -> String {
    if width(text, face) <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(width("…", face));
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept, face) > room {
            kept.pop();
            break;
        }
    }
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACE: Face = Face { class: "name", size: 10.0, bold: false, mono: false };

    #[test]
    fn a_text_that_is_cut_fits_and_says_that_it_was_cut() {
        for most in [20, 45, 100] {
            let cut = fitted("a name that is much too long for its box", FACE, most);
            assert!(width(&cut, FACE) <= most, "{cut}");
            assert!(cut.ends_with('…'));
        }
        assert_eq!(fitted("short", FACE, 100), "short");
    }

    #[test]
    fn wider_characters_bold_and_unknown_ones_take_more() {
        assert!(width("WWW", FACE) > width("iii", FACE));
        assert!(width("abc", Face { bold: true, ..FACE }) > width("abc", FACE));
        assert!(width("漢", FACE) > width("W", FACE));
    }
}
