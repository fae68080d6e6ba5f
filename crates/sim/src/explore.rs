//! Runs a subject through many schedules, and shrinks the first failure.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::choices::{Choices, Step};
use crate::subject::Subject;
use crate::watchdog::Watchdog;

/// Which schedules are run: those of [`default`](Self::default), and what the methods with the
/// names of the fields change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exploration {
    /// The seeds (half-open), one run each.
    pub seeds: Range<u64>,
    /// Steps of each run.
    pub steps: usize,
    /// The most runs that are made to shrink a failure.
    pub shrink_runs: usize,
    /// How long a step may take. The program aborts after that, with a message that names the seed
    /// and the step: a step that waits for ever cannot be ended otherwise.
    pub step_timeout: Duration,
}

impl Default for Exploration {
    /// A hundred seeds with a thousand steps each, a thousand runs to shrink a failure, a minute
    /// for a step.
    fn default() -> Self {
        Self {
            seeds: 0..100,
            steps: 1000,
            shrink_runs: 1000,
            step_timeout: Duration::from_secs(60),
        }
    }
}

/// A failure, and the smallest schedule that was found to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed that found it.
    pub seed: u64,
    /// The step of that run in which it failed.
    pub found_after: usize,
    /// The smallest recording that still fails, for [`replay`].
    pub steps: Vec<Step>,
    /// What is wrong, in the smallest run.
    pub what: String,
    /// What happened in the smallest run.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, step {}, shrunk to {} steps: {}",
            self.seed,
            self.found_after,
            self.steps.len(),
            self.what
        )?;
        for line in &self.lines {
            writeln!(f, "    {line}")?;
        }
        let steps: Vec<String> = self.steps.iter().map(|step| format!("vec!{step:?}")).collect();
        write!(f, "replay(&make, &[{}], true)", steps.join(", "))
    }
}

impl std::error::Error for Failure {}

impl Exploration {
    /// Sets [`seeds`](Self#structfield.seeds).
    pub fn seeds(self, seeds: Range<u64>) -> Self {
        Self { seeds, ..self }
    }

    /// Sets [`steps`](Self#structfield.steps).
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Sets [`shrink_runs`](Self#structfield.shrink_runs).
    pub fn shrink_runs(self, shrink_runs: usize) -> Self {
        Self { shrink_runs, ..self }
    }

    /// Sets [`step_timeout`](Self#structfield.step_timeout).
    pub fn step_timeout(self, step_timeout: Duration) -> Self {
        Self { step_timeout, ..self }
    }

    /// Runs one subject of `make` for each seed. `done` gets the seed and the subject of each run
    /// that has ended without a failure.
    ///
    /// # Errors
    /// The first failure, shrunk.
    pub fn run<S: Subject>(
        &self,
        make: impl Fn() -> S,
        mut done: impl FnMut(u64, S),
    ) -> Result<(), Box<Failure>> {
        let watched = Watchdog::start(self.step_timeout);
        for seed in self.seeds.clone() {
            let mut choices = Choices::seeded(seed);
            let (subject, outcome) =
                one_run(make(), &mut choices, Some(self.steps), |step| watched.beat(seed, step));
            match outcome {
                Ok(()) => {
                    watched.beat(seed, self.steps);
                    done(seed, subject);
                }
                Err(what) => {
                    // A subject that failed may be in any state: its destructors are not to hide
                    // what was found.
                    std::mem::forget(subject);
                    return Err(Box::new(self.shrink(
                        &make,
                        seed,
                        choices.into_taken(),
                        what,
                        &watched,
                    )));
                }
            }
        }
        Ok(())
    }

    /// Takes out steps, in ever smaller pieces, as long as what is left fails too.
    ///
    /// A smaller run may wait for ever where the first one failed, so the watchdog watches these as
    /// well.
    fn shrink<S: Subject>(
        &self,
        make: &impl Fn() -> S,
        seed: u64,
        mut steps: Vec<Step>,
        mut what: String,
        watched: &Watchdog,
    ) -> Failure {
        let again = |steps: &[Step], trace| {
            replay_watched(make, steps, trace, |step| watched.beat(seed, step))
        };
        let found_after = steps.len();
        let mut runs = 0;
        let mut piece = steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let mut shrunk = false;
            while at < steps.len() && runs < self.shrink_runs {
                let end = (at + piece).min(steps.len());
                let fewer = [&steps[..at], &steps[end..]].concat();
                runs += 1;
                match again(&fewer, false) {
                    Err((now, _)) => (steps, what, shrunk) = (fewer, now, true),
                    Ok(()) => at = end,
                }
            }
            if runs >= self.shrink_runs || piece == 1 && !shrunk {
                break;
            }
            piece = piece.div_ceil(2).max(1);
        }
        let lines = match again(&steps, true) {
            Err((now, lines)) => {
                what = now;
                lines
            }
            Ok(()) => vec![
                "(this run does not fail every time: something in it does not depend on the \
                 schedule alone)"
                    .to_owned(),
            ],
        };
        Failure { seed, found_after, steps, what, lines }
    }
}

/// Runs a recording again.
///
/// # Errors
/// What is wrong; with `trace`, also what happened.
pub fn replay<S: Subject>(
    make: &impl Fn() -> S,
    steps: &[Step],
    trace: bool,
) -> Result<(), (String, Vec<String>)> {
    replay_watched(make, steps, trace, |_| {})
}

fn replay_watched<S: Subject>(
    make: &impl Fn() -> S,
    steps: &[Step],
    trace: bool,
    beat: impl Fn(usize),
) -> Result<(), (String, Vec<String>)> {
    let mut subject = make();
    if trace {
        subject.trace();
    }
    let (subject, outcome) = one_run(subject, &mut Choices::recorded(steps), None, beat);
    outcome.map_err(|what| {
        let lines = subject.lines();
        std::mem::forget(subject);
        (what, lines)
    })
}

/// Without a number of steps: to the end of the recording.
fn one_run<S: Subject>(
    mut subject: S,
    choices: &mut Choices,
    steps: Option<usize>,
    beat: impl Fn(usize),
) -> (S, Result<(), String>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut made = 0;
        while steps.is_none_or(|steps| made < steps) && choices.begin() {
            beat(made);
            subject.step(choices)?;
            made += 1;
        }
        beat(made);
        subject.finish()
    }));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_else(|| "without a text".to_owned())))
    });
    (subject, outcome)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails when it has counted a 7 after a 3.
    #[derive(Default)]
    struct Sequence {
        three: bool,
        lines: Vec<String>,
    }

    impl Subject for Sequence {
        fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
            let number = choices.below(10);
            self.lines.push(number.to_string());
            if self.three && number == 7 {
                return Err("7 after 3".to_owned());
            }
            self.three |= number == 3;
            Ok(())
        }

        fn finish(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn lines(&self) -> Vec<String> {
            self.lines.clone()
        }
    }

    #[test]
    fn a_failure_is_made_as_small_as_it_gets_and_can_be_run_again() {
        let exploration = Exploration::default().seeds(0..10);
        let failure = exploration.run(Sequence::default, |_, _| {}).expect_err("there is one");
        assert_eq!((&failure.steps, failure.what.as_str()), (&vec![vec![3], vec![7]], "7 after 3"));
        assert_eq!(failure.lines, ["3", "7"]);
        assert!(replay(&Sequence::default, &failure.steps, false).is_err());
        assert!(failure.to_string().contains("seed 0"));
    }

    #[test]
    fn a_panic_is_a_failure_like_any_other() {
        struct Panics;
        impl Subject for Panics {
            fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
                assert!(!choices.one_in(50), "found");
                Ok(())
            }
            fn finish(&mut self) -> Result<(), String> {
                Ok(())
            }
        }
        let failure = Exploration::default().run(|| Panics, |_, _| {}).expect_err("there is one");
        assert_eq!((failure.steps.len(), failure.what.as_str()), (1, "panicked: found"));
    }
}
