//! What came of each defect, and how that is shown.

use std::time::Duration;

use super::run::{Verdict, limit};
use super::table::Row;

/// What came of one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The test passes without the defect and fails with it.
    Found,
    /// The mechanism is not there yet, so that there is nothing to break.
    NotBuilt,
    /// The test passes with the defect.
    Survived,
    /// Nothing was shown: the test is not there, or fails without the defect, or ended in a way
    /// that says nothing.
    Broken,
}

impl Fate {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotBuilt => "not there yet",
            Self::Survived => "SURVIVED",
            Self::Broken => "BROKEN",
        }
    }
}

/// What came of one defect.
pub(super) struct Report {
    pub(super) row: Row,
    pub(super) fate: Fate,
    /// How the test failed, or what is wrong.
    pub(super) words: String,
    /// With the defect.
    pub(super) took: Duration,
}

/// What a run with the defect shows.
pub(super) fn judge(with: Verdict, hangs: bool) -> (Fate, String) {
    let limit = limit(hangs).as_secs();
    match with {
        Verdict::Failed(words) => (Fate::Found, words),
        Verdict::Hangs if hangs => (Fate::Found, format!("does not end within {limit} s")),
        Verdict::Hangs => {
            (Fate::Broken, format!("does not end within {limit} s, and its row does not say so"))
        }
        Verdict::Passed => (Fate::Survived, "the test does not see the defect".to_owned()),
        Verdict::Odd(why) => (Fate::Broken, why),
    }
}

/// What is not as it should be.
pub(super) fn failures(reports: &[Report], strict: bool) -> Vec<String> {
    let bad = |report: &&Report| match report.fate {
        Fate::Found => false,
        Fate::NotBuilt => strict,
        Fate::Survived | Fate::Broken => true,
    };
    reports
        .iter()
        .filter(bad)
        .map(|report| format!("{} {}: {}", report.row.number, report.fate.word(), report.words))
        .collect()
}

pub(super) fn show(reports: &[Report]) {
    for Report { row, fate, words, took } in reports {
        match &row.test {
            Some(test) => {
                println!(
                    "{:>2}  {:<13}  {:>5.1} s  {}\n{:>28}{words}",
                    row.number,
                    fate.word(),
                    took.as_secs_f64(),
                    test.name,
                    ""
                )
            }
            None => println!("{:>2}  {}", row.number, fate.word()),
        }
    }
    let count = |fate: Fate| reports.iter().filter(|report| report.fate == fate).count();
    let [found, later, survived, broken] =
        [Fate::Found, Fate::NotBuilt, Fate::Survived, Fate::Broken].map(count);
    println!(
        "mutations: {found} found, {survived} survived, {broken} broken, {later} not there yet"
    );
}

pub(super) fn json(reports: &[Report]) {
    let object = |report: &Report| {
        let test = report.row.test.as_ref();
        serde_json::json!({
            "number": report.row.number,
            "fate": report.fate.word(),
            "test": test.map(|test| &test.name),
            "file": test.map(|test| &test.file),
            "mutation": report.row.mutation,
            "words": report.words,
            "seconds": report.took.as_secs_f64(),
        })
    };
    println!("{:#}", serde_json::Value::Array(reports.iter().map(object).collect()));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_test_that_passes_with_the_defect_or_hangs_unannounced_is_a_failure() {
        assert_eq!(judge(Verdict::Failed("words".to_owned()), false).0, Fate::Found);
        assert_eq!(judge(Verdict::Passed, false).0, Fate::Survived);
        assert_eq!(
            (judge(Verdict::Hangs, true).0, judge(Verdict::Hangs, false).0),
            (Fate::Found, Fate::Broken)
        );
        assert_eq!(judge(Verdict::Odd("killed".to_owned()), true).0, Fate::Broken);
        let report = |fate| Report {
            row: Row { number: 1, test: None, mutation: BTreeSet::new() },
            fate,
            words: String::new(),
            took: Duration::ZERO,
        };
        let reports = [
            report(Fate::Found),
            report(Fate::NotBuilt),
            report(Fate::Survived),
            report(Fate::Broken),
        ];
        assert_eq!((failures(&reports, false).len(), failures(&reports, true).len()), (2, 3));
        assert!(failures(&reports[..2], false).is_empty());
    }
}
