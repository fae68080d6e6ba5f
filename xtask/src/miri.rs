//! Unit tests under Miri, with a nightly toolchain: what is undefined behaviour in the unsafe code
//! that they meet, most of which is in crates that ours use (vm-memory's slices, slab, smallvec).
//! It also fails where a test leaks memory.
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
        "every_waiter_is_completed",
        // A hundred thousand rounds, or large tables.
        "dropped_waiters_do_not_accumulate",
        "waiters_of_dropped_changes",
        "quantiles_are_precise",
        "referenced_before_each_eviction",
        "iotlb::tests::",
    ],
    ..LIBRARY
}];

/// What takes minutes, beside those.
pub(crate) const LONG: &[Suite] = &[
    Suite { package: "sva-core", only: &["referenced_before_each_eviction"], ..LIBRARY },
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
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
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

    #[test]
    fn each_name_of_a_suite_is_the_name_of_a_test() {
        let context = Context::find().unwrap();
        for suite in SHORT.iter().chain(LONG) {
            let folder = suite.package.trim_start_matches("sva-");
            let sources = context.root.join("crates").join(folder).join("src");
            let text = all_sources(&sources);
            for name in suite.only.iter().chain(suite.without) {
                let name = name.split("::").next().unwrap_or(name);
                assert!(text.contains(name), "{}: no test is called {name}", suite.package);
            }
        }
    }

    fn all_sources(folder: &std::path::Path) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                text += &all_sources(&path);
            } else {
                text += &std::fs::read_to_string(&path).unwrap_or_default();
            }
        }
        text
    }
}
