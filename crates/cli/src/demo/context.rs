//! What a chapter works with: random data, child processes, and where its claims go.

use std::sync::Arc;

use fastrand::Rng;
use sva_host::HostSpace;

use super::claim::{Claim, Figures};
use super::failure::Failure;
use super::process::Process;
use super::times::BondTimes;
use crate::error::Error;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// What a chapter works with.
pub(super) struct Context {
    /// The chapter's name.
    pub(super) chapter: &'static str,
    /// The chapter's random data.
    pub(super) rng: Rng,
    /// Where claims are printed.
    pub(super) output: Output,
    /// Events are printed as they happen.
    pub(super) traced: bool,
    /// Signals that end the demonstration.
    pub(super) interrupts: Interrupts,
    /// The chapter's claims so far.
    pub(super) claims: Vec<Claim>,
    /// The times of the faults of each bond of the storm.
    pub(super) bonds: Vec<BondTimes>,
    /// Why a claim could not be printed.
    pub(super) print_error: Option<Error>,
}

impl Context {
    /// Takes a claim, and shows it to a person.
    pub(super) fn claim(
        &mut self,
        rules: &'static [&'static str],
        text: &'static str,
        held: bool,
        figures: Figures,
    ) {
        let claim = Claim { chapter: self.chapter, rules, text, held, figures };
        if !self.output.json && self.print_error.is_none() {
            self.print_error = self.output.print(&claim.lines(self.output.terminal)).err();
        }
        self.claims.push(claim);
    }

    /// Whether nothing is to be shown beside the claims.
    pub(super) fn is_silent(&self) -> bool {
        self.output.json || self.traced
    }

    /// Starts a child and attaches its memory.
    ///
    /// # Errors
    /// The child does not start, or its memory cannot be attached.
    pub(super) fn process(&self) -> Result<(Process, Arc<HostSpace>), Failure> {
        let process = Process::start()?;
        let space = sva_host::attach(process.pid())?;
        Ok((process, space))
    }

    /// The next seed.
    pub(super) fn seed(&mut self) -> u64 {
        self.rng.u64(..)
    }
}
