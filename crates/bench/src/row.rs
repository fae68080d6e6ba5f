//! Rows: a figure, its baseline, and whether the goal is met.

use std::error::Error;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::counted::Count;

/// What a row is to reach. Written out in the row, so that anyone can recompute `met`.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// value / baseline is at least this.
    RatioAtLeast(f64),
    /// value / baseline is at most this.
    RatioAtMost(f64),
    /// The value is at least this, in the row's unit.
    ValueAtLeast(f64),
    /// The value is at most this, in the row's unit.
    ValueAtMost(f64),
    /// value - baseline is at most this, in the row's unit.
    MoreAtMost(f64),
    /// None: the figure is for information.
    None,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtLeast(goal) => write!(f, "ratio >= {goal}"),
            Self::RatioAtMost(goal) => write!(f, "ratio <= {goal}"),
            Self::ValueAtLeast(goal) => write!(f, "value >= {goal}"),
            Self::ValueAtMost(goal) => write!(f, "value <= {goal}"),
            Self::MoreAtMost(goal) => write!(f, "value - baseline <= {goal}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            goal => serializer.collect_str(goal),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    case: String,
    unit: &'static str,
    value: f64,
    baseline: f64,
    ratio: f64,
    goal: Goal,
    met: bool,
}

/// The rows of a run, printed as they come or together as JSON.
pub struct Rows {
    json: bool,
    rows: Vec<Row>,
    counts: Vec<Count>,
}

impl Rows {
    /// None yet. Without `json` each is printed as it comes.
    pub fn new(json: bool) -> Self {
        if !json {
            println!(
                "{:<58} {:>14} {:>14} {:>7}  {:<16} met",
                "case", "value", "baseline", "ratio", "goal"
            );
        }
        Self { json, rows: Vec::new(), counts: Vec::new() }
    }

    /// Each of these counts comes as a row of its own, in instructions, behind the row of the same
    /// case; or at the end, where there is none.
    pub fn beside(&mut self, counts: Vec<Count>) {
        self.counts = counts;
    }

    /// Adds a row. What the baseline is stands in the case's name or in docs/performance.md.
    pub fn add(
        &mut self,
        case: impl Into<String>,
        unit: &'static str,
        value: f64,
        baseline: f64,
        goal: Goal,
    ) {
        let case = case.into();
        let count = self
            .counts
            .iter()
            .position(|count| count.case == case)
            .map(|at| self.counts.remove(at));
        self.push(case, unit, value, baseline, goal);
        self.push_counts(count);
    }

    fn push_counts(&mut self, counts: impl IntoIterator<Item = Count>) {
        counts.into_iter().for_each(|count| {
            self.push(count.case, "instructions", count.value, count.baseline, Goal::None)
        });
    }

    fn push(&mut self, case: String, unit: &'static str, value: f64, baseline: f64, goal: Goal) {
        let ratio = value / baseline;
        let met = match goal {
            Goal::RatioAtLeast(goal) => ratio >= goal,
            Goal::RatioAtMost(goal) => ratio <= goal,
            Goal::ValueAtLeast(goal) => value >= goal,
            Goal::ValueAtMost(goal) => value <= goal,
            Goal::MoreAtMost(goal) => value - baseline <= goal,
            Goal::None => true,
        };
        let row = Row { case, unit, value, baseline, ratio, goal, met };
        if !self.json {
            let goal = row.goal.to_string();
            let met = if met { "yes" } else { "NO" };
            println!(
                "{:<58} {value:>14.1} {baseline:>14.1} {ratio:>7.3}  {goal:<16} {met}  {unit}",
                row.case
            );
        }
        self.rows.push(row);
    }

    /// Prints what is to be printed at the end. A missed goal is a figure, not an error.
    ///
    /// # Errors
    /// A figure that JSON cannot say.
    pub fn finish(mut self) -> Result<(), Box<dyn Error>> {
        let rest = std::mem::take(&mut self.counts);
        self.push_counts(rest);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.rows)?);
        }
        Ok(())
    }
}

/// The middle of some figures.
pub fn median(figures: &mut [f64]) -> f64 {
    percentile(figures, 50)
}

/// The smallest figure that `percent` of all do not exceed.
pub fn percentile(figures: &mut [f64], percent: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    let rank = (figures.len() * percent).div_ceil(100).max(1);
    figures.get(rank - 1).copied().unwrap_or(f64::NAN)
}
