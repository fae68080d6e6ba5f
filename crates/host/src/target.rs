//! Choosing the thread of a process that is to make the anchor.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::anchor;
use crate::calls::{self, Stoppable};
use crate::error::{AttachError, Denial};
use crate::procfs::{self, Status, TaskDir};
use crate::sys::{self, Tid};

/// How long a process may be in calls that cannot be stopped before it is refused.
const PATIENCE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that can be stopped.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) tid: Tid,
    pub(crate) directory: TaskDir,
    /// Its process.
    pub(crate) tgid: Tid,
    /// It belongs to another process than the one asked for, which shares that one's memory.
    pub(crate) stands_in: bool,
}

impl Chosen {
    /// Refuses where it has gone, since it was chosen, to sleep in a call that a stop could cut
    /// short.
    pub(crate) fn still_holds(&self) -> Result<(), AttachError> {
        let doing = self.directory.doing().ok();
        match doing.map(|doing| calls::judge(&doing)) {
            Some(Stoppable::No { call })
                if self.directory.status().is_ok_and(|status| status.state != 'T') =>
            {
                Err(AttachError::Busy { tid: self.tid as u32, call })
            }
            _ => Ok(()),
        }
    }
}

/// What stands against a thread at the moment.
enum Obstacle {
    /// It may pass by itself, and soon.
    Passing(AttachError),
    /// It concerns this thread only, or the whole process.
    Lasting(AttachError),
}

/// What is known of a process before anything is done to it.
#[derive(Debug)]
pub(crate) struct Process {
    tgid: Tid,
    /// A thread that has the address space: the leader may be dead while others live.
    pub(crate) alive: Tid,
}

/// Looks at the process as far as it matters before anything is done to it.
///
/// # Errors
/// It has no address space that could be attached.
pub(crate) fn inspect(pid: Tid) -> Result<Process, AttachError> {
    let number = pid as u32;
    let status = procfs::status(pid).map_err(|error| missing(number, error))?;
    if status.is_kernel_thread {
        return Err(AttachError::KernelThread { pid: number });
    }
    if !status.is_dead() {
        return Ok(Process { tgid: status.tgid, alive: pid });
    }
    let lives = |&tid: &Tid| procfs::status(tid).is_ok_and(|thread| !thread.is_dead());
    match procfs::threads(status.tgid)
        .map_err(AttachError::host("read /proc"))?
        .into_iter()
        .find(lives)
    {
        Some(alive) => Ok(Process { tgid: status.tgid, alive }),
        None => Err(AttachError::Zombie { pid: number }),
    }
}

/// Picks the thread whose stop does least, and waits for a moment when one can be had. Blocks for
/// at most [`PATIENCE`] (and the look at each thread).
///
/// # Errors
/// No thread can be stopped, with the reason that holds for the last that was looked at.
pub(crate) fn choose(pid: Tid, process: &Process) -> Result<Chosen, AttachError> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Seen::default();
    loop {
        seen.is_last = Instant::now() >= deadline;
        // The leader last: signals to the process are handled by it where it can, and while it is
        // stopped they would interrupt other threads.
        let mut threads = procfs::threads(process.tgid).map_err(AttachError::host("read /proc"))?;
        threads.sort_by_key(|&tid| tid == process.tgid);
        let reason = match best_of(pid, process, threads, &mut seen) {
            Ok(chosen) => return Ok(chosen),
            Err(Obstacle::Lasting(reason)) => return Err(reason),
            Err(Obstacle::Passing(reason)) => reason,
        };
        // A vfork parent cannot be stopped before its child has gone; but the child shares its
        // space.
        if let Ok(chosen) = best_of(pid, process, sharers(process)?, &mut seen) {
            return Ok(chosen);
        }
        if seen.is_last {
            return Err(reason);
        }
        std::thread::sleep(PAUSE);
    }
}

/// A thread as it was found.
struct Found {
    tgid: Tid,
    stoppable: Stoppable,
    /// It has to be the one that is stopped: it would see what another one makes.
    sees_all: bool,
    /// How often it has gone to sleep so far.
    sleeps: u64,
}

/// What was seen of the threads of a process while it was looked at.
///
/// A thread that runs may be inside a call that moves bytes and sleeps every now and then, such as
/// a large write to a pipe; a stop cuts it short with near certainty. One that has not gone to
/// sleep for a while computes.
#[derive(Default)]
struct Seen {
    sleeps: HashMap<Tid, u64>,
    in_bad_call: HashSet<Tid>,
    /// There will be no other look.
    is_last: bool,
}

impl Seen {
    /// Whether a running thread may be stopped.
    fn trusts(&mut self, tid: Tid, sleeps: u64) -> bool {
        let unchanged = self.sleeps.insert(tid, sleeps) == Some(sleeps);
        !self.in_bad_call.contains(&tid) && (unchanged || self.is_last)
    }
}

fn best_of(
    pid: Tid,
    process: &Process,
    threads: Vec<Tid>,
    seen: &mut Seen,
) -> Result<Chosen, Obstacle> {
    let (mut best, mut obstacle): (Option<(bool, Stoppable, Chosen)>, _) = (None, None);
    // A thread that can be waited for beats one that never will do.
    let mut against = |found: Obstacle| {
        if matches!(found, Obstacle::Passing(_)) || obstacle.is_none() {
            obstacle = Some(found);
        }
    };
    for tid in threads {
        let Ok(directory) = TaskDir::open(tid) else { continue };
        // With a good one at hand the others are of interest only where they would see it.
        let at_hand =
            best.as_ref().is_some_and(|(_, stoppable, _)| *stoppable == Stoppable::Unharmed);
        if at_hand && !directory.doing().is_ok_and(|doing| calls::waits_for_every_child(&doing)) {
            continue;
        }
        let found = match look_at(pid, tid, &directory) {
            Ok(Found { stoppable: Stoppable::No { call }, .. }) => {
                seen.in_bad_call.insert(tid);
                against(Obstacle::Passing(AttachError::Busy { tid: tid as u32, call }));
                continue;
            }
            Ok(Found { stoppable: Stoppable::Perhaps, sleeps, .. })
                if !seen.trusts(tid, sleeps) =>
            {
                against(Obstacle::Passing(AttachError::Busy { tid: tid as u32, call: -1 }));
                continue;
            }
            Ok(found) => found,
            Err(found) => {
                against(found);
                continue;
            }
        };
        if found.sees_all && best.as_ref().is_some_and(|(sees_all, ..)| *sees_all) {
            return Err(Obstacle::Passing(AttachError::Busy {
                tid: tid as u32,
                call: libc::SYS_wait4,
            }));
        }
        let is_better = best.as_ref().is_none_or(|(sees_all, stoppable, _)| {
            !sees_all && (found.sees_all || found.stoppable > *stoppable)
        });
        if is_better {
            let stands_in = found.tgid != process.tgid;
            best = Some((
                found.sees_all,
                found.stoppable,
                Chosen { tid, directory, tgid: found.tgid, stands_in },
            ));
        }
    }
    match (best, obstacle) {
        (Some((.., chosen)), _) => Ok(chosen),
        (None, Some(obstacle)) => Err(obstacle),
        (None, None) => Err(Obstacle::Lasting(AttachError::Gone { pid: pid as u32 })),
    }
}

fn look_at(pid: Tid, tid: Tid, directory: &TaskDir) -> Result<Found, Obstacle> {
    use Obstacle::{Lasting, Passing};
    let gone = || AttachError::Gone { pid: pid as u32 };
    let number = tid as u32;
    let status = directory.status().map_err(|_| Lasting(gone()))?;
    // A task on its way out has no memory and no namespaces any more.
    let unless_dead = |error| {
        if directory.status().is_ok_and(|status| !status.is_dead()) {
            Lasting(error)
        } else {
            Lasting(gone())
        }
    };
    if status.is_dead() {
        return Err(Lasting(gone()));
    }
    if status.own_number == 1 {
        return Err(Lasting(AttachError::AdoptsOrphans { pid: status.tgid as u32 }));
    }
    if status.tracer != 0 || status.state == 't' {
        // It passes where the tracer is another program's attach.
        let name = procfs::command(status.tracer);
        return Err(Passing(AttachError::AlreadyTraced {
            tid: number,
            tracer: status.tracer as u32,
            name,
        }));
    }
    if status.seccomp != 0 {
        return Err(Lasting(AttachError::Seccomp { tid: number, mode: status.seccomp }));
    }
    if directory
        .makes_children_elsewhere()
        .map_err(|error| unless_dead(denied(pid, &status, error)))?
    {
        return Err(unless_dead(AttachError::PidNamespace { tid: number }));
    }
    let doing = directory.doing().map_err(|error| unless_dead(denied(pid, &status, error)))?;
    if status.state == 'S' && directory.is_frozen() {
        return Err(Passing(AttachError::Frozen { tid: number }));
    }
    let stoppable = match status.state {
        // Stopped by a signal: what it was doing has been interrupted already.
        'T' => Stoppable::Unharmed,
        'D' => Stoppable::No {
            call: if let procfs::Doing::Call { number, .. } = doing { number } else { -1 },
        },
        _ => calls::judge(&doing),
    };
    Ok(Found {
        tgid: status.tgid,
        stoppable,
        sees_all: calls::waits_for_every_child(&doing),
        sleeps: status.sleeps,
    })
}

fn denied(pid: Tid, status: &Status, error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            AttachError::NotPermitted { pid: pid as u32, why: denial(status) }
        }
        Some(libc::ENOENT | libc::ESRCH) => AttachError::Gone { pid: pid as u32 },
        _ => AttachError::host("read /proc")(error),
    }
}

fn missing(pid: u32, error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => AttachError::NoSuchProcess { pid },
        _ => AttachError::host("read /proc")(error),
    }
}

/// Why the kernel may have said no.
pub(crate) fn denial(status: &Status) -> Denial {
    let ours = rustix::process::geteuid().as_raw();
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if ours != 0 && status.user != ours {
        Denial::OtherUser { theirs: status.user, ours }
    } else if scope > 0 {
        Denial::Yama { scope }
    } else {
        Denial::Protected
    }
}

/// A process other than the one asked for that shares its address space, and is no helper.
fn sharers(process: &Process) -> Result<Vec<Tid>, AttachError> {
    let shares = |&other: &Tid| {
        other != process.tgid
            && matches!(sys::compare_spaces(process.alive, other), Ok(Ordering::Equal))
            && procfs::status(other).is_ok_and(|status| !status.is_dead())
            && matches!(anchor::is_helper(other), Ok(false))
    };
    let all = procfs::processes().map_err(AttachError::host("read /proc"))?;
    Ok(all.into_iter().filter(shares).take(1).collect())
}
