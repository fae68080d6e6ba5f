//! How long the faults of each bond took.

use std::time::Duration;

use serde::Serialize;
use sva_core::Pasid;
use sva_core::pri::{FaultTimes, Histogram};

use crate::terminal::{Role, Terminal};

/// What `--json` says of a bond (docs/demo.md).
#[derive(Debug, Serialize)]
pub(crate) struct BondTimes {
    device: String,
    space: &'static str,
    pasid: u32,
    responses: u64,
    request: Part,
    resolve: Part,
    response: Part,
    retry: Part,
    #[serde(skip)]
    complete: bool,
}

/// Microseconds of one part of a bond's faults.
#[derive(Debug, Serialize)]
struct Part {
    p50_us: f64,
    p99_us: f64,
    longest_us: f64,
}

impl Part {
    fn of(times: &Histogram) -> Self {
        let us = |time: Duration| time.as_nanos() as f64 / 1e3;
        Self {
            p50_us: us(times.quantile(0.5)),
            p99_us: us(times.quantile(0.99)),
            longest_us: us(times.longest()),
        }
    }

    fn cells(&self) -> String {
        format!("{}{}{}", cell(self.p50_us), cell(self.p99_us), cell(self.longest_us))
    }
}

/// Six columns: microseconds, or milliseconds where those would not fit.
fn cell(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:>6.1}"),
        us if us < 10_000.0 => format!("{us:>6.0}"),
        us => format!("{:>5.0}m", us / 1000.0),
    }
}

impl BondTimes {
    pub(super) fn new(
        device: String,
        space: &'static str,
        pasid: Pasid,
        times: &FaultTimes,
    ) -> Self {
        Self {
            device,
            space,
            pasid: pasid.get(),
            responses: times.response.count(),
            request: Part::of(&times.request),
            resolve: Part::of(&times.resolve),
            response: Part::of(&times.response),
            retry: Part::of(&times.retry),
            complete: [&times.request, &times.resolve, &times.response, &times.retry]
                .iter()
                .all(|part| part.count() > 0),
        }
    }

    /// The cells before the first part.
    fn cells(&self) -> String {
        let device = self.device.strip_prefix("0000:").unwrap_or(&self.device);
        format!("{device} {:<8}{:>3}{:>7}", self.space, self.pasid, self.responses)
    }

    fn parts(&self) -> [&Part; PARTS.len()] {
        [&self.request, &self.resolve, &self.response, &self.retry]
    }

    /// Whether there were times of each part.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The four parts, in the order of their columns.
const PARTS: [&str; 4] = ["request", "resolve", "response", "retry"];

/// Columns of the cells before the first part, and of a part.
const CELLS: usize = 26;
const PART: usize = 18;

/// For people: a line a bond, at most 98 columns; on a narrower terminal several tables, each with
/// as many parts as fit.
pub(super) fn text(bonds: &[BondTimes], terminal: Terminal) -> String {
    let palette = terminal.palette;
    let fit = (terminal.columns_or_standard().saturating_sub(CELLS) / PART).max(1);
    // As many parts in each table as in the others.
    let each = PARTS.len().div_ceil(PARTS.len().div_ceil(fit));
    let title = "Microseconds (m: milliseconds) by bond: p50, p99, longest";
    let mut text = format!("\n{}", palette.paint(Role::Heading, title));
    let parts: Vec<usize> = (0..PARTS.len()).collect();
    for (n, some) in parts.chunks(each).enumerate() {
        if n > 0 {
            text.push('\n');
        }
        let heads: String = some.iter().map(|part| format!("{:>PART$}", PARTS[*part])).collect();
        let head = format!("{:>CELLS$}{heads}", "answers");
        text.push_str(&format!("\n{}", palette.paint(Role::Heading, head)));
        for bond in bonds {
            let cells: String = some.iter().map(|part| bond.parts()[*part].cells()).collect();
            text.push_str(&format!("\n{}{cells}", bond.cells()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_cut_into_as_many_as_the_terminal_needs() {
        let times = FaultTimes::default();
        let pasid = Pasid::new(7).expect("in range");
        let bonds = [BondTimes::new("0000:01:00.0".to_owned(), "unbound", pasid, &times)];
        for (columns, tables) in [(200, 1), (98, 1), (97, 2), (80, 2), (62, 2), (61, 4), (44, 4)] {
            let text = text(&bonds, Terminal::of_columns(columns));
            assert_eq!(text.matches("answers").count(), tables, "{columns}: {text}");
            let rows = text.lines().skip(2);
            assert!(rows.clone().all(|line| line.chars().count() <= columns), "{columns}: {text}");
        }
    }

    #[test]
    fn a_cell_has_six_columns_whatever_the_time() {
        for us in [0.0, 0.05, 9.94, 99.94, 99.96, 100.0, 9_999.4, 9_999.9, 10_000.0, 9_999_999.0] {
            assert_eq!(cell(us).chars().count(), 6, "{us}: {:?}", cell(us));
        }
        assert_eq!(
            (cell(1.26).trim(), cell(1234.0).trim(), cell(12_345.0).trim()),
            ("1.3", "1234", "12m")
        );
    }
}
