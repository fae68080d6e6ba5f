//! The first line of a function: address, class, name, numbers.

use sva_core::Bdf;

use crate::machine::{Class, FunctionReading, Ids, hex_word};
use crate::read::sanitize::sanitize;

/// Whether a line begins a function: an address, blanks, and a class that ends in a colon. Returns
/// the rest of the line after the address.
pub(super) fn begin(line: &str) -> Option<(Bdf, &str)> {
    let (address, rest) = line.split_once(|c: char| c.is_whitespace())?;
    let bdf = address_of(address)?;
    let rest = rest.trim_start();
    rest.split_once(':').filter(|(class, _)| !class.is_empty() && class.len() <= 80)?;
    Some((bdf, rest))
}

/// `bb:dd.f` or `ssss:bb:dd.f`, each part with the digits that `lspci` gives it: looser forms occur
/// in other text.
fn address_of(text: &str) -> Option<Bdf> {
    let digits = text.split_once('.').map(|(rest, function)| {
        (rest.split(':').map(str::len).collect::<Vec<_>>(), function.len())
    })?;
    match (digits.0.as_slice(), digits.1) {
        ([2, 2], 1) | ([4..=8, 2, 2], 1) => text.parse().ok(),
        _ => None,
    }
}

/// Reads class, name and numbers of `title`.
pub(super) fn title(title: &str, function: &mut FunctionReading) {
    // Old versions write `Class 0604: ...`.
    let title = title.strip_prefix("Class ").unwrap_or(title);
    let Some((class, device)) = title.split_once(": ").or_else(|| title.split_once(':')) else {
        return;
    };
    let code = bracketed(class).or_else(|| hex_word(class.trim()));
    let class_name = class.split_once(" [").map_or(class, |(name, _)| name);
    if hex_word(class_name.trim()).is_none() && !class_name.starts_with('[') {
        // An unnamed subclass is named by its class and number.
        function.class_name = Some(sanitize(class_name));
    }
    let interface = after(device, "(prog-if ")
        .and_then(|text| u8::from_str_radix(text.get(..2)?, 16).ok())
        .filter(|&byte| byte != 0xff);
    function.class =
        code.map(|code| Class(u32::from(code) << 8 | u32::from(interface.unwrap_or(0))));
    let device = [" (rev ", " (prog-if "]
        .iter()
        .filter_map(|mark| device.find(mark))
        .min()
        .and_then(|end| device.get(..end))
        .unwrap_or(device);
    let (name, ids) = numbers(device);
    function.ids = ids;
    function.name = Some(sanitize(name)).filter(|name| !name.is_empty());
}

/// Splits a device's name from its numbers: `[vvvv:dddd]` at the end, or `vvvv:dddd` alone or after
/// `Device`.
pub(super) fn numbers(text: &str) -> (&str, Option<Ids>) {
    let text = text.trim();
    let (name, last) = text.rsplit_once(|c: char| c.is_whitespace()).unwrap_or(("", text));
    let bare = last.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(ids) => (name.strip_suffix(" Device").unwrap_or(name).trim_end(), Some(ids)),
        Err(_) => (text, None),
    }
}

/// The four digits in the last brackets.
fn bracketed(text: &str) -> Option<u16> {
    let (_, last) = text.rsplit_once('[')?;
    hex_word(last.strip_suffix(']')?)
}

fn after<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    text.split_once(mark).map(|(_, rest)| rest)
}
