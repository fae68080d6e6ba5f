//! Claims: what the demonstration says, whether it held, and the figures that were measured.

use std::fmt::Display;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use sva_core::Pasid;

use crate::terminal::{Role, Terminal, padded, width, wrapped};

/// A checked sentence. The same seed gives the same sentences; what differs from run to run is in
/// the figures.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Claim {
    /// The chapter's name.
    pub(crate) chapter: &'static str,
    /// The rules of the contract that it shows.
    pub(crate) rules: &'static [&'static str],
    /// The sentence.
    #[serde(rename = "claim")]
    pub(crate) text: &'static str,
    /// Whether it is true.
    pub(crate) held: bool,
    /// What was measured.
    pub(crate) figures: Figures,
}

/// Begins each line below a claim.
const INDENT: &str = "            ";

/// Columns of a claim's line: of its sentence, and of its figures, which end it.
const SENTENCE: usize = 66;
const FIGURES: usize = 23;

impl Claim {
    /// For people: one line, or two where the figures do not fit; and one more for each thing that
    /// was said.
    pub(crate) fn lines(&self, terminal: Terminal) -> String {
        let columns = terminal.columns_or_standard();
        let (mark, role) = if self.held { ('✓', Role::Good) } else { ('✗', Role::Bad) };
        let mark = terminal.palette.paint(role, mark);
        let rules = padded(&terminal.palette.paint(Role::Faint, self.rules.join(" ")), 5);
        let figures = self.figures.short();
        let head = format!("  {mark} {rules} {}", self.text);
        let start = width(&head);
        let end = INDENT.len() - 2 + SENTENCE + 1 + FIGURES.max(width(&figures));
        let mut text = if columns >= end {
            format!("  {mark} {rules} {:<SENTENCE$} {figures:>FIGURES$}", self.text)
        } else if figures.is_empty() || start + 2 + width(&figures) <= columns {
            wrapped(&format!("{head}  {figures}"), columns, INDENT)
        } else {
            wrapped(&format!("{head}\n{INDENT}{figures}"), columns, INDENT)
        };
        text.truncate(text.trim_end().len());
        for said in self.figures.0.iter().filter_map(|figure| figure.said()) {
            // A hundred columns are read more easily than more.
            let said = wrapped(&format!("{INDENT}{said}"), columns.min(100), INDENT);
            text.push('\n');
            text.push_str(&said);
        }
        text
    }
}

/// What was measured for a claim, by name.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: &'static str,
    value: Value,
    /// In a person's line; nothing where it is a sentence, which gets a line of its own.
    short: Option<String>,
}

impl Figure {
    fn said(&self) -> Option<&str> {
        if self.short.is_none() { self.value.as_str() } else { None }
    }
}

impl Figures {
    /// None.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>, short: Option<String>) -> Self {
        self.0.push(Figure { name, value: value.into(), short });
        self
    }

    /// A number of what `name` says.
    pub(crate) fn count(self, name: &'static str, count: impl Into<u64>) -> Self {
        let count = count.into();
        self.with(name, count, Some(format!("{count} {name}").replace('_', " ")))
    }

    /// A value of its own, such as a generation.
    pub(crate) fn value(self, name: &'static str, value: u64) -> Self {
        self.with(name, value, Some(format!("{name} {value}").replace('_', " ")))
    }

    /// A PASID.
    pub(crate) fn pasid(self, name: &'static str, pasid: Pasid) -> Self {
        self.with(name, pasid.get(), Some(format!("PASID {pasid}")))
    }

    /// How long something took; in JSON in microseconds.
    pub(crate) fn time(self, name: &'static str, time: Duration) -> Self {
        let us = time.as_micros();
        let short = if us < 10_000 { format!("{us} us") } else { format!("{} ms", us / 1000) };
        self.with(name, u64::try_from(us).unwrap_or(u64::MAX), Some(short))
    }

    /// Bytes in a time, as a rate in GB/s.
    pub(crate) fn rate(self, bytes: u64, time: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = bytes as f64 / time.as_secs_f64().max(1e-9) / 1e9;
        let rounded = (rate * 100.0).round() / 100.0;
        self.with("bytes", bytes, Some(size(bytes))).with(
            "gigabytes_per_second",
            rounded,
            Some(format!("{rounded:.2} GB/s")),
        )
    }

    /// A size or a count of bytes.
    pub(crate) fn bytes(self, name: &'static str, bytes: u64) -> Self {
        self.with(name, bytes, Some(size(bytes)))
    }

    /// What was said, word for word.
    pub(crate) fn said(self, name: &'static str, said: impl Display) -> Self {
        self.with(name, said.to_string(), None)
    }

    fn short(&self) -> String {
        self.0.iter().filter_map(|figure| figure.short.as_deref()).collect::<Vec<_>>().join(", ")
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for figure in &self.0 {
            map.serialize_entry(figure.name, &figure.value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_fits_the_terminal_and_its_figures_end_the_line() {
        let figures = Figures::new()
            .count("accesses_of_all_devices", 1_234_567u64)
            .said("refusal", "a sentence that is so long that it has to be broken somewhere here");
        let text = "a claim of sixty-six columns, which is the most that any claim has";
        let claim = Claim { chapter: "x", rules: &["G4", "B8"], text, held: true, figures };
        for columns in [40, 60, 80, 100, 200] {
            let lines = claim.lines(Terminal::of_columns(columns));
            assert!(lines.lines().all(|line| width(line) <= columns), "{columns}: {lines}");
            assert_eq!(
                lines.split_whitespace().collect::<Vec<_>>(),
                claim.lines(Terminal::default()).split_whitespace().collect::<Vec<_>>(),
            );
        }
        let standard = claim.lines(Terminal::of_columns(100));
        assert_eq!(standard, claim.lines(Terminal::default()), "as where there is no terminal");
    }
}
