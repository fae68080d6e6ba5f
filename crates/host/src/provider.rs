//! What is global in a process: the keeper, the monitor, and which spaces there are.
//!
//! Locks, outermost first: `attaching` (held over an attach: one at a time), `spaces` (short; held
//! over a handful of `kcmp`). A space's own locks are inside both. Handles that are taken under
//! `spaces` are dropped after it has been released, since the end of the last handle takes it.

use std::cmp::Ordering;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use sva_core::SpaceId;
use sva_core::sync::{Condvar, Mutex};

use crate::error::AttachError;
use crate::keeper::Keeper;
use crate::landmarks::Landmarks;
use crate::monitor;
use crate::procfs;
use crate::space::HostSpace;
use crate::sys::{self, ForkMark, Tid, Unreadable};
use crate::target;

static PROVIDER: OnceLock<io::Result<Provider>> = OnceLock::new();

/// See the module.
#[derive(Debug)]
pub(crate) struct Provider {
    mark: ForkMark,
    pub(crate) unreadable: Unreadable,
    pub(crate) keeper: Keeper,
    attaching: Mutex<()>,
    spaces: Mutex<Spaces>,
    /// Told when a space appears, or is known to have ended.
    pub(crate) news: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Spaces {
    /// Those that can be found, in the kernel's order of address spaces.
    ordered: Vec<(SpaceId, Weak<HostSpace>)>,
    /// Those whose end has not been announced.
    watched: Vec<(SpaceId, Weak<HostSpace>)>,
    /// Our own address space.
    own: Weak<HostSpace>,
}

enum Search {
    Found(Arc<HostSpace>),
    /// Where it would have to be inserted.
    Place(usize),
    /// An anchor died meanwhile, and what was compared with it does not count.
    Dead,
}

/// Looks for task `tid` among spaces in the kernel's order.
///
/// Dead address spaces all compare alike, so each comparison counts only where the anchor was alive
/// after it.
fn search(known: &[Arc<HostSpace>], tid: Tid) -> io::Result<Search> {
    let (mut low, mut high) = (0, known.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(space) = known.get(middle) else { break };
        match space.order(tid)? {
            Some(Ordering::Equal) => return Ok(Search::Found(Arc::clone(space))),
            Some(Ordering::Less) => low = middle + 1,
            Some(Ordering::Greater) => high = middle,
            None => return Ok(Search::Dead),
        }
    }
    Ok(Search::Place(low))
}

impl Provider {
    /// The provider of this process, started on first use. Where it cannot be started, it cannot
    /// for good.
    pub(crate) fn get() -> Result<&'static Self, AttachError> {
        match PROVIDER.get_or_init(Self::start) {
            Ok(provider) if provider.is_ours() => Ok(provider),
            Ok(_) => Err(AttachError::Forked),
            Err(error) => {
                let again = error
                    .raw_os_error()
                    .map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
                Err(AttachError::host("start of the keeper")(again))
            }
        }
    }

    fn start() -> io::Result<Self> {
        let (mark, unreadable, keeper) = (ForkMark::new()?, Unreadable::new()?, Keeper::start()?);
        thread::Builder::new().name("sva-monitor".into()).spawn(|| {
            if let Ok(provider) = PROVIDER.wait() {
                monitor::run(provider);
            }
        })?;
        Ok(Self {
            mark,
            unreadable,
            keeper,
            attaching: Mutex::default(),
            spaces: Mutex::default(),
            news: Condvar::new(),
        })
    }

    /// Whether this process is the one that the keeper lives in, and not a child made from it by
    /// fork.
    pub(crate) fn is_ours(&self) -> bool {
        self.mark.holds()
    }

    pub(crate) fn spaces(&self) -> sva_core::sync::MutexGuard<'_, Spaces> {
        self.spaces.lock()
    }

    /// The space of task `pid`: known already, or attached now. A process that replaces its image
    /// meanwhile is tried again.
    pub(crate) fn attach(&'static self, pid: Tid) -> Result<Arc<HostSpace>, AttachError> {
        const ATTEMPTS: u32 = 4;
        const PATIENCE: Duration = Duration::from_secs(1);
        let (mut attempt, begin) = (1, Instant::now());
        loop {
            match self.attach_once(pid) {
                Err(
                    AttachError::Gone { .. }
                    | AttachError::NoSyscallInstruction { .. }
                    | AttachError::Busy { .. },
                ) if attempt < ATTEMPTS => attempt += 1,
                // By our own keeper or its stopper, for another thread's attach: the next look
                // finds that one's space.
                Err(AttachError::AlreadyTraced { tracer, .. })
                    if is_ours(tracer) && begin.elapsed() < PATIENCE => {}
                result => return result,
            }
        }
    }

    fn attach_once(&'static self, pid: Tid) -> Result<Arc<HostSpace>, AttachError> {
        if matches!(sys::compare_spaces(gettid(), pid), Ok(Ordering::Equal)) {
            return Ok(self.own());
        }
        let process = target::inspect(pid)?;
        if let Ok(Some(space)) = self.find(process.alive) {
            return Ok(space);
        }
        let chosen = target::choose(pid, &process)?;
        // The process decides how long reading its memory takes: with no lock held, and not on the
        // keeper's thread.
        let landmarks = Landmarks::find(chosen.tid)
            .ok_or(AttachError::NoSyscallInstruction { pid: pid as u32 })?;
        let _one_at_a_time = self.attaching.lock();
        // What took its time since may have made the choice stale.
        chosen.still_holds()?;
        if let Ok(Some(space)) = self.find(chosen.tid) {
            return Ok(space);
        }
        let member = (chosen.tid, chosen.tgid);
        let made = self.keeper.make(pid, chosen, landmarks)?;
        let space = Arc::new(HostSpace::foreign(self, &made, member));
        match self.introduce(&space, made.anchor) {
            Ok(earlier) => Ok(earlier.unwrap_or(space)),
            Err(source) => Err(AttachError::host("kcmp")(source)),
        }
    }

    fn own(&'static self) -> Arc<HostSpace> {
        let mut spaces = self.spaces();
        spaces.own.upgrade().unwrap_or_else(|| {
            let own = Arc::new(HostSpace::own(self));
            spaces.own = Arc::downgrade(&own);
            own
        })
    }

    /// Looks for the space of task `tid` by the kernel's order. No lock is held over it: a
    /// comparison waits while the task is in `exec`, for as long as the kernel takes to tear down
    /// its old memory.
    fn find(&self, tid: Tid) -> io::Result<Option<Arc<HostSpace>>> {
        let mut known = self.spaces().known();
        loop {
            match search(&known, tid)? {
                Search::Found(space) => return Ok(Some(space)),
                Search::Place(_) => return Ok(None),
                Search::Dead => known.retain(|space| space.is_in_order()),
            }
        }
    }

    /// Makes a space known, unless its memory is known already: then the space that has it.
    /// Searching and inserting are one step, so that the order holds; nothing is waited for, since
    /// anchors are never in `exec`.
    fn introduce(&self, space: &Arc<HostSpace>, anchor: Tid) -> io::Result<Option<Arc<HostSpace>>> {
        // Handles are dropped after the lock has been released.
        let all;
        let mut spaces = self.spaces();
        all = spaces.known();
        let mut known = all.clone();
        loop {
            match search(&known, anchor)? {
                Search::Found(earlier) => return Ok(Some(earlier)),
                Search::Dead => known.retain(|space| space.is_in_order()),
                Search::Place(place) => {
                    known.insert(place, Arc::clone(space));
                    spaces.ordered = known
                        .iter()
                        .map(|space| (space.id_number(), Arc::downgrade(space)))
                        .collect();
                    spaces.watched.push((space.id_number(), Arc::downgrade(space)));
                    self.news.notify_all();
                    return Ok(None);
                }
            }
        }
    }

    /// Takes a space out of what can be found.
    pub(crate) fn forget(&self, id: SpaceId) {
        self.spaces().ordered.retain(|(known, _)| *known != id);
    }

    /// Has the monitor look at once.
    pub(crate) fn hurry(&self) {
        let _held = self.spaces();
        self.news.notify_all();
    }
}

/// Whether a task is a thread or a child of ours.
fn is_ours(task: u32) -> bool {
    let is_thread = || std::path::Path::new(&format!("/proc/self/task/{task}")).exists();
    is_thread()
        || procfs::parent(task as Tid).is_ok_and(|parent| parent == std::process::id() as Tid)
}

/// The calling thread's number.
pub(crate) fn gettid() -> Tid {
    rustix::thread::gettid().as_raw_nonzero().get()
}

impl Spaces {
    /// Whether no space is watched.
    pub(crate) fn is_idle(&self) -> bool {
        self.watched.is_empty()
    }

    /// Those that can be found and that somebody still has a handle of. To be dropped after the
    /// lock has been released.
    fn known(&self) -> Vec<Arc<HostSpace>> {
        self.ordered.iter().filter_map(|(_, space)| space.upgrade()).collect()
    }

    /// The watched spaces that somebody still has a handle of. To be dropped after the lock has
    /// been released.
    pub(crate) fn alive(&mut self) -> Vec<Arc<HostSpace>> {
        let mut alive = Vec::with_capacity(self.watched.len());
        self.watched.retain(|(_, space)| space.upgrade().map(|space| alive.push(space)).is_some());
        alive
    }

    /// Watches a space no longer: its end has been announced.
    pub(crate) fn announced(&mut self, id: SpaceId) {
        self.watched.retain(|(known, _)| *known != id);
    }
}
