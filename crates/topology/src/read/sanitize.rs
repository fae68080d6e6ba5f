//! Foreign names in the form in which they are kept.

use crate::machine::limit;

/// Makes a foreign name printable, one line, and at most [`limit::NAME`] characters long. A name
/// that was sanitized stays as it is.
pub(crate) fn sanitize(name: &str) -> String {
    let words =
        name.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut kept = String::new();
    let mut left = limit::NAME;
    for word in words {
        if !kept.is_empty() {
            kept.push(' ');
            left -= 1;
        }
        kept.extend(word.chars().take(left));
        left = left.saturating_sub(word.chars().count());
        // A blank must have something after it.
        if left < 2 {
            break;
        }
    }
    kept
}
