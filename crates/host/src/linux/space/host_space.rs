//! [`HostSpace`]: a live process's memory as an [`AddressSpace`].
//!
//! # The end
//!
//! A space ends once ([`HostSpace::end`]). Under the lock of the state the reason is recorded,
//! `has_ended` is set and the state's reference to the anchor is removed. A thread that sees the
//! reason therefore knows that no access begins. An access takes a reference to the anchor first
//! and then reads `has_ended`: either it sees the end, or its reference keeps the anchor's number
//! from being reused until the access is over. The drop of the last reference has the anchor
//! reaped.
//!
//! Rejected: one word with a count and a closed bit. It does the same as a reference count that an
//! `Arc` has anyway, in code of our own.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Segment, SpaceCapabilities, SpaceId, SpaceWatcher,
    StopCause, Stopped,
};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering as Memory};

use super::access::{self, RemoteMemory};
use super::context::Context;
use super::member::Member;
use crate::error::RegionsError;
use crate::linux::anchor::Anchor;
use crate::linux::procfs;
use crate::linux::sys::{self, Tid, gettid};
use crate::region::Region;

/// The address space of a live process, or of our own.
///
/// Made by [`attach`](crate::attach). All handles of one address space are one object. The space is
/// monitored, and its anchor kept, as long as a handle exists.
///
/// A bind takes an `Arc` of it: `iommu.bind_device(&device, &sva_host::attach(pid)?, terms)?`.
pub struct HostSpace {
    id: SpaceId,
    context: Arc<Context>,
    memory: MemoryOf,
    /// For how long a thread of the process was stopped.
    stop_time: Duration,
    has_ended: AtomicBool,
    state: Mutex<State>,
    /// The task that was last seen in the space.
    member: Mutex<Member>,
}

/// Whose memory it is.
enum MemoryOf {
    /// Our own process's. No exec can replace it while our code runs, so no anchor is needed.
    Ourselves,
    /// That of the process that the anchor was made in.
    Anchor(Tid, Weak<Anchor>),
}

#[derive(Default)]
struct State {
    ended: Option<EndReason>,
    /// Keeps the anchor until the space ends.
    anchor: Option<Arc<Anchor>>,
    watchers: Vec<(WatchToken, Arc<dyn SpaceWatcher>)>,
    last_token: u64,
}

/// The state of a space, as the monitor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// A task is in it.
    Alive,
    /// The last known member has left it; others may be in it.
    MemberLeft,
    /// It has ended.
    Ended(EndReason),
}

/// A task by whose number the space's memory is accessed. The number is not reused while this
/// exists.
struct AccessTask {
    tid: Tid,
    _anchor: Option<Arc<Anchor>>,
}

impl HostSpace {
    /// The space of another process, of which `member` is a thread of process `process`.
    pub(crate) fn foreign(
        context: Arc<Context>,
        anchor: Anchor,
        stop_time: Duration,
        (member, process): (Tid, Tid),
    ) -> Self {
        let anchor = Arc::new(anchor);
        let memory = MemoryOf::Anchor(anchor.tid(), Arc::downgrade(&anchor));
        let state = State { anchor: Some(anchor), ..State::default() };
        Self::new(context, memory, state, stop_time, Member::new(member, process))
    }

    /// The space of our own process.
    pub(crate) fn own(context: Arc<Context>) -> Self {
        let process = std::process::id() as Tid;
        let member = Member::new(process, process);
        Self::new(context, MemoryOf::Ourselves, State::default(), Duration::ZERO, member)
    }

    fn new(
        context: Arc<Context>,
        memory: MemoryOf,
        state: State,
        stop_time: Duration,
        member: Member,
    ) -> Self {
        Self {
            id: SpaceId::unique(),
            context,
            memory,
            stop_time,
            has_ended: AtomicBool::new(false),
            state: Mutex::new(state),
            member: Mutex::new(member),
        }
    }

    /// For how long a thread of the process was stopped to attach it; zero for our own process.
    pub fn stop_time(&self) -> Duration {
        self.stop_time
    }

    /// The mappings of the space at the moment, sorted by address.
    ///
    /// # Errors
    /// The space has ended, or `/proc` could not be read.
    pub fn regions(&self) -> Result<Vec<Region>, RegionsError> {
        let task = self.access_task().ok_or(RegionsError::Ended)?;
        procfs::mappings_with_flags(task.tid).map_err(|source| {
            RegionsError::Host(HostFailure { call: "read /proc/PID/smaps", source })
        })
    }

    /// [`AddressSpace::id`], where the trait is not in scope.
    pub(crate) fn id_number(&self) -> SpaceId {
        self.id
    }

    /// The task to access the memory by; `None` if the space has ended.
    fn access_task(&self) -> Option<AccessTask> {
        if !self.context.mark.is_set() {
            return None;
        }
        let task = match &self.memory {
            MemoryOf::Ourselves => AccessTask { tid: gettid(), _anchor: None },
            MemoryOf::Anchor(tid, anchor) => {
                AccessTask { tid: *tid, _anchor: Some(anchor.upgrade()?) }
            }
        };
        (!self.has_ended.load(Memory::Acquire)).then_some(task)
    }

    /// Compares this space with that of task `tid` in the kernel's order; `None` where this space
    /// has ended or its anchor is dead.
    pub(crate) fn order(&self, tid: Tid) -> io::Result<Option<Ordering>> {
        let Some(task) = self.access_task() else { return Ok(None) };
        let order = sys::compare_spaces(task.tid, tid);
        // An anchor without memory would compare equal to every task without memory.
        if !self.has_living_anchor(&task) {
            return Ok(None);
        }
        match order {
            Ok(order) => Ok(Some(order)),
            Err(_) if sys::compare_spaces(task.tid, task.tid).is_err() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether comparisons with the anchor mean anything: it is alive, or none is needed.
    pub(crate) fn is_comparable(&self) -> bool {
        self.access_task().is_some_and(|task| self.has_living_anchor(&task))
    }

    /// The anchor's number, which belongs to the anchor as long as that has not been reaped.
    pub(crate) fn anchor_tid(&self) -> Option<Tid> {
        match self.memory {
            MemoryOf::Ourselves => None,
            MemoryOf::Anchor(tid, _) => Some(tid),
        }
    }

    /// See [`procfs::code_pages`].
    pub(crate) fn code_pages(&self) -> Option<u64> {
        procfs::code_pages(self.access_task()?.tid).ok()
    }

    /// As [`order`](Self::order), without a check of the anchor: the result means nothing where the
    /// anchor is dead.
    pub(crate) fn order_unchecked(&self, tid: Tid) -> Ordering {
        let order = self.access_task().and_then(|task| sys::compare_spaces(task.tid, tid).ok());
        order.unwrap_or(Ordering::Less)
    }

    /// Whether the anchor, if there is one, is alive and has memory. An anchor that dies loses its
    /// memory before it counts as dead; freeing a large one can take seconds.
    fn has_living_anchor(&self, task: &AccessTask) -> bool {
        self.anchor_tid().is_none() || sys::is_alive(task.tid) && sys::has_memory(task.tid)
    }

    /// Looks at the anchor and at the last known member.
    pub(crate) fn liveness(&self) -> Liveness {
        if let Some(reason) = self.end_reason() {
            return Liveness::Ended(reason);
        }
        let member = *self.member.lock();
        match self.order(member.tid) {
            Ok(Some(Ordering::Equal)) => Liveness::Alive,
            Ok(Some(_)) => Liveness::MemberLeft,
            // The member is gone, or has an image that we may not look at.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {
                Liveness::MemberLeft
            }
            // The comparison failed for another reason. The next tick tries again.
            Err(_) => Liveness::Alive,
            Ok(None) => Liveness::Ended(self.reason_of_dead_anchor()),
        }
    }

    /// The reason of an end at which the anchor is dead or cannot be reached.
    fn reason_of_dead_anchor(&self) -> EndReason {
        if self.member.lock().process_runs() { EndReason::RightsLost } else { EndReason::Exited }
    }

    /// The reason of an end at which no task is left in the space.
    pub(crate) fn reason_of_last_leave(&self) -> EndReason {
        if self.member.lock().process_runs() { EndReason::Execed } else { EndReason::Exited }
    }

    /// The process of the task that was last seen in the space.
    pub(crate) fn member_process(&self) -> Tid {
        self.member.lock().process
    }

    /// Records the task that was seen in the space.
    pub(crate) fn set_member(&self, tid: Tid) {
        let process = procfs::status(tid).map_or(tid, |status| status.tgid);
        *self.member.lock() = Member::new(tid, process);
    }

    /// Ends the space: from here on no access begins, and the anchor dies. Does not call watchers;
    /// the monitor does. A second call changes nothing.
    pub(crate) fn end(&self, reason: EndReason) {
        let anchor = {
            let mut state = self.state.lock();
            state.ended.get_or_insert(reason);
            self.has_ended.store(true, Memory::Release);
            state.anchor.take()
        };
        // Its memory is freed now, also while accesses have references to it.
        if let Some(anchor) = anchor {
            anchor.kill();
        }
    }

    /// Why the space has ended, if it has.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        if !self.context.mark.is_set() {
            return Some(EndReason::RightsLost);
        }
        self.state.lock().ended
    }

    /// Takes the watchers out, to be told of the end. A second call returns none.
    pub(crate) fn take_watchers(&self) -> Vec<Arc<dyn SpaceWatcher>> {
        std::mem::take(&mut self.state.lock().watchers)
            .into_iter()
            .map(|(_, watcher)| watcher)
            .collect()
    }

    fn access<T>(
        &self,
        body: impl FnOnce(&RemoteMemory) -> Result<T, Stopped>,
    ) -> Result<T, Stopped> {
        let ended = |done| Stopped { done, cause: StopCause::Ended };
        let Some(task) = self.access_task() else { return Err(ended(0)) };
        let memory =
            RemoteMemory { tid: self.tid_for_access(&task).ok_or(ended(0))?, proc_tid: task.tid };
        let result = body(&memory);
        if let Err(Stopped { cause: StopCause::Ended, .. }) = result {
            // Somebody has killed the anchor. The monitor tells the watchers.
            self.end(self.reason_of_dead_anchor());
            drop(task);
            self.context.monitor.request();
        }
        result
    }

    /// The task to name in `process_vm` calls.
    #[cfg(not(sva_naive_check))]
    fn tid_for_access(&self, task: &AccessTask) -> Option<Tid> {
        Some(task.tid)
    }

    /// The unsound construction, which a test must detect: it checks that the process still has the
    /// space and then names the process. An exec in between is missed.
    #[cfg(sva_naive_check)]
    fn tid_for_access(&self, task: &AccessTask) -> Option<Tid> {
        let process = self.member.lock().process;
        let same = matches!(sys::compare_spaces(task.tid, process), Ok(Ordering::Equal));
        same.then_some(process)
    }
}

impl AddressSpace for HostSpace {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities { page_faults: true, ..SpaceCapabilities::default() }
    }

    fn ended(&self) -> Option<EndReason> {
        self.end_reason()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        if let Some(reason) = self.end_reason() {
            return Err(SpaceEnded(reason));
        }
        let mut state = self.state.lock();
        if let Some(reason) = state.ended {
            return Err(SpaceEnded(reason));
        }
        state.last_token += 1;
        let token = WatchToken(state.last_token);
        state.watchers.push((token, watcher));
        Ok(token)
    }

    fn unwatch(&self, token: WatchToken) {
        let mut state = self.state.lock();
        let taken = state
            .watchers
            .iter()
            .position(|(known, _)| *known == token)
            .map(|at| state.watchers.swap_remove(at));
        // The watcher, and whatever it owns, is dropped without a lock held.
        drop(state);
        drop(taken);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.access(|memory| access::read(memory, pieces, buf, access))
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.access(|memory| access::write(memory, pieces, data, access))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let translated = self.access(|memory| {
            let translated = access::translate(memory, address, privileged);
            translated.map_err(|cause| Stopped { done: 0, cause })
        });
        translated.map_err(|stopped| stopped.cause)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        let unreadable = &self.context.unreadable;
        let resolved = self.access(|memory| access::resolve(memory, address, access, unreadable));
        resolved.map_err(|stopped| stopped.cause)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        match self.access_task() {
            Some(task) => procfs::mapped_within(task.tid, windows),
            // A space that has ended has no memory.
            None => Ok(Vec::new()),
        }
    }
}

impl fmt::Debug for HostSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSpace")
            .field("id", &self.id)
            .field("anchor", &self.anchor_tid())
            .field("ended", &self.end_reason())
            .finish_non_exhaustive()
    }
}
