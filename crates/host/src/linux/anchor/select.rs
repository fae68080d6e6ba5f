//! Choosing the thread of a process that is stopped to make the anchor.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use super::denial::denial;
use super::identify::is_anchor;
use crate::error::AttachError;
use crate::linux::inject::{Interruption, interruption, waits_for_every_child};
use crate::linux::procfs::{self, Status, SyscallState, TaskDir};
use crate::linux::sys::{self, Tid};

/// How long a process may be in calls that must not be stopped before it is refused.
const LIMIT: Duration = Duration::from_millis(100);
/// The time between two examinations of its threads.
const INTERVAL: Duration = Duration::from_millis(1);

/// The thread that is to be stopped.
#[derive(Debug)]
pub(crate) struct TargetThread {
    pub(crate) tid: Tid,
    pub(crate) directory: TaskDir,
    /// Its process.
    pub(crate) tgid: Tid,
    /// It belongs to another process than the one asked for, which shares that one's memory.
    pub(crate) is_of_sharer: bool,
}

impl TargetThread {
    /// Refuses the thread if by now it sleeps in a call whose result a stop could change.
    pub(crate) fn check_again(&self) -> Result<(), AttachError> {
        let state = self.directory.syscall_state().ok();
        match state.map(|state| interruption(&state)) {
            Some(Interruption::ChangesResult { call })
                if self.directory.status().is_ok_and(|status| status.state != 'T') =>
            {
                Err(AttachError::Busy { tid: self.tid as u32, call })
            }
            _ => Ok(()),
        }
    }
}

/// Why a thread cannot be chosen at the moment.
enum Obstacle {
    /// It may pass by itself, and soon.
    Transient(AttachError),
    /// It will not pass by itself. It concerns this thread only, or the whole process.
    Permanent(AttachError),
}

/// A process that is to be attached, before anything is done to it.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    tgid: Tid,
    /// A thread that has the address space. The leader may be dead while others live.
    pub(crate) living_thread: Tid,
}

impl TargetProcess {
    /// Looks at the process that task `pid` belongs to.
    ///
    /// # Errors
    /// It has no address space that could be attached.
    pub(crate) fn inspect(pid: Tid) -> Result<Self, AttachError> {
        let number = pid as u32;
        let status = procfs::status(pid).map_err(|error| no_status(number, error))?;
        if status.is_kernel_thread {
            return Err(AttachError::KernelThread { pid: number });
        }
        if !status.is_dead() {
            return Ok(Self { tgid: status.tgid, living_thread: pid });
        }
        let lives = |&tid: &Tid| procfs::status(tid).is_ok_and(|thread| !thread.is_dead());
        let threads = procfs::threads(status.tgid).map_err(AttachError::host("read /proc"))?;
        match threads.into_iter().find(lives) {
            Some(living_thread) => Ok(Self { tgid: status.tgid, living_thread }),
            None => Err(AttachError::Zombie { pid: number }),
        }
    }

    /// Chooses the thread to which a stop does least, and waits until there is one. Blocks for at
    /// most [`LIMIT`], and for the time that it takes to examine each thread. `pid` is the number
    /// that was asked for.
    ///
    /// # Errors
    /// No thread can be stopped. The reason is that of the thread that was examined last.
    pub(crate) fn choose_thread(&self, pid: Tid) -> Result<TargetThread, AttachError> {
        let deadline = Instant::now() + LIMIT;
        let mut history = History::default();
        loop {
            history.is_last_round = Instant::now() >= deadline;
            // The leader comes last: it handles the signals to the process where it can. While it
            // is stopped, they would interrupt other threads.
            let mut threads =
                procfs::threads(self.tgid).map_err(AttachError::host("read /proc"))?;
            threads.sort_by_key(|&tid| tid == self.tgid);
            let reason = match self.best_of(pid, threads, &mut history) {
                Ok(chosen) => return Ok(chosen),
                Err(Obstacle::Permanent(reason)) => return Err(reason),
                Err(Obstacle::Transient(reason)) => reason,
            };
            // A parent in vfork cannot be stopped before its child has gone. But the child shares
            // its space.
            if let Ok(chosen) = self.best_of(pid, self.sharers()?, &mut history) {
                return Ok(chosen);
            }
            if history.is_last_round {
                return Err(reason);
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn best_of(
        &self,
        pid: Tid,
        threads: Vec<Tid>,
        history: &mut History,
    ) -> Result<TargetThread, Obstacle> {
        let (mut best, mut obstacle): (Option<(Candidate, TargetThread)>, _) = (None, None);
        // A transient obstacle is a better reason than a permanent one: it is worth waiting for.
        let mut note = |found: Obstacle| {
            if matches!(found, Obstacle::Transient(_)) || obstacle.is_none() {
                obstacle = Some(found);
            }
        };
        for tid in threads {
            let Ok(directory) = TaskDir::open(tid) else { continue };
            // With a perfect candidate at hand, others matter only where they could see the new
            // task.
            let at_hand =
                best.as_ref().is_some_and(|(best, _)| best.interruption == Interruption::Harmless);
            if at_hand
                && !directory.syscall_state().is_ok_and(|state| waits_for_every_child(&state))
            {
                continue;
            }
            let found =
                match examine(pid, tid, &directory).and_then(|found| history.admit(tid, found)) {
                    Ok(found) => found,
                    Err(found) => {
                        note(found);
                        continue;
                    }
                };
            if found.waits_for_every_child
                && best.as_ref().is_some_and(|(best, _)| best.waits_for_every_child)
            {
                return Err(Obstacle::Transient(AttachError::Busy {
                    tid: tid as u32,
                    call: libc::SYS_wait4,
                }));
            }
            if best.as_ref().is_none_or(|(best, _)| found.is_better_than(best)) {
                let (tgid, is_of_sharer) = (found.tgid, found.tgid != self.tgid);
                best = Some((found, TargetThread { tid, directory, tgid, is_of_sharer }));
            }
        }
        match (best, obstacle) {
            (Some((_, chosen)), _) => Ok(chosen),
            (None, Some(obstacle)) => Err(obstacle),
            (None, None) => Err(Obstacle::Permanent(AttachError::Gone { pid: pid as u32 })),
        }
    }

    /// Another process that shares the address space and is no anchor; at most one.
    fn sharers(&self) -> Result<Vec<Tid>, AttachError> {
        let shares = |&other: &Tid| {
            other != self.tgid
                && matches!(sys::compare_spaces(self.living_thread, other), Ok(Ordering::Equal))
                && procfs::status(other).is_ok_and(|status| !status.is_dead())
                && matches!(is_anchor(other), Ok(false))
        };
        let all = procfs::processes().map_err(AttachError::host("read /proc"))?;
        Ok(all.into_iter().filter(shares).take(1).collect())
    }
}

/// A thread as it was examined.
struct Candidate {
    tgid: Tid,
    interruption: Interruption,
    /// It would see a task that another thread makes, so it must be the one that is stopped.
    waits_for_every_child: bool,
    /// How often it has slept so far.
    sleeps: u64,
}

impl Candidate {
    fn is_better_than(&self, other: &Self) -> bool {
        !other.waits_for_every_child
            && (self.waits_for_every_child || self.interruption > other.interruption)
    }
}

/// What earlier rounds have seen of the threads of a process.
///
/// A running thread may be inside a call that moves bytes and sleeps from time to time, such as a
/// large write to a pipe. A stop almost certainly cuts such a call short. A thread that has not
/// slept between two rounds computes.
#[derive(Default)]
struct History {
    sleeps: HashMap<Tid, u64>,
    seen_in_bad_call: HashSet<Tid>,
    /// There will be no other round.
    is_last_round: bool,
}

impl History {
    /// Whether the thread may be stopped, as it was examined now and seen in earlier rounds.
    fn admit(&mut self, tid: Tid, found: Candidate) -> Result<Candidate, Obstacle> {
        let busy = |call| Obstacle::Transient(AttachError::Busy { tid: tid as u32, call });
        match found.interruption {
            Interruption::ChangesResult { call } => {
                self.seen_in_bad_call.insert(tid);
                Err(busy(call))
            }
            Interruption::Unknown if !self.may_stop_running(tid, found.sleeps) => Err(busy(-1)),
            _ => Ok(found),
        }
    }

    fn may_stop_running(&mut self, tid: Tid, sleeps: u64) -> bool {
        let has_not_slept = self.sleeps.insert(tid, sleeps) == Some(sleeps);
        !self.seen_in_bad_call.contains(&tid) && (has_not_slept || self.is_last_round)
    }
}

/// Examines one thread.
fn examine(pid: Tid, tid: Tid, directory: &TaskDir) -> Result<Candidate, Obstacle> {
    use Obstacle::{Permanent, Transient};
    let gone = || AttachError::Gone { pid: pid as u32 };
    let number = tid as u32;
    let status = directory.status().map_err(|_| Permanent(gone()))?;
    // A task that dies loses its memory and its namespaces first.
    let unless_dead = |error| {
        if directory.status().is_ok_and(|status| !status.is_dead()) {
            Permanent(error)
        } else {
            Permanent(gone())
        }
    };
    if status.is_dead() {
        return Err(Permanent(gone()));
    }
    if status.own_number == 1 {
        return Err(Permanent(AttachError::AdoptsOrphans { pid: status.tgid as u32 }));
    }
    if status.tracer != 0 || status.state == 't' {
        // It passes where the tracer is another program that attaches.
        let name = procfs::command(status.tracer);
        let tracer = status.tracer as u32;
        return Err(Transient(AttachError::AlreadyTraced { tid: number, tracer, name }));
    }
    if status.seccomp != 0 {
        return Err(Permanent(AttachError::Seccomp { tid: number, mode: status.seccomp }));
    }
    if directory
        .makes_children_in_other_pid_namespace()
        .map_err(|error| unless_dead(denied(pid, &status, error)))?
    {
        return Err(unless_dead(AttachError::PidNamespace { tid: number }));
    }
    let state =
        directory.syscall_state().map_err(|error| unless_dead(denied(pid, &status, error)))?;
    if status.state == 'S' && directory.is_frozen() {
        return Err(Transient(AttachError::Frozen { tid: number }));
    }
    Ok(Candidate {
        tgid: status.tgid,
        interruption: match (status.state, &state) {
            // It is stopped by a signal, which has interrupted its call already.
            ('T', _) => Interruption::Harmless,
            ('D', &SyscallState::AsleepIn { number: call, .. }) => {
                Interruption::ChangesResult { call }
            }
            ('D', _) => Interruption::ChangesResult { call: -1 },
            _ => interruption(&state),
        },
        waits_for_every_child: waits_for_every_child(&state),
        sleeps: status.sleeps,
    })
}

/// The error of a read below `/proc` that needs the right to trace.
fn denied(pid: Tid, status: &Status, error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            AttachError::NotPermitted { pid: pid as u32, why: denial(status) }
        }
        Some(libc::ENOENT | libc::ESRCH) => AttachError::Gone { pid: pid as u32 },
        _ => AttachError::host("read /proc")(error),
    }
}

/// The error of the first read of the status of `pid`.
fn no_status(pid: u32, error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => AttachError::NoSuchProcess { pid },
        _ => AttachError::host("read /proc")(error),
    }
}
