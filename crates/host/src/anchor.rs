//! The anchor: a task that shares a process's memory and never runs its code.
//!
//! # Why it is sound
//!
//! `process_vm_readv` and `process_vm_writev` take a task's number and reach whatever memory that task has at the moment. An anchor has the same memory for
//! ever, and its number is its own for as long as we use it:
//!
//! - *It never execs.* It stands in a ptrace stop from its first moment and is only ever let go for the few calls that make it an anchor, the last of which puts it
//!   under strict seccomp, where there is no exec. An exec before that would show as a stop of its own kind, and the attach fails.
//! - *Its number is not used again.* A traced task that dies stays a zombie until its tracer collects it. The tracer is our keeper thread, and the number
//!   is collected only after the [gate](crate::gate) has been closed and everybody has left it. (What a program must not do meanwhile:
//!   see [the crate's head](crate).)
//! - *It is not left behind.* PTRACE_O_EXITKILL kills it when the keeper's process ends in any way.
//! - *It belongs to the space that was meant.* It is made by a clone with CLONE_VM in a thread of the process, while that thread is stopped
//!   and known by an open `/proc` directory, so that the number cannot be another's.
//!
//! Rejected: checking by number before each call (an exec between check and call is missed: the `naive-check` build shows it), `/proc/PID/mem` (belongs to the space, but
//! writes read-only pages and reads PROT_NONE ones), a thread as anchor (the process's exec and exit would wait until we collect it), and a direct child as
//! anchor (the process's own `wait` calls with `__WALL` would see it, and its death would leave a zombie with the process).
//!
//! # How it is made
//!
//! A thread T of the process is stopped. In its name a task I is cloned, in I's name the anchor A; I is killed, and T collects it (exit signal 0: nobody
//! hears of it), so that A is an orphan and falls to the init of the process's pid namespace. T gets its registers and signal mask back and
//! goes on. Only then A leaves what else it has in common with the process: session, working directory, descriptors. Nothing is ever mapped or written in the
//! process: strings and instructions that the calls need are found in it.
//!
//! Clone flags that are *not* given: CLONE_FS (setns, chroot and privileged exec in the process would be affected), CLONE_SIGHAND and CLONE_THREAD (see above), CLONE_PARENT
//! (inherits the exit signal: the process's parent would hear of it). CLONE_FILES is given, and taken back by A, since a copy of the descriptor table
//! would keep the process's pipes and sockets open for its time.
//!
//! # What the process could notice
//!
//! - One stop of T, typically 200 to 400 us ([`HostSpace::stop_time`](crate::HostSpace::stop_time)). Calls in progress: see `calls.rs`.
//!   A thread that was *running* when it was chosen may be inside a call that moves bytes when it stops; if that call sleeps at that very moment, its count is short, as after a signal.
//! - A thread of the process that waits with `__WALL` for any child in these microseconds has I to wait for, and may collect it.
//! - While attached: one more task of the user (RLIMIT_NPROC) in the process's cgroup, shown by `ps` in state `t` under the process's command name. After the last task has left, the memory is freed when the monitor has
//!   seen it, some 20 ms later.
//! - If *our* process is killed while T is stopped, T goes on with registers that are not its own. The time for that is kept short: everything that can be is
//!   prepared before, or done after.

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

use sva_core::Segment;

use crate::access::{self, PAGE};
use crate::calls;
use crate::error::AttachError;
use crate::procfs;
use crate::provider::gettid;
use crate::regions;
use crate::sys::{self, Registers, Tid};
use crate::target::{self, Chosen};
use crate::tracee::{Call, FIRST_STOP, Stop, Tracee, Trouble};

/// All signals that can be blocked.
const ALL_SIGNALS: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));
/// A new task gets no stack: should it be let go by our death before it dies with us, its first use of one ends it.
const NO_STACK: u64 = 16;

const CLONE: Call =
    Call { name: "clone", number: libc::SYS_clone, arguments: [(libc::CLONE_VM | libc::CLONE_FILES) as u64, NO_STACK, 0, 0] };

/// What [`make`] answers.
#[derive(Debug)]
pub(crate) struct Made {
    /// The anchor.
    pub(crate) anchor: Tid,
    /// For how long the process's thread was stopped, from the request on.
    pub(crate) stopped: Duration,
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

/// Whether a task is an anchor, ours or another program's: recognised by what only an anchor has together.
///
/// A process that dresses up its last task like this ends its own space early, and harms nobody else.
pub(crate) fn is_helper(tid: Tid) -> bool {
    procfs::status(tid).is_ok_and(|status| status.seccomp == 1 && status.no_new_privileges && status.blocked == ALL_SIGNALS)
}

/// Places in the process's own memory that the calls need.
#[derive(Debug)]
pub(crate) struct Landmarks {
    /// A `syscall` instruction.
    instruction: u64,
    /// The string "/".
    root: Option<u64>,
}

impl Landmarks {
    /// Looks for them in what is present: elsewhere a read could wait for whoever provides the page (userfaultfd, a file system in user space), for ever. Still, not to be called on a thread that others wait for.
    pub(crate) fn find(tid: Tid) -> Option<Self> {
        const SEARCHED: u64 = 16 << 20;
        let mut instruction = None;
        let mut root = None;
        let mut mappings = regions::plain(tid).ok()?;
        // Of what cannot be written; the vdso first, since everybody has it and nobody unmaps it.
        mappings.retain(|mapping| mapping.read && !mapping.write && mapping.range.last() < 1 << 63);
        // Then constants, where strings are.
        mappings.sort_by_key(|mapping| (mapping.name != "[vdso]", mapping.execute));
        let mut left = SEARCHED;
        let mut buffer = vec![0_u8; 64 << 10];
        for mapping in mappings {
            let mut from = mapping.range.first();
            while from < mapping.range.last() && left > 0 {
                let piece = Segment { address: from, len: (buffer.len() as u64).min(mapping.range.last() - from + 1) };
                // The vdso comes from the kernel.
                let present = if mapping.name == "[vdso]" { piece.len } else { access::present_bytes(tid, piece).unwrap_or(0) };
                if present == 0 {
                    from += PAGE;
                    left = left.saturating_sub(PAGE);
                    continue;
                }
                let piece = Segment { len: present, ..piece };
                let Some(room) = buffer.get_mut(..piece.len as usize) else { break };
                let Ok(read @ 1..) = sys::read_memory(tid, &[piece], room) else { break };
                let find = |pattern: [u8; 2]| room.get(..read)?.windows(2).position(|pair| pair == pattern).map(|at| from + at as u64);
                if mapping.execute && instruction.is_none() {
                    instruction = find([0x0f, 0x05]);
                }
                root = root.or_else(|| find([b'/', 0]));
                if let (Some(instruction), Some(_)) = (instruction, root) {
                    return Some(Self { instruction, root });
                }
                from += read as u64;
                left = left.saturating_sub(read as u64);
            }
        }
        instruction.map(|instruction| Self { instruction, root })
    }

    fn still_holds(&self, tid: Tid) -> bool {
        let mut code = [0; 2];
        sys::read_memory(tid, &[Segment { address: self.instruction, len: 2 }], &mut code).is_ok() && code == [0x0f, 0x05]
    }
}

/// What a stopped thread gets back.
#[derive(Debug)]
pub(crate) struct Saved {
    registers: Registers,
    mask: u64,
}

impl Saved {
    /// The state as it is to be after the stop: what the kernel would have changed by itself is changed.
    fn take(tracee: Tracee, group_stopped: bool) -> Result<Option<Self>, Trouble> {
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

/// Where a thread that is inside a restartable sequence has to go on: a stop aborts it. The kernel sees to that on the way back to user mode, by the instruction
/// pointer that it finds then, which is not the thread's own while we make calls in its name.
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
    // struct rseq: the descriptor's address is at 8. struct rseq_cs: start at 8, length at 16, abort at 24.
    let Some(descriptor @ 1..) = word(area.wrapping_add(8)) else { return Ok(None) };
    let field = |offset: u64| word(descriptor.wrapping_add(offset));
    let (Some(start), Some(length), Some(abort)) = (field(8), field(16), field(24)) else { return Ok(None) };
    Ok((rip.wrapping_sub(start) < length).then_some(abort))
}

/// Makes an anchor by way of the chosen thread. To be called on the keeper's thread; blocks for some hundred microseconds where a processor is free, at most for [`FIRST_STOP`] and a bounded
/// time for each step after it. A thread that cannot be let go at once is left with `strays`.
pub(crate) fn make(pid: Tid, chosen: &Chosen, landmarks: &Landmarks, strays: &mut Vec<Stray>) -> Result<Made, AttachError> {
    let tid = chosen.tid;
    settle(chosen.tgid, strays).map_err(|stray| AttachError::DidNotStop { tid: stray as u32, waited: FIRST_STOP })?;
    let tracee = Tracee(tid);
    let begin = Instant::now();
    seize(pid, tid)?;
    let made = in_stop(pid, chosen, tracee, landmarks);
    let (saved, result) = match made {
        Ok((saved, result)) => (Some(saved), result),
        Err(error) => (None, Err(error)),
    };
    if let_go(tracee, saved.as_ref()).is_err() {
        strays.push(Stray { tracee, tgid: chosen.tgid, saved });
    }
    let stopped = begin.elapsed();
    let anchor = result?;
    match dress(Tracee(anchor), landmarks) {
        Ok(Ok(())) => Ok(Made { anchor, stopped }),
        failed => {
            // Best effort: it dies with us at the latest.
            let _ = Tracee(anchor).kill();
            Err(failed.map_or_else(
                |trouble| trouble.into_error(pid, anchor),
                |refused| refused.err().unwrap_or(AttachError::Gone { pid: pid as u32 }),
            ))
        }
    }
}

/// Waits until none of a process's threads is astray any more: to seize a second one while the process is in exec, and the exec waits for us to collect the first, would hang. A dead leader
/// stays astray until its threads are dead too, and is in nobody's way.
fn settle(tgid: Tid, strays: &mut Vec<Stray>) -> Result<(), Tid> {
    let begin = Instant::now();
    loop {
        strays.retain_mut(|stray| !stray.try_again());
        match strays.iter().find(|stray| stray.tgid == tgid && !procfs::status(stray.tracee.0).is_ok_and(|status| status.is_dead())) {
            None => return Ok(()),
            Some(stray) if begin.elapsed() > FIRST_STOP => return Err(stray.tracee.0),
            Some(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Gives a thread its state back and stops tracing it.
fn let_go(tracee: Tracee, saved: Option<&Saved>) -> Result<(), Trouble> {
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

/// Brings a thread to the stop that it can be let go from, wherever in a call it stands after a failure.
fn back_to_stop(tracee: Tracee) -> Result<(), Trouble> {
    if let Ok(Some(registers)) = sys::registers(tracee.0) {
        // At the entry of a call this is no call at all.
        sys::set_registers(tracee.0, &Registers { orig_rax: u64::MAX, ..registers })?;
        tracee.finish_call()
    } else {
        sys::interrupt(tracee.0)?;
        tracee.interrupted(FIRST_STOP)
    }
}

/// Stops the thread and has it make the anchor. The outer error: nothing was changed in it. Otherwise it is to get back what was saved.
fn in_stop(pid: Tid, chosen: &Chosen, tracee: Tracee, landmarks: &Landmarks) -> Result<(Saved, Result<Tid, AttachError>), AttachError> {
    let trouble = |trouble: Trouble| trouble.into_error(pid, tracee.0);
    let request = |error: io::Error| trouble(Trouble::Request(error));
    sys::interrupt(tracee.0).map_err(request)?;
    tracee.interrupted(FIRST_STOP).map_err(trouble)?;
    // Traced, the number is the thread's own; the directory tells whether it was when it was chosen.
    let status = chosen.directory.status().map_err(|_| AttachError::Gone { pid: pid as u32 })?;
    if chosen.stands_in && !matches!(sys::compare_spaces(pid, tracee.0), Ok(Ordering::Equal)) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    if status.seccomp != 0 {
        return Err(AttachError::Seccomp { tid: tracee.0 as u32, mode: status.seccomp });
    }
    if sys::dispatches_own_calls(tracee.0).map_err(request)? {
        return Err(AttachError::SyscallUserDispatch { tid: tracee.0 as u32 });
    }
    if !landmarks.still_holds(tracee.0) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    let group_stopped = sys::stop_info(tracee.0).map_err(request)?.0 != libc::SIGTRAP;
    let saved = Saved::take(tracee, group_stopped).map_err(trouble)?.ok_or(AttachError::ThirtyTwoBit { tid: tracee.0 as u32 })?;
    let made = clone_twice(tracee, &saved.registers, landmarks.instruction);
    let result = match made {
        Ok(Ok(anchor)) => disown(chosen.tgid, tracee, &saved.registers, landmarks.instruction, anchor),
        Ok(Err(source)) => Err(AttachError::Refused { call: CLONE.name, source }),
        Err(found) => {
            let _ = back_to_stop(tracee);
            sweep(tracee);
            Err(trouble(found))
        }
    };
    Ok((saved, result))
}

/// Kills the tasks that were made, but of which we were not told because their maker was killed that moment. They are traced by us from birth, and are no anchors yet.
fn sweep(tracee: Tracee) {
    for task in procfs::processes() {
        let is_lost = |status: procfs::Status| status.tracer == gettid() && status.seccomp == 0 && status.blocked == ALL_SIGNALS;
        if task != tracee.0 && procfs::status(task).is_ok_and(is_lost) {
            let _ = Tracee(task).kill();
        }
    }
}

/// Has the thread make I, I make A, and the thread collect I. The thread then stands in an interrupt stop.
fn clone_twice(tracee: Tracee, registers: &Registers, instruction: u64) -> Result<io::Result<Tid>, Trouble> {
    sys::set_signal_mask(tracee.0, ALL_SIGNALS)?;
    sys::set_options(tracee.0, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE)?;
    let helper = match tracee.clone(registers, instruction, &CLONE)? {
        Ok(helper) => Tracee(helper),
        Err(refused) => return tracee.finish_call().map(|()| Err(refused)),
    };
    // The thread returns from its clone while the helper works.
    let returning = sys::interrupt(tracee.0).and_then(|()| sys::resume(tracee.0, 0));
    let made = clone_again(helper, instruction);
    let collected = helper.kill_uncollected().and_then(|()| {
        returning?;
        tracee.interrupted(FIRST_STOP)?;
        let number = tracee.answer()?.map_err(Trouble::Request)?;
        collect(tracee, registers, instruction, number, helper)
    });
    if collected.is_err() {
        // Best effort: they die with us at the latest.
        let _ = helper.collect();
        if let Ok(Ok(anchor)) = made {
            let _ = Tracee(anchor).kill();
        }
    }
    collected.and(made)
}

fn clone_again(helper: Tracee, instruction: u64) -> Result<io::Result<Tid>, Trouble> {
    helper.first_stop()?;
    // First of all: from here on the helper, and the anchor from its birth, die with us.
    sys::set_options(helper.0, libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE)?;
    let registers = sys::registers(helper.0)?.ok_or(Trouble::Mode)?;
    let anchor = match helper.clone(&registers, instruction, &CLONE)? {
        Ok(anchor) => anchor,
        Err(refused) => return Ok(Err(refused)),
    };
    match Tracee(anchor).first_stop() {
        Ok(()) => Ok(Ok(anchor)),
        Err(trouble) => {
            let _ = Tracee(anchor).kill();
            Err(trouble)
        }
    }
}

/// Has the thread collect its dead child, which has `number` in its namespace.
///
/// A dead task is visible to its tracer only, until that one has collected it; we do so when the thread stands before its own `wait4`.
fn collect(tracee: Tracee, registers: &Registers, instruction: u64, number: u64, child: Tracee) -> Result<(), Trouble> {
    let options = (libc::__WALL | libc::WNOHANG) as u64;
    let wait = Call { name: "wait4", number: libc::SYS_wait4, arguments: [number, 0, options, 0] };
    tracee.enter(registers, instruction, &wait)?;
    child.collect()?;
    tracee.finish_call()
}

/// Makes sure that the anchor has not become the process's own child, which its waits would see.
fn disown(tgid: Tid, tracee: Tracee, registers: &Registers, instruction: u64, anchor: Tid) -> Result<Tid, AttachError> {
    let anchor = Tracee(anchor);
    match procfs::status(anchor.0) {
        Ok(status) if !status.is_dead() && procfs::parent(anchor.0).is_ok_and(|parent| parent != tgid) => Ok(anchor.0),
        // Only a number that is certain: `wait4` takes 0 and below for any child.
        Ok(status) if !status.is_dead() && status.own_number > 0 => {
            let number = status.own_number as u64;
            let undone = anchor.kill_uncollected().and_then(|()| collect(tracee, registers, instruction, number, anchor));
            if undone.is_err() {
                let _ = back_to_stop(tracee);
            }
            Err(AttachError::AdoptsOrphans { pid: tgid as u32 })
        }
        _ => {
            let _ = anchor.kill();
            Err(AttachError::Gone { pid: tgid as u32 })
        }
    }
}

/// Takes the anchor out of what it still has in common with the process, but for the memory, and locks it up.
fn dress(anchor: Tracee, landmarks: &Landmarks) -> Result<Result<(), AttachError>, Trouble> {
    sys::set_options(anchor.0, libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC)?;
    let registers = sys::registers(anchor.0)?.ok_or(Trouble::Mode)?;
    let call = |name, number, arguments| Call { name, number, arguments };
    // A working directory elsewhere keeps a file system busy, no more: without the string it stays.
    if let Some(root) = landmarks.root {
        let _ = anchor.call(&registers, landmarks.instruction, &call("chdir", libc::SYS_chdir, [root, 0, 0, 0]))?;
    }
    let close = [0, u64::from(u32::MAX), u64::from(libc::CLOSE_RANGE_UNSHARE), 0];
    let steps = [
        // Out of the session and the process group: job control does not see it.
        call("setsid", libc::SYS_setsid, [0; 4]),
        // A descriptor table of its own, empty.
        call("close_range", libc::SYS_close_range, close),
        call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0]),
        // From here on it could only read, write and exit, even if it ran.
        call("prctl(PR_SET_SECCOMP)", libc::SYS_prctl, [libc::PR_SET_SECCOMP as u64, u64::from(libc::SECCOMP_MODE_STRICT), 0, 0]),
    ];
    for step in &steps {
        if let Err(source) = anchor.call(&registers, landmarks.instruction, step)? {
            return Ok(Err(AttachError::Refused { call: step.name, source }));
        }
    }
    Ok(Ok(()))
}

/// Begins to trace a thread. The right to do so has been seen to exist, but a thread that dies may be refused, and the next moment its number be taken over by the
/// one that execs: a refusal counts if it lasts.
fn seize(pid: Tid, tid: Tid) -> Result<(), AttachError> {
    const ATTEMPTS: u32 = 3;
    let mut attempt = 1;
    loop {
        match sys::seize(tid) {
            Ok(()) => return Ok(()),
            Err(error) if attempt >= ATTEMPTS => return Err(refusal(pid, tid, error)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        attempt += 1;
    }
}

fn refusal(pid: Tid, tid: Tid, error: io::Error) -> AttachError {
    match (error.raw_os_error(), procfs::status(tid)) {
        (Some(libc::ESRCH), _) | (_, Err(_)) => AttachError::Gone { pid: pid as u32 },
        (Some(libc::EPERM), Ok(status)) if status.tracer != 0 => {
            let name = procfs::command(status.tracer);
            AttachError::AlreadyTraced { tid: tid as u32, tracer: status.tracer as u32, name }
        }
        // What is dead already cannot be traced.
        (Some(libc::EPERM), Ok(status)) if status.is_dead() => AttachError::Gone { pid: pid as u32 },
        (Some(libc::EPERM), Ok(status)) => AttachError::NotPermitted { pid: pid as u32, why: target::denial(&status) },
        _ => AttachError::host("PTRACE_SEIZE")(error),
    }
}
