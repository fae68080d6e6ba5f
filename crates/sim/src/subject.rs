//! What is put under a schedule.

use crate::choices::Choices;

/// A system that makes one step at a time, in an order that a schedule decides.
///
/// It starts no thread and reads no clock, so that the same [`Choices`] give the same run.
/// [`World`](crate::World) is one; a system of your own is another: a driver with its devices, a
/// state machine, a protocol.
///
/// ```
/// use sva_sim::{Choices, Exploration, Subject};
///
/// /// Two processors add to a counter: each reads it in one step and writes it in the next.
/// #[derive(Default)]
/// struct Counter {
///     value: u32,
///     added: u32,
///     read: [Option<u32>; 2],
/// }
///
/// impl Subject for Counter {
///     fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
///         let processor = choices.below(2) as usize;
///         match self.read[processor].take() {
///             None => self.read[processor] = Some(self.value),
///             Some(read) => (self.value, self.added) = (read + 1, self.added + 1),
///         }
///         Ok(())
///     }
///
///     fn finish(&mut self) -> Result<(), String> {
///         if self.value == self.added { Ok(()) } else { Err("an update is lost".to_owned()) }
///     }
/// }
///
/// let failure = Exploration::default().run(Counter::default, |_, _| ()).expect_err("a race");
/// assert_eq!(failure.what, "an update is lost");
/// assert_eq!(failure.steps.len(), 4, "both read, then both write");
/// ```
pub trait Subject {
    /// Makes one step. Asks `choices` what it is.
    ///
    /// # Errors
    /// What is wrong, with the values. A panic counts as an error as well.
    fn step(&mut self, choices: &mut Choices) -> Result<(), String>;

    /// Brings the system to rest, takes it down, and checks that nothing is left. Called once,
    /// after the last step.
    ///
    /// # Errors
    /// What is wrong, with the values.
    fn finish(&mut self) -> Result<(), String>;

    /// Begins to record a trace. Called before the first step of the run that shows a failure.
    fn trace(&mut self) {}

    /// The trace so far: what happened, one line for each event. Empty by default.
    fn lines(&self) -> Vec<String> {
        Vec::new()
    }
}
