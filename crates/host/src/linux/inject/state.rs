//! The state that a stopped thread gets back, and threads that could not be detached yet.

use std::time::Duration;

use sva_core::Segment;

use super::restart::restartable_result;
use super::tracee::{Stop, TraceError, Tracee};
use crate::linux::sys::{self, Registers, Tid};

/// The registers and the signal mask that a stopped thread gets back.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) registers: Registers,
    mask: u64,
}

impl ThreadState {
    /// Saves the state of a stopped thread as it must be after the stop: it includes the changes
    /// that the kernel would have made on the thread's return to user mode. `None` where the thread
    /// runs 32-bit code.
    pub(crate) fn save(tracee: Tracee, group_stopped: bool) -> Result<Option<Self>, TraceError> {
        let Some(mut registers) = sys::registers(tracee.0)? else { return Ok(None) };
        let call = registers.orig_rax as i64;
        if call >= 0 && !group_stopped {
            registers.rax = restartable_result(call, registers.rax as i64) as u64;
        }
        if let Some(abort) = rseq_abort(tracee.0, registers.rip)? {
            registers.rip = abort;
        }
        Ok(Some(Self { registers, mask: sys::signal_mask(tracee.0)? }))
    }
}

/// The abort address of the restartable sequence that a thread is in, if it is in one. A stop
/// aborts the sequence. The kernel does that on the return to user mode, by the instruction pointer
/// that it finds then; while calls are made in the thread's name that pointer is not the thread's
/// own.
fn rseq_abort(tid: Tid, rip: u64) -> Result<Option<u64>, TraceError> {
    let area = sys::rseq_area(tid)?;
    if area == 0 {
        return Ok(None);
    }
    let word = |address: u64| {
        let mut bytes = [0; 8];
        let read = sys::read_memory(tid, &[Segment { address, len: 8 }], &mut bytes).ok()?;
        (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
    };
    // struct rseq: the descriptor's address is at offset 8. struct rseq_cs: start at 8, length at
    // 16, abort address at 24.
    let Some(descriptor @ 1..) = word(area.wrapping_add(8)) else { return Ok(None) };
    let field = |offset: u64| word(descriptor.wrapping_add(offset));
    let (Some(start), Some(length), Some(abort)) = (field(8), field(16), field(24)) else {
        return Ok(None);
    };
    Ok((rip.wrapping_sub(start) < length).then_some(abort))
}

/// Restores a thread's state and stops tracing it. Without a state, the thread has only been
/// seized.
pub(crate) fn restore_and_detach(
    tracee: Tracee,
    state: Option<&ThreadState>,
) -> Result<(), TraceError> {
    let Some(state) = state else {
        // It may not have stopped yet. It is not waited for: it had its time, and others wait for
        // this thread.
        sys::interrupt(tracee.0)?;
        tracee.wait_for_interrupt(Duration::ZERO)?;
        return Ok(sys::detach(tracee.0, 0)?);
    };
    sys::set_registers(tracee.0, &state.registers)?;
    sys::set_signal_mask(tracee.0, state.mask)?;
    Ok(sys::detach(tracee.0, 0)?)
}

/// A thread that could not be detached yet, because it does not stop.
#[derive(Debug)]
pub(crate) struct PendingDetach {
    pub(crate) tracee: Tracee,
    pub(crate) tgid: Tid,
    /// The state to restore, if any was saved.
    pub(crate) state: Option<ThreadState>,
}

impl PendingDetach {
    /// Detaches the thread if it has stopped by now. `false` where it must be tried again.
    pub(crate) fn retry(&mut self) -> bool {
        match self.tracee.wait_for_stop(Duration::ZERO) {
            Ok(Stop::Signal(signal)) => sys::detach(self.tracee.0, signal).is_ok(),
            Ok(_) => restore_and_detach(self.tracee, self.state.as_ref()).is_ok(),
            Err(TraceError::Gone) => !self.follow_exec(),
            Err(_) => false,
        }
    }

    /// Continues with the number of the process: a traced thread that execs takes it over.
    fn follow_exec(&mut self) -> bool {
        let (leader, was_leader) = (Tracee(self.tgid), self.tracee.0 == self.tgid);
        let followed = !was_leader && leader.is_traced();
        if followed {
            (self.tracee, self.state) = (leader, None);
        }
        followed
    }
}
