//! The monitor: the one thread that notices that a space has ended, also when nobody uses it (rule
//! U4).
//!
//! Every [`TICK`] each space is asked for: is its anchor alive, and does the task that was last
//! seen in the space share the anchor's memory still? That is two system calls. Only where it does
//! not, all tasks of the system are asked, helpers left out; twice, since a task can appear where
//! the scan has been already. A space in which nobody is found has ended: it is closed, its
//! watchers are told, and their exit handlers run on a thread of their own for each space.
//!
//! Numbers may be used again between two ticks; that does no harm, since a task is asked what
//! memory it has, not who it is.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sva_core::sync::Mutex;
use sva_core::{EndReason, ExitWork};

use crate::procfs;
use crate::provider::Provider;
use crate::space::{Health, HostSpace};
use crate::sys::Tid;

/// How often each space is looked at.
const TICK: Duration = Duration::from_millis(20);

type Work = Arc<Mutex<Vec<ExitWork>>>;

/// The monitor's loop.
pub(crate) fn run(provider: &'static Provider) {
    crate::sys::block_signals();
    let mut waiting: Vec<Work> = Vec::new();
    loop {
        let spaces = {
            let mut lists = provider.spaces();
            while lists.is_idle() && waiting.is_empty() {
                lists = provider.news.wait(lists);
            }
            lists.alive()
        };
        look(provider, spaces, &mut waiting);
        waiting.retain(|work| !start(work));
        let lists = provider.spaces();
        drop(provider.news.wait_timeout(lists, TICK));
    }
}

fn look(provider: &'static Provider, spaces: Vec<Arc<HostSpace>>, waiting: &mut Vec<Work>) {
    let mut suspects = Vec::new();
    let mut over = Vec::new();
    for space in spaces {
        match space.health() {
            Health::Lives => {}
            Health::Suspect => suspects.push(space),
            Health::Over(reason) => over.push((space, reason)),
        }
    }
    if find_members(&mut suspects).is_err() {
        // For want of descriptors, say. That nobody was found means nothing then; the next tick
        // asks again.
        suspects.clear();
    }
    over.extend(suspects.into_iter().map(|space| {
        let reason = space.reason_of_leave();
        (space, reason)
    }));
    for (space, reason) in over {
        space.declare(reason);
        provider.forget(space.id_number());
        let work = announce(&space, space.ended_as().unwrap_or(reason));
        provider.spaces().announced(space.id_number());
        if !work.is_empty() {
            waiting.push(Arc::new(Mutex::new(work)));
        }
    }
}

fn announce(space: &HostSpace, reason: EndReason) -> Vec<ExitWork> {
    let tell =
        |watcher: Arc<dyn sva_core::SpaceWatcher>| watcher.space_ended(space.id_number(), reason);
    space.take_watchers().into_iter().map(tell).filter(|work| !work.is_none()).collect()
}

/// Runs the exit handlers of one space on a thread of their own; false where there is none to be
/// had: they must not run here, and wait for the next tick.
fn start(work: &Work) -> bool {
    let mine = Arc::clone(work);
    let run = move || {
        let work = std::mem::take(&mut *mine.lock());
        for handlers in work {
            // A handler that panics has run; the next ones run all the same.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| handlers.run()));
        }
    };
    thread::Builder::new().name("sva-exit".into()).spawn(run).is_ok()
}

/// Keeps in `suspects` the spaces in which no task was found.
///
/// # Errors
/// Not all tasks could be looked at: nothing can be said of any of them.
fn find_members(suspects: &mut Vec<Arc<HostSpace>>) -> io::Result<()> {
    // Mostly a thread of the same process, where its leader has exited.
    let mut left = Vec::with_capacity(suspects.len());
    for space in suspects.drain(..) {
        if !any_of(&space, procfs::threads(space.process())?)? {
            left.push(space);
        }
    }
    *suspects = left;
    if suspects.is_empty() {
        return Ok(());
    }
    // The threads of a process share its space: its leader answers for all, unless it is dead.
    sweep(suspects, |pid| Ok(vec![pid]))?;
    if suspects.is_empty() { Ok(()) } else { sweep(suspects, procfs::threads) }
}

/// Whether one of `tasks` is in the space, which it then becomes the known member of.
fn any_of(space: &HostSpace, tasks: Vec<Tid>) -> io::Result<bool> {
    for tid in tasks {
        if adopt(space, tid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes the spaces out of `suspects` that one of `tasks` is in. In an error nothing can be said of
/// any of them.
///
/// Only tasks with as much code as a suspect are compared: to compare one waits while it is in
/// `exec`, and the tasks of others must not hold up the monitor; and each with few, by the kernel's
/// order, so that many spaces may end at once. An anchor that dies meanwhile compares at random,
/// and may have led the search for others astray: then all is done again without it.
fn sweep(
    suspects: &mut Vec<Arc<HostSpace>>,
    tasks: impl Fn(Tid) -> io::Result<Vec<Tid>>,
) -> io::Result<()> {
    let (mut living, mut left) = (std::mem::take(suspects), Vec::new());
    loop {
        // Without an anchor nobody is a member.
        left.extend(living.extract_if(.., |space| !space.is_in_order()));
        let mut alike = by_code(&living);
        // To find out of each anchor that it is one would be most of the time.
        let anchors: HashSet<Tid> = living.iter().filter_map(|space| space.anchor()).collect();
        for process in procfs::processes()?.into_iter().filter(|process| !anchors.contains(process))
        {
            for tid in tasks(process)? {
                if let Some(found) = take_space_of(tid, &mut alike)? {
                    living.retain(|space| !Arc::ptr_eq(space, &found));
                }
            }
        }
        if living.iter().all(|space| space.is_in_order()) {
            suspects.append(&mut living);
            suspects.append(&mut left);
            return Ok(());
        }
    }
}

/// Takes the space out that task `tid` is in.
fn take_space_of(
    tid: Tid,
    alike: &mut HashMap<u64, Vec<Arc<HostSpace>>>,
) -> io::Result<Option<Arc<HostSpace>>> {
    let pages = match procfs::code_pages(tid) {
        Err(error) if procfs::is_out_of_sight(&error) => return Ok(None),
        pages => pages?,
    };
    let Some(group) = alike.get_mut(&pages) else { return Ok(None) };
    let Ok(place) = group.binary_search_by(|space| space.compare(tid)) else { return Ok(None) };
    let is_member = group.get(place).map_or(Ok(false), |space| adopt(space, tid))?;
    Ok(is_member.then(|| group.remove(place)))
}

/// Spaces by how much code they have, each list in the kernel's order.
fn by_code(spaces: &[Arc<HostSpace>]) -> HashMap<u64, Vec<Arc<HostSpace>>> {
    let mut alike: HashMap<u64, Vec<Arc<HostSpace>>> = HashMap::new();
    for space in spaces {
        // One that cannot say has lost its anchor, which is noticed at the end.
        let group = alike.entry(space.code_pages().unwrap_or(0)).or_default();
        // No sort of the library's: an order that changes in the middle could make it panic.
        let (Ok(place) | Err(place)) = group.binary_search_by(|known| {
            space.anchor().map_or(Ordering::Less, |anchor| known.compare(anchor))
        });
        group.insert(place, Arc::clone(space));
    }
    alike
}

fn adopt(space: &HostSpace, tid: Tid) -> io::Result<bool> {
    let is_member = space.order(tid).is_ok_and(|order| order == Some(Ordering::Equal))
        && !crate::anchor::is_helper(tid)?;
    if is_member {
        space.set_member(tid);
    }
    Ok(is_member)
}
