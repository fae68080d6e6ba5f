//! Unit tests under Miri, with a nightly toolchain: what is undefined behaviour in the unsafe code
//! that they meet, most of which is in crates that ours use (vm-memory's slices, slab, smallvec).
//!
//! Unsafe code of our own is in the host provider alone, which is system calls that Miri does not
//! know.

use std::time::Duration;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};
use crate::toolchain;

const TOOLCHAIN: &str = "nightly";

/// One run of `cargo miri test`.
pub(crate) struct Suite {
    package: &'static str,
    /// Beside the package: `--lib`, `--test NAME`.
    what: &'static [&'static str],
    /// These tests, by parts of their names; all where empty.
    only: &'static [&'static str],
    /// Tests that take minutes there, by parts of their names.
    without: &'static [&'static str],
}

/// What takes seconds.
pub(crate) const SHORT: &[Suite] = &[Suite {
    package: "sva-core",
    without: &[
        // Properties of hundreds of cases.
        "slow_reference",
        "from_its_bits",
        "bits_are_an_error",
        "every_waiter_is_finished",
        // A hundred thousand rounds, or large tables.
        "nothing_is_kept_for_callers",
        "changes_that_nobody_waits_for",
        "quantiles_are_right",
        "one_that_is_used_again",
        "iotlb::tests::",
    ],
    ..LIBRARY
}];

/// What takes minutes, beside those.
pub(crate) const LONG: &[Suite] = &[
    Suite { package: "sva-core", only: &["one_that_is_used_again"], ..LIBRARY },
    Suite { package: "sva-devices", ..LIBRARY },
];

/// The unit tests of a library.
const LIBRARY: Suite = Suite { package: "", what: &["--lib"], only: &[], without: &[] };

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    match run(context, SHORT, minutes(8))? {
        Ok(tests) => {
            println!("{tests} tests");
            Ok(Outcome::Passed)
        }
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

/// How many tests passed, or why there is no Miri here.
pub(crate) fn run(
    context: &Context,
    suites: impl IntoIterator<Item = &'static Suite>,
    limit: Duration,
) -> Result<Result<usize, String>, String> {
    let words = ["miri", "--version"];
    if let Some(why) = toolchain::unavailable(context, TOOLCHAIN, &words) {
        let advice = format!("rustup component add miri --toolchain {TOOLCHAIN}");
        return Ok(Err(format!("{why} ({advice})")));
    }
    let mut passed = 0;
    for suite in suites {
        let mut words = vec!["miri", "test", "-p", suite.package, "--locked"];
        words.extend(suite.what);
        words.push("--");
        words.extend(suite.only);
        words.extend(suite.without.iter().flat_map(|name| ["--skip", name]));
        let mut command = toolchain::cargo(context, TOOLCHAIN, &words);
        command
            // Property tests are slow there: a few cases each.
            .env("PROPTEST_CASES", "4")
            // The rigs of some tests hold themselves in circles; that is no undefined behaviour.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-ignore-leaks")
            .env("CARGO_TARGET_DIR", context.target.join("miri"));
        passed += tests_passed(&context.tee(command, limit)?);
    }
    Ok(Ok(passed))
}

/// The sum of what the test programs say: `test result: ok. 12 passed; ...`.
pub(crate) fn tests_passed(said: &str) -> usize {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    results.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_all_programs_are_counted() {
        let said = "test result: ok. 12 passed; 0 failed\nx\ntest result: ok. 3 passed; 0 failed\n";
        assert_eq!(tests_passed(said), 15);
    }
}
