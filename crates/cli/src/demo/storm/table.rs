//! How long the faults of each bond took.

use std::time::Duration;

use serde::Serialize;
use sva_core::Pasid;
use sva_core::pri::FaultTimes;
use sva_core::pri::Histogram;

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

    /// Whether there were times of each part.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// For people: a line a bond, at most 100 columns.
pub(crate) fn text(bonds: &[BondTimes]) -> String {
    let head = |name: &str| format!("{name:>18}");
    let mut text =
        format!("\nMicroseconds (m: milliseconds) by bond: p50, p99, longest\n{:>26}", "answers");
    text.push_str(&["request", "resolve", "response", "retry"].map(head).concat());
    for bond in bonds {
        let place = bond.device.strip_prefix("0000:").unwrap_or(&bond.device);
        text.push_str(&format!(
            "\n{place} {:<8}{:>3}{:>7}",
            bond.space, bond.pasid, bond.responses
        ));
        text.push_str(
            &[&bond.request, &bond.resolve, &bond.response, &bond.retry].map(Part::cells).concat(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
