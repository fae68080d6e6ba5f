//! What a stopped thread gets back, and threads that could not be given it yet.

use std::time::Duration;

use sva_core::Segment;

use crate::calls;
use crate::sys::{self, Registers, Tid};
use crate::tracee::{Stop, Tracee, Trouble};

/// What a stopped thread gets back.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) registers: Registers,
    mask: u64,
}

impl Saved {
    /// The state as it is to be after the stop: what the kernel would have changed by itself is
    /// changed.
    pub(crate) fn take(tracee: Tracee, group_stopped: bool) -> Result<Option<Self>, Trouble> {
        let Some(mut registers) = sys::registers(tracee.0)? else { return Ok(None) };
        let call = registers.orig_rax as i64;
        if call >= 0 && !group_stopped {
            registers.rax = calls::restartable_answer(call, registers.rax as i64) as u64;
        }
        if let Some(abort) = rseq_abort(tracee.0, registers.rip)? {
            registers.rip = abort;
        }
        Ok(Some(Self { registers, mask: sys::signal_mask(tracee.0)? }))
    }
}

/// Where a thread that is inside a restartable sequence has to go on: a stop aborts it. The kernel
/// sees to that on the way back to user mode, by the instruction pointer that it finds then, which
/// is not the thread's own while we make calls in its name.
fn rseq_abort(tid: Tid, rip: u64) -> Result<Option<u64>, Trouble> {
    let area = sys::rseq_area(tid)?;
    if area == 0 {
        return Ok(None);
    }
    let word = |address: u64| {
        let mut bytes = [0; 8];
        let read = sys::read_memory(tid, &[Segment { address, len: 8 }], &mut bytes).ok()?;
        (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
    };
    // struct rseq: the descriptor's address is at 8. struct rseq_cs: start at 8, length at 16,
    // abort at 24.
    let Some(descriptor @ 1..) = word(area.wrapping_add(8)) else { return Ok(None) };
    let field = |offset: u64| word(descriptor.wrapping_add(offset));
    let (Some(start), Some(length), Some(abort)) = (field(8), field(16), field(24)) else {
        return Ok(None);
    };
    Ok((rip.wrapping_sub(start) < length).then_some(abort))
}

/// Gives a thread its state back and stops tracing it.
pub(crate) fn let_go(tracee: Tracee, saved: Option<&Saved>) -> Result<(), Trouble> {
    let Some(saved) = saved else {
        // Seized only: it may not even have stopped.
        // It has had its time, and others wait for the keeper.
        sys::interrupt(tracee.0)?;
        tracee.interrupted(Duration::ZERO)?;
        return Ok(sys::detach(tracee.0, 0)?);
    };
    sys::set_registers(tracee.0, &saved.registers)?;
    sys::set_signal_mask(tracee.0, saved.mask)?;
    Ok(sys::detach(tracee.0, 0)?)
}

/// A thread that could not be let go yet, because it does not stop.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) tracee: Tracee,
    pub(crate) tgid: Tid,
    /// What it is to get back.
    pub(crate) saved: Option<Saved>,
}

impl Stray {
    /// Lets it go if it has stopped by now; false where it has to be tried again.
    pub(crate) fn try_again(&mut self) -> bool {
        match self.tracee.stop(Duration::ZERO) {
            Ok(Stop::Signal(signal)) => sys::detach(self.tracee.0, signal).is_ok(),
            Ok(_) => let_go(self.tracee, self.saved.as_ref()).is_ok(),
            Err(Trouble::Gone) => !self.follow_exec(),
            Err(_) => false,
        }
    }

    /// A traced thread that execs goes on under the number of its process.
    fn follow_exec(&mut self) -> bool {
        let (leader, was_leader) = (Tracee(self.tgid), self.tracee.0 == self.tgid);
        let followed = !was_leader && leader.is_traced();
        if followed {
            (self.tracee, self.saved) = (leader, None);
        }
        followed
    }
}
