//! The monitor: the one thread that notices the end of spaces, also of those that nobody uses.
//!
//! Every [`TICK`] it asks of each space: is the anchor alive, and does the last known member still
//! share the anchor's memory? That takes two system calls. Only where the member does not, all
//! tasks of the system are compared, except for anchors; twice, because a task can appear where the
//! scan has already been. A space in which no task is found has ended: it is closed, its watchers
//! are told, and their exit handlers run on a thread of their own for each space.
//!
//! A task number may be reused between two ticks. That does no harm, because a task is identified
//! by the memory that it has.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sva_core::space::ExitWork;
use sva_core::{EndReason, SpaceWatcher};
use sva_sync::Mutex;

use super::registry::Registry;
use crate::linux::anchor::is_anchor;
use crate::linux::procfs;
use crate::linux::space::{Context, HostSpace, Liveness};
use crate::linux::sys::{self, Tid};

/// How often each space is examined.
const TICK: Duration = Duration::from_millis(20);

/// The exit handlers of one space.
type Handlers = Arc<Mutex<Vec<ExitWork>>>;

/// The monitor's loop.
pub(super) fn run(registry: &Registry, context: &Context) {
    sys::block_signals();
    let mut not_started: Vec<Handlers> = Vec::new();
    loop {
        let spaces = registry.watched();
        if spaces.is_empty() && not_started.is_empty() {
            context.monitor.wait();
            continue;
        }
        not_started.extend(announce_ended(registry, spaces));
        not_started.retain(|handlers| !start(handlers));
        context.monitor.wait_timeout(TICK);
    }
}

/// Examines the spaces, and ends and announces those that have ended. Returns their exit handlers.
fn announce_ended(registry: &Registry, spaces: Vec<Arc<HostSpace>>) -> Vec<Handlers> {
    let mut suspects = Vec::new();
    let mut ended = Vec::new();
    for space in spaces {
        match space.liveness() {
            Liveness::Alive => {}
            Liveness::MemberLeft => suspects.push(space),
            Liveness::Ended(reason) => ended.push((space, reason)),
        }
    }
    // A failed search, as for want of descriptors, says nothing about any suspect. The next tick
    // searches again.
    for space in retain_without_members(suspects).unwrap_or_default() {
        let reason = space.reason_of_last_leave();
        ended.push((space, reason));
    }
    let mut all = Vec::new();
    for (space, reason) in ended {
        space.end(reason);
        registry.hide(space.id_number());
        let handlers = announce(&space, space.end_reason().unwrap_or(reason));
        registry.unwatch(space.id_number());
        if !handlers.is_empty() {
            all.push(Arc::new(Mutex::new(handlers)));
        }
    }
    all
}

/// Tells the watchers of a space that it has ended. Returns their exit handlers.
fn announce(space: &HostSpace, reason: EndReason) -> Vec<ExitWork> {
    let tell = |watcher: Arc<dyn SpaceWatcher>| watcher.space_ended(space.id_number(), reason);
    space.take_watchers().into_iter().map(tell).filter(|work| !work.is_none()).collect()
}

/// Runs the exit handlers of one space on a thread of their own. `false` where no thread could be
/// started: they must not run on this one, and wait for the next tick.
fn start(handlers: &Handlers) -> bool {
    let mine = Arc::clone(handlers);
    let run = move || {
        let work = std::mem::take(&mut *mine.lock());
        for handler in work {
            // A handler that panics counts as run, and does not keep the next from running.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| handler.run()));
        }
    };
    thread::Builder::new().name("sva-exit".into()).spawn(run).is_ok()
}

/// Returns the spaces in which no task is found.
///
/// # Errors
/// Not all tasks could be examined: nothing is known of any of the spaces.
fn retain_without_members(spaces: Vec<Arc<HostSpace>>) -> io::Result<Vec<Arc<HostSpace>>> {
    // Mostly a member is another thread of the same process, whose leader has exited.
    let mut left = Vec::with_capacity(spaces.len());
    for space in spaces {
        if !has_member_among(&space, procfs::threads(space.member_process())?)? {
            left.push(space);
        }
    }
    if left.is_empty() {
        return Ok(left);
    }
    // Threads of a process share its space, so the leader answers for all unless it is dead.
    let left = scan(left, |pid| Ok(vec![pid]))?;
    if left.is_empty() { Ok(left) } else { scan(left, procfs::threads) }
}

/// Whether one of `tasks` is in the space. That one becomes its known member.
fn has_member_among(space: &HostSpace, tasks: Vec<Tid>) -> io::Result<bool> {
    for tid in tasks {
        if set_if_member(space, tid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares all tasks of the system with the spaces, and returns the spaces that none is in.
/// `tasks` lists the tasks of a process that are to be compared.
///
/// Only tasks with as much code as a space are compared with it: a comparison waits while the task
/// is in `exec`, and unrelated tasks must not delay the monitor. Each task is compared with few
/// spaces, by the kernel's order, so many spaces may end at once. An anchor that dies meanwhile
/// compares at random and may have led the search for other spaces astray. Then everything is
/// repeated without it.
///
/// # Errors
/// As for [`retain_without_members`].
fn scan(
    spaces: Vec<Arc<HostSpace>>,
    tasks: impl Fn(Tid) -> io::Result<Vec<Tid>>,
) -> io::Result<Vec<Arc<HostSpace>>> {
    let (mut candidates, mut left) = (spaces, Vec::new());
    loop {
        // Nobody can be compared with a space whose anchor is dead, so it has no members.
        left.extend(candidates.extract_if(.., |space| !space.is_comparable()));
        let mut by_code = by_code_pages(&candidates);
        // Looking at each anchor to find out that it is one would take most of the time.
        let anchors: HashSet<Tid> =
            candidates.iter().filter_map(|space| space.anchor_tid()).collect();
        for process in procfs::processes()?.into_iter().filter(|pid| !anchors.contains(pid)) {
            for tid in tasks(process)? {
                if let Some(found) = take_space_of(tid, &mut by_code)? {
                    candidates.retain(|space| !Arc::ptr_eq(space, &found));
                }
            }
        }
        if candidates.iter().all(|space| space.is_comparable()) {
            candidates.append(&mut left);
            return Ok(candidates);
        }
    }
}

/// Takes the space out that task `tid` is in.
fn take_space_of(
    tid: Tid,
    by_code: &mut HashMap<u64, Vec<Arc<HostSpace>>>,
) -> io::Result<Option<Arc<HostSpace>>> {
    let pages = match procfs::code_pages(tid) {
        Err(error) if procfs::is_out_of_sight(&error) => return Ok(None),
        pages => pages?,
    };
    let Some(group) = by_code.get_mut(&pages) else { return Ok(None) };
    let Ok(index) = group.binary_search_by(|space| space.order_unchecked(tid)) else {
        return Ok(None);
    };
    let is_member = group.get(index).map_or(Ok(false), |space| set_if_member(space, tid))?;
    Ok(is_member.then(|| group.remove(index)))
}

/// Groups spaces by how much code they have. Each group is in the kernel's order.
fn by_code_pages(spaces: &[Arc<HostSpace>]) -> HashMap<u64, Vec<Arc<HostSpace>>> {
    let mut groups: HashMap<u64, Vec<Arc<HostSpace>>> = HashMap::new();
    for space in spaces {
        // A space whose code cannot be measured has lost its anchor, which the scan notices at its
        // end.
        let group = groups.entry(space.code_pages().unwrap_or(0)).or_default();
        // Not `sort_by`: it may panic when the order changes meanwhile, as with a dead anchor.
        let (Ok(index) | Err(index)) = group.binary_search_by(|known| {
            space.anchor_tid().map_or(Ordering::Less, |anchor| known.order_unchecked(anchor))
        });
        group.insert(index, Arc::clone(space));
    }
    groups
}

/// Makes task `tid` the known member of the space if it is in the space and no anchor.
fn set_if_member(space: &HostSpace, tid: Tid) -> io::Result<bool> {
    let is_member =
        space.order(tid).is_ok_and(|order| order == Some(Ordering::Equal)) && !is_anchor(tid)?;
    if is_member {
        space.set_member(tid);
    }
    Ok(is_member)
}
