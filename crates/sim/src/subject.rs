//! What is put under a schedule.

use crate::choices::Choices;

/// What is tried: a system that makes one step at a time.
pub trait Subject {
    /// Makes a step.
    ///
    /// # Errors
    /// What is wrong, with the values.
    fn step(&mut self, choices: &mut Choices) -> Result<(), String>;

    /// Brings the system to rest, takes it down, and checks that nothing is left.
    ///
    /// # Errors
    /// What is wrong, with the values.
    fn finish(&mut self) -> Result<(), String>;

    /// Says what happens, line by line, from now on; called for the run that shows a failure.
    fn trace(&mut self) {}

    /// What has been said since [`trace`](Self::trace).
    fn lines(&self) -> Vec<String> {
        Vec::new()
    }
}
