//! The monitor: the one thread that notices that a space has ended, also when nobody uses it (rule U4).
//!
//! Every [`TICK`] each space is asked for: is its anchor alive, and does the task that was last seen in the space share the anchor's memory still? That is two system calls.
//! Only where it does not, all tasks of the system are asked, helpers left out; twice, since a task can appear where the scan has been already. A space in
//! which nobody is found has ended: it is closed, its watchers are told, and their exit handlers run on a thread of their own for each space.
//!
//! Numbers may be used again between two ticks; that does no harm, since a task is asked what memory it has, not who it is.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
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
    find_members(&mut suspects);
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
    let tell = |watcher: Arc<dyn sva_core::SpaceWatcher>| watcher.space_ended(space.id_number(), reason);
    space.take_watchers().into_iter().map(tell).filter(|work| !work.is_none()).collect()
}

/// Runs the exit handlers of one space on a thread of their own; false where there is none to be had: they must not run here, and wait for the next tick.
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
fn find_members(suspects: &mut Vec<Arc<HostSpace>>) {
    // Mostly a thread of the same process, where its leader has exited.
    suspects.retain(|space| !procfs::threads(space.process()).into_iter().any(|tid| adopt(space, tid)));
    if suspects.is_empty() {
        return;
    }
    // The threads of a process share its space: its leader answers for all, unless it is dead.
    sweep(suspects, |pid| vec![pid]);
    if !suspects.is_empty() {
        sweep(suspects, procfs::threads);
    }
}

/// Takes the spaces out of `suspects` that one of `tasks` is in.
///
/// Only tasks with as much code as a suspect are compared: to compare one waits while it is in `exec`, and the tasks of others must not hold up the monitor; and each
/// with few, by the kernel's order, so that many spaces may end at once. An anchor that dies meanwhile compares at random, and may have led the search for others astray: then all is done again without it.
fn sweep(suspects: &mut Vec<Arc<HostSpace>>, tasks: impl Fn(Tid) -> Vec<Tid>) {
    let (mut living, mut left) = (std::mem::take(suspects), Vec::new());
    loop {
        // Without an anchor nobody is a member.
        left.extend(living.extract_if(.., |space| !space.is_in_order()));
        let mut alike = by_code(&living);
        // To find out of each anchor that it is one would be most of the time.
        let anchors: HashSet<Tid> = living.iter().filter_map(|space| space.anchor()).collect();
        for tid in procfs::processes().into_iter().filter(|process| !anchors.contains(process)).flat_map(&tasks) {
            let Some(group) = procfs::code_pages(tid).ok().and_then(|pages| alike.get_mut(&pages)) else { continue };
            if let Ok(place) = group.binary_search_by(|space| space.compare(tid))
                && group.get(place).is_some_and(|space| adopt(space, tid))
            {
                let found = group.remove(place);
                living.retain(|space| !Arc::ptr_eq(space, &found));
            }
        }
        if living.iter().all(|space| space.is_in_order()) {
            suspects.append(&mut living);
            suspects.append(&mut left);
            return;
        }
    }
}

/// Spaces by how much code they have, each list in the kernel's order.
fn by_code(spaces: &[Arc<HostSpace>]) -> HashMap<u64, Vec<Arc<HostSpace>>> {
    let mut alike: HashMap<u64, Vec<Arc<HostSpace>>> = HashMap::new();
    for space in spaces {
        // One that cannot say has lost its anchor, which is noticed at the end.
        let group = alike.entry(space.code_pages().unwrap_or(0)).or_default();
        // No sort of the library's: an order that changes in the middle could make it panic.
        let (Ok(place) | Err(place)) =
            group.binary_search_by(|known| space.anchor().map_or(Ordering::Less, |anchor| known.compare(anchor)));
        group.insert(place, Arc::clone(space));
    }
    alike
}

fn adopt(space: &HostSpace, tid: Tid) -> bool {
    let is_member = space.order(tid).is_ok_and(|order| order == Some(Ordering::Equal)) && !crate::anchor::is_helper(tid);
    if is_member {
        space.set_member(tid);
    }
    is_member
}
