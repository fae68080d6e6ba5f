//! `cargo xtask soak`: the stale-translation oracle under real threads, for as many accesses as are
//! asked for. The step `soak` makes a short one.

use std::process::ExitCode;
use std::time::Duration;

use crate::context::Context;
use crate::outcome::Outcome;

/// Of a short run.
const FEW: u64 = 5_000_000;
/// To build it.
const BUILD: Duration = Duration::from_secs(600);
/// The test has a bound of its own, before this.
const RUN: Duration = Duration::from_secs(600);

/// What the caller asked for; what was left out is the test's to say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    accesses: Option<u64>,
    seed: Option<u64>,
}

/// The task.
pub(crate) fn task(arguments: &[&str]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let outcome = soak(&Context::find()?, &options);
    outcome
        .inspect_err(|why| eprintln!("xtask: {why}"))
        .map_or(Ok(ExitCode::FAILURE), |_| Ok(ExitCode::SUCCESS))
}

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    soak(context, &Options { accesses: Some(FEW), seed: None }).map(Outcome::Figures)
}

/// The step of `cargo xtask full`: as many accesses as the test makes where nobody says how many.
pub(crate) fn long(context: &Context) -> Result<Outcome, String> {
    soak(context, &Options::default()).map(Outcome::Figures)
}

/// What the test says at the end.
fn soak(context: &Context, options: &Options) -> Result<String, String> {
    let words = ["test", "--release", "-p", "sva-testkit", "--test", "soak", "--locked"];
    context.run(context.cargo(&[&words[..], &["--no-run"]].concat()), BUILD)?;
    let mut command = context.cargo(&[&words[..], &["--", "--ignored", "--nocapture"]].concat());
    for (name, value) in [("SVA_SOAK_ACCESSES", options.accesses), ("SVA_SOAK_SEED", options.seed)]
    {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    let said = context.tee(command, RUN)?;
    let whole = said.lines().rev().find(|line| line.contains(" changes; "));
    Ok(whole.unwrap_or_default().to_owned())
}

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || {
            let text = rest.next().ok_or(format!("{argument} needs a number"))?;
            text.parse().map(Some).map_err(|_| format!("{argument} needs a number, not `{text}`"))
        };
        match *argument {
            "--accesses" => options.accesses = number()?,
            "--seed" => options.seed = number()?,
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_left_to_the_test() {
        assert_eq!(parse(&[]), Ok(Options::default()));
        assert_eq!(parse(&["--seed", "7"]), Ok(Options { accesses: None, seed: Some(7) }));
        assert_eq!(
            parse(&["--accesses", "2000000", "--seed", "7"]),
            Ok(Options { accesses: Some(2_000_000), seed: Some(7) })
        );
    }

    #[test]
    fn what_is_no_option_or_no_number_is_refused_by_name() {
        for (arguments, word) in [
            (&["--acceses", "1"][..], "--acceses"),
            (&["--seed"], "--seed"),
            (&["--seed", "-1"], "-1"),
        ] {
            assert!(parse(arguments).is_err_and(|why| why.contains(word)), "{arguments:?}");
        }
    }
}
