//! Where a schedule's decisions come from: a seed, or a recording of an earlier run.
//!
//! The decisions are recorded step by step, and not what they mean. A recording from which steps
//! were taken out is another run. So a failure can be shrunk by code that does not know what steps
//! do.

/// The decisions of one step.
pub type Step = Vec<u32>;

/// Decides what happens next. The same seed, or the same recording, gives the same decisions for
/// the same questions.
#[derive(Debug)]
pub struct Choices {
    source: Source,
    taken: Vec<Step>,
}

#[derive(Debug)]
enum Source {
    Seed(fastrand::Rng),
    Recording { steps: Vec<Step>, next: usize, within: usize },
}

impl Choices {
    /// Decides by the generator that begins with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { source: Source::Seed(fastrand::Rng::with_seed(seed)), taken: Vec::new() }
    }

    /// Decides as recorded. After the end of a step's recording every decision is 0.
    pub fn recorded(steps: &[Step]) -> Self {
        Self {
            source: Source::Recording { steps: steps.to_vec(), next: 0, within: 0 },
            taken: Vec::new(),
        }
    }

    /// Begins a step. False if the recording is over.
    pub(crate) fn begin(&mut self) -> bool {
        if let Source::Recording { steps, next, within } = &mut self.source {
            if *next == steps.len() {
                return false;
            }
            (*next, *within) = (*next + 1, 0);
        }
        self.taken.push(Step::new());
        true
    }

    /// A number in `0..n`.
    ///
    /// # Panics
    /// `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "there is nothing to choose from");
        let chosen = match &mut self.source {
            Source::Seed(random) => random.u32(0..n),
            Source::Recording { steps, next, within } => {
                let step = next.checked_sub(1).and_then(|at| steps.get(at));
                let chosen = step.and_then(|step| step.get(*within)).copied().unwrap_or_default();
                *within += 1;
                chosen.min(n - 1)
            }
        };
        match self.taken.last_mut() {
            Some(step) => step.push(chosen),
            None => self.taken.push(vec![chosen]),
        }
        chosen
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        // A shorter recording answers 0, which is to mean that nothing happens.
        self.below(n) == n - 1
    }

    /// One of the elements; `None` if there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            return None;
        }
        of.get(self.below(of.len() as u32) as usize)
    }

    /// The decisions so far.
    pub(crate) fn into_taken(self) -> Vec<Step> {
        self.taken
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn answers(choices: &mut Choices) -> Vec<u32> {
        (1..20).map(|n| choices.below(n)).collect()
    }

    #[test]
    fn a_seed_and_the_recording_of_its_run_answer_the_same() {
        let mut seeded = Choices::seeded(7);
        seeded.begin();
        let first = answers(&mut seeded);
        let mut again = Choices::recorded(&seeded.into_taken());
        assert!(again.begin());
        assert_eq!(answers(&mut again), first);
        assert!(!again.begin(), "the recording is over");
    }

    #[test]
    fn what_a_recording_lacks_is_answered_with_the_quiet_choice() {
        let mut choices = Choices::recorded(&[vec![9]]);
        choices.begin();
        assert_eq!((choices.below(4), choices.below(4), choices.one_in(3)), (3, 0, false));
    }
}
