//! The steps of `cargo xtask ci`.

use std::time::Duration;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};
use crate::step::Step;
use crate::{
    circles, fuzz, links, miri, msrv, mutate, outputs, package, rules, sanitize, soak, style,
    targets,
};

/// All of them, cheapest first, in the order in which they run.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "fmt", what: "the code is formatted, and no line is too long", run: fmt },
    Step {
        name: "circles",
        what: "imports go round in no circle and point downwards",
        run: circles::check,
    },
    Step {
        name: "rules",
        what: "every rule of the contract names the tests that show it",
        run: rules::check,
    },
    Step {
        name: "links",
        what: "paths and links in the documents lead somewhere",
        run: links::check,
    },
    Step {
        name: "clippy",
        what: "no warning, and every unsafe block says why it is sound",
        run: clippy,
    },
    Step {
        name: "targets",
        what: "everything builds for 64-bit ARM, on Linux and on macOS",
        run: targets::check,
    },
    Step { name: "test", what: "the tests", run: test },
    Step { name: "msrv", what: "the oldest toolchain that is promised", run: msrv::check },
    Step {
        name: "loom",
        what: "model checking of the core's races, but for the four longest models",
        run: loom,
    },
    Step {
        name: "mutate",
        what: "every defect of others has its patch, and every patch applies",
        run: mutate::check,
    },
    Step {
        name: "schedule",
        what: "60,000,000 steps of the whole system by schedules, under the eyes of the oracle",
        run: schedule,
    },
    Step {
        name: "soak",
        what: "5,000,000 accesses by many threads while memory is taken away, each checked",
        run: soak::check,
    },
    Step {
        name: "naive",
        what: "the exec test fails when identity is checked per call by pid",
        run: naive,
    },
    Step {
        name: "in-thread",
        what: "the host provider's tests where it has no tracer process, as under Yama",
        run: in_thread,
    },
    Step {
        name: "miri",
        what: "unit tests under Miri, where there is a nightly toolchain that has it",
        run: miri::check,
    },
    Step {
        name: "fuzz",
        what: "each reader of foreign bytes by coverage-guided fuzzing, for some seconds",
        run: fuzz::check,
    },
    Step {
        name: "tsan",
        what: "no race of the core but those of accesses in a space's memory, by ThreadSanitizer",
        run: sanitize::thread,
    },
    Step {
        name: "asan",
        what: "the tests of what has unsafe code, under AddressSanitizer",
        run: sanitize::address,
    },
    Step { name: "docs", what: "the documentation builds without a warning", run: docs },
    Step { name: "deny", what: "licences, sources and advisories of the dependencies", run: deny },
    Step { name: "package", what: "every crate can be published", run: package::check },
    Step { name: "bench", what: "the benchmarks run and print their rows", run: bench },
    Step { name: "demo", what: "every claim of the demonstration holds", run: demo },
];

fn fmt(context: &Context) -> Result<Outcome, String> {
    context.run(context.cargo(&["fmt", "--all", "--check"]), minutes(1))?;
    style::check_widths(&context.root)?;
    Ok(Outcome::Passed)
}

fn clippy(context: &Context) -> Result<Outcome, String> {
    context.run(
        context.cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
        minutes(10),
    )?;
    // For monitors with device models of their own.
    let words = [
        "clippy",
        "-p",
        "sva-vmm",
        "--no-default-features",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    context.run(context.cargo(&words), minutes(5))?;
    Ok(Outcome::Passed)
}

fn test(context: &Context) -> Result<Outcome, String> {
    context.run(context.cargo(&["test", "--workspace", "--locked"]), minutes(15))?;
    Ok(Outcome::Passed)
}

/// The models that take less than a minute each, with the schedules that they tried.
fn loom(context: &Context) -> Result<Outcome, String> {
    models(context, &[], minutes(10))
}

/// Every model, with the schedules that it tried.
pub(crate) fn all_models(context: &Context) -> Result<Outcome, String> {
    models(context, &["--include-ignored"], minutes(30))
}

fn models(context: &Context, options: &[&str], limit: Duration) -> Result<Outcome, String> {
    let words = [
        "test",
        "-p",
        "sva-core",
        "--test",
        "loom",
        "--profile",
        "model",
        "--locked",
        "--",
        "--nocapture",
    ];
    let words = [&words[..], options].concat();
    let mut command = context.cargo_with_flags("--cfg loom", "loom", &words);
    // More forced switches than any schedule of these models has: each goes as far as it says
    // itself.
    if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
        command.env("LOOM_MAX_PREEMPTIONS", "64");
    }
    let said = context.tee(command, limit)?;
    let schedules: u64 = numbers_before(&said, " schedules in ").sum();
    Ok(Outcome::Figures(format!("{} models, {schedules} schedules", miri::tests_passed(&said))))
}

/// The test of the ordinary run with enough seeds and steps that each race has to be reached a
/// thousand times.
pub(crate) fn schedule(context: &Context) -> Result<Outcome, String> {
    let words = [
        "test",
        "--release",
        "-p",
        "sva-sim",
        "--test",
        "schedule",
        "--locked",
        "--",
        "--nocapture",
        "no_order_of_events",
    ];
    let mut command = context.cargo(&words);
    command.env("SVA_SCHEDULE_SEEDS", "1000").env("SVA_SCHEDULE_STEPS", "60000");
    let said = context.tee(command, minutes(10))?;
    let line = said.lines().find(|line| line.contains(" steps, "));
    Ok(Outcome::Figures(line.unwrap_or_default().to_owned()))
}

/// The numbers that stand right before `words`, in any place of a line: output of several tests
/// shares lines.
fn numbers_before<'a>(said: &'a str, words: &'a str) -> impl Iterator<Item = u64> + 'a {
    said.lines().filter_map(move |line| {
        let (before, _) = line.split_once(words)?;
        before.rsplit(' ').next()?.parse().ok()
    })
}

/// A test that cannot fail shows nothing: with the unsound construction the exec test has to fail,
/// and by a failed assertion.
fn naive(context: &Context) -> Result<Outcome, String> {
    let cargo = |more: &[&str]| {
        let mut words = vec!["test", "-p", "sva-host", "--test", "exec", "--locked"];
        words.extend(more);
        context.cargo_with_flags("--cfg sva_naive_check", "naive", &words)
    };
    context.run(cargo(&["--no-run"]), minutes(10))?;
    let output = context.output_of(cargo(&[]), minutes(5))?;
    let report: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| {
            line.contains("FAILED") || line.contains("panicked") || line.starts_with("test ")
        })
        .collect();
    println!("{}", report.join("\n"));
    if output.status.success() {
        return Err(
            "the exec test passes with the per-call check by pid: it does not see the race \
                    that it is there for"
                .to_owned(),
        );
    }
    if !(output.stdout.contains("test result: FAILED") && output.stdout.contains("touched")) {
        return Err(format!(
            "the exec test ended with {} without a write in the new image:\n{}",
            output.status, output.stderr
        ));
    }
    Ok(Outcome::Passed)
}

/// The tracer thread makes the anchors itself, as where only an ancestor may trace. No such kernel
/// is needed to test it.
fn in_thread(context: &Context) -> Result<Outcome, String> {
    let words = [
        "test",
        "-p",
        "sva-host",
        "--test",
        "identity",
        "--test",
        "programs",
        "--test",
        "undisturbed",
        "--locked",
    ];
    context.run(
        context.cargo_with_flags("--cfg sva_no_tracer_process", "in-thread", &words),
        minutes(10),
    )?;
    Ok(Outcome::Passed)
}

fn docs(context: &Context) -> Result<Outcome, String> {
    // Private items too: the modules' own heads explain the algorithms, and their links have to
    // lead somewhere as well. A public module may therefore link to a private one, for whoever
    // reads the code.
    let mut command = context.cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
        "--quiet",
    ]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    context.run(command, minutes(10))?;
    Ok(Outcome::Passed)
}

fn deny(context: &Context) -> Result<Outcome, String> {
    let installed = context.output_of(context.cargo(&["deny", "--version"]), minutes(1))?;
    if !installed.status.success() {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed (cargo install --locked cargo-deny)".to_owned(),
        ));
    }
    context.run(
        context.cargo(&[
            "deny",
            "--locked",
            "check",
            "--hide-inclusion-graph",
            "licenses",
            "bans",
            "sources",
        ]),
        minutes(3),
    )?;
    // The advisories come over the network: a machine without one skips them, a machine that has
    // them must pass.
    let advisories =
        context.output_of(context.cargo(&["deny", "--locked", "check", "advisories"]), minutes(3));
    match advisories {
        Ok(output) if output.status.success() => Ok(Outcome::Passed),
        Ok(output)
            if output.stderr.contains("failed to fetch")
                || output.stderr.contains("unable to fetch") =>
        {
            let why = output
                .stderr
                .lines()
                .find(|line| line.contains("fetch"))
                .unwrap_or("no network")
                .trim()
                .to_owned();
            Ok(Outcome::Skipped(format!(
                "licences, bans and sources passed; advisories could not be fetched: {why}"
            )))
        }
        Ok(output) => {
            Err(format!("cargo deny check advisories:\n{}{}", output.stdout, output.stderr))
        }
        Err(why) => {
            Ok(Outcome::Skipped(format!("licences, bans and sources passed; advisories: {why}")))
        }
    }
}

fn bench(context: &Context) -> Result<Outcome, String> {
    benchmarks(context, false)
}

/// The benchmarks, and the instructions of those that are counted.
pub(crate) fn counted_bench(context: &Context) -> Result<Outcome, String> {
    benchmarks(context, true)
}

fn benchmarks(context: &Context, count: bool) -> Result<Outcome, String> {
    context.run(
        context.cargo(&[
            "build",
            "--release",
            "-p",
            "sva-bench",
            "-p",
            "sva-bench-peers",
            "--locked",
        ]),
        minutes(10),
    )?;
    let suites = [
        ("sva-bench", "host"),
        ("sva-bench", "topology"),
        ("sva-bench", "faults"),
        ("sva-bench", "translate"),
        ("sva-bench-peers", "mechanisms"),
        ("sva-bench-peers", "translate"),
    ];
    for (package, suite) in suites {
        // Counted in instructions too where asked, and where there is valgrind.
        let counted = (count && suite == "translate").then_some("--instructions");
        let words: Vec<&str> =
            ["run", "--release", "--quiet", "-p", package, "--", suite, "--json", "--quick"]
                .into_iter()
                .chain(counted)
                .collect();
        let output = context.output_of(context.cargo(&words), minutes(5))?;
        output
            .stderr
            .lines()
            .filter(|line| line.starts_with("SKIPPED"))
            .for_each(|line| println!("*** {suite}: {line}"));
        if !output.status.success() {
            return Err(format!(
                "the benchmarks `{suite}` ended with {}:\n{}",
                output.status, output.stderr
            ));
        }
        let (rows, missed) = outputs::bench_rows(&output.stdout)?;
        println!(
            "{suite}: {rows} rows; goals missed in this quick run (reported, never failed): {}",
            missed.len()
        );
        missed.iter().for_each(|row| println!("    {row}"));
    }
    Ok(Outcome::Passed)
}

fn demo(context: &Context) -> Result<Outcome, String> {
    context
        .run(context.cargo(&["build", "--release", "-p", "sva-cli", "--locked"]), minutes(10))?;
    for story in [&[][..], &["--faults"]] {
        let words =
            [&["run", "--release", "--quiet", "-p", "sva-cli", "--", "demo"], story].concat();
        context.run(context.cargo(&words), minutes(1))?;
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_what_else_a_line_says() {
        let said = "test a::b ... 120 schedules in 0.1 s\n7 schedules in 2.0 s\nok\n";
        assert_eq!(numbers_before(said, " schedules in ").sum::<u64>(), 127);
    }
}
