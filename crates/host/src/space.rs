//! [`HostSpace`]: a live process's memory as an [`AddressSpace`].

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sva_core::sync::Mutex;
use sva_core::{
    AccessMode, AddrRange, AddressSpace, EndReason, HostFailure, Segment, SpaceCapabilities,
    SpaceEnded, SpaceId, SpaceWatcher, StopCause, Stopped, Translation, WatchToken,
};

use crate::access::{self, Remote};
use crate::anchor::Made;
use crate::gate::Gate;
use crate::mapping;
use crate::procfs;
use crate::provider::{self, Provider};
use crate::regions::{self, Region, RegionsError};
use crate::sys::{self, Tid};

/// The address space of a live process, or of our own.
///
/// Made by [`attach`](crate::attach). All handles of one address space are one object. The space is
/// watched, and the anchor kept, as long as a handle exists.
pub struct HostSpace {
    id: SpaceId,
    provider: &'static Provider,
    /// The anchor; none for our own memory, which no exec can replace under our feet.
    anchor: Option<Tid>,
    gate: Gate,
    stopped: Duration,
    state: Mutex<State>,
    /// The task that was last seen in the space.
    member: Mutex<Member>,
}

#[derive(Default)]
struct State {
    ended: Option<EndReason>,
    watchers: Vec<(WatchToken, Arc<dyn SpaceWatcher>)>,
    last_token: u64,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    tid: Tid,
    process: Tid,
    /// Of the process; `None` where it has gone already.
    start_time: Option<u64>,
}

impl Member {
    fn new(tid: Tid, process: Tid) -> Self {
        Self { tid, process, start_time: procfs::start_time(process).ok() }
    }

    /// Whether the process runs still, with whatever image.
    fn runs(&self) -> bool {
        self.start_time.is_some()
            && procfs::start_time(self.process).ok() == self.start_time
            && procfs::status(self.process).is_ok_and(|status| !status.is_dead())
    }
}

/// How a space is doing, as the monitor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// A task is in it.
    Lives,
    /// The last known task has left it.
    Suspect,
    /// It has ended.
    Over(EndReason),
}

/// Somebody who is inside the gate: the number stays the anchor's.
struct Inside<'a> {
    space: &'a HostSpace,
    tid: Tid,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.space.gate.leave() {
            self.space.let_go();
        }
    }
}

impl HostSpace {
    pub(crate) fn foreign(
        provider: &'static Provider,
        made: &Made,
        (tid, process): (Tid, Tid),
    ) -> Self {
        Self::new(provider, Some(made.anchor), made.stopped, Member::new(tid, process))
    }

    pub(crate) fn own(provider: &'static Provider) -> Self {
        let process = std::process::id() as Tid;
        Self::new(provider, None, Duration::ZERO, Member::new(process, process))
    }

    fn new(
        provider: &'static Provider,
        anchor: Option<Tid>,
        stopped: Duration,
        member: Member,
    ) -> Self {
        let (state, member) = (Mutex::new(State::default()), Mutex::new(member));
        Self {
            id: SpaceId::unique(),
            provider,
            anchor,
            gate: Gate::default(),
            stopped,
            state,
            member,
        }
    }

    /// For how long a thread of the process was stopped to attach it; zero for our own process.
    pub fn stop_time(&self) -> Duration {
        self.stopped
    }

    /// The mappings of the space at the moment, sorted by address.
    ///
    /// # Errors
    /// The space has ended, or the machine below failed.
    pub fn regions(&self) -> Result<Vec<Region>, RegionsError> {
        let inside = self.enter().ok_or(RegionsError::Ended)?;
        regions::detailed(inside.tid).map_err(|source| {
            RegionsError::Host(HostFailure { call: "read /proc/PID/smaps", source })
        })
    }

    /// [`AddressSpace::id`], where the trait is not in scope.
    pub(crate) fn id_number(&self) -> SpaceId {
        self.id
    }

    fn enter(&self) -> Option<Inside<'_>> {
        if !self.provider.is_ours() || !self.gate.enter() {
            return None;
        }
        Some(Inside { space: self, tid: self.anchor.unwrap_or_else(provider::gettid) })
    }

    /// Gives the anchor up, once: everybody has left the closed gate.
    fn let_go(&self) {
        if let Some(anchor) = self.anchor {
            self.provider.keeper.collect(anchor);
        }
    }

    /// The kernel's order of this space and that of task `tid`; `None` where this one is dead or
    /// out of reach.
    pub(crate) fn order(&self, tid: Tid) -> io::Result<Option<Ordering>> {
        let Some(inside) = self.enter() else { return Ok(None) };
        let order = sys::compare_spaces(inside.tid, tid);
        // Without memory the anchor would compare equal to everything that has none.
        if !self.anchor_lives(&inside) {
            return Ok(None);
        }
        match order {
            Ok(order) => Ok(Some(order)),
            Err(_) if sys::compare_spaces(inside.tid, inside.tid).is_err() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the anchor is there to be compared with.
    pub(crate) fn is_in_order(&self) -> bool {
        self.enter().is_some_and(|inside| self.anchor_lives(&inside))
    }

    /// The anchor's number; it is the anchor's as long as that lives.
    pub(crate) fn anchor(&self) -> Option<Tid> {
        self.anchor
    }

    /// See [`procfs::code_pages`].
    pub(crate) fn code_pages(&self) -> Option<u64> {
        procfs::code_pages(self.enter()?.tid).ok()
    }

    /// The kernel's order of this space and that of task `tid`: a guess where this one's anchor is
    /// dead.
    pub(crate) fn compare(&self, tid: Tid) -> Ordering {
        let order = self.enter().and_then(|inside| sys::compare_spaces(inside.tid, tid).ok());
        order.unwrap_or(Ordering::Less)
    }

    /// An anchor that dies gives up its memory before it counts as dead; tearing down a large one
    /// can take seconds.
    fn anchor_lives(&self, inside: &Inside<'_>) -> bool {
        self.anchor.is_none() || sys::is_alive(inside.tid) && sys::has_memory(inside.tid)
    }

    pub(crate) fn health(&self) -> Health {
        if let Some(reason) = self.ended_as() {
            return Health::Over(reason);
        }
        let member = *self.member.lock();
        match self.order(member.tid) {
            Ok(Some(Ordering::Equal)) => Health::Lives,
            Ok(Some(_)) => Health::Suspect,
            // The task itself is out of sight: gone, or with an image that is not ours to see.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {
                Health::Suspect
            }
            // The kernel had no time for an answer; the next tick asks again.
            Err(_) => Health::Lives,
            Ok(None) => Health::Over(self.reason_of_loss()),
        }
    }

    /// The anchor is dead or out of reach.
    fn reason_of_loss(&self) -> EndReason {
        if self.member.lock().runs() { EndReason::RightsLost } else { EndReason::Exited }
    }

    /// No task is left in the space.
    pub(crate) fn reason_of_leave(&self) -> EndReason {
        if self.member.lock().runs() { EndReason::Execed } else { EndReason::Exited }
    }

    /// The process of the task that was last seen in the space.
    pub(crate) fn process(&self) -> Tid {
        self.member.lock().process
    }

    pub(crate) fn set_member(&self, tid: Tid) {
        let process = procfs::status(tid).map_or(tid, |status| status.tgid);
        *self.member.lock() = Member::new(tid, process);
    }

    /// Ends the space: no access begins from here on, and the anchor dies. Watchers are told by the
    /// monitor.
    pub(crate) fn declare(&self, reason: EndReason) {
        let inside = self.enter();
        {
            // Whoever sees the end finds the gate closed.
            let mut state = self.state.lock();
            state.ended.get_or_insert(reason);
            let alone = self.gate.close();
            debug_assert!(!alone || inside.is_none(), "we are inside");
        }
        if let Some(inside) = inside
            && self.anchor.is_some()
        {
            // The number is ours as long as we are inside; the memory need not wait for those who
            // are inside with us.
            let _ = sys::kill(inside.tid);
        }
    }

    pub(crate) fn ended_as(&self) -> Option<EndReason> {
        if !self.provider.is_ours() {
            return Some(EndReason::RightsLost);
        }
        self.state.lock().ended
    }

    /// The watchers, to be told of the end; none the second time.
    pub(crate) fn take_watchers(&self) -> Vec<Arc<dyn SpaceWatcher>> {
        std::mem::take(&mut self.state.lock().watchers)
            .into_iter()
            .map(|(_, watcher)| watcher)
            .collect()
    }

    fn access<T>(&self, body: impl FnOnce(&Remote) -> Result<T, Stopped>) -> Result<T, Stopped> {
        let ended = |done| Stopped { done, cause: StopCause::Ended };
        let Some(inside) = self.enter() else { return Err(ended(0)) };
        let remote = Remote {
            tid: self.number_for_access(&inside).ok_or(ended(0))?,
            proc_number: inside.tid,
        };
        let result = body(&remote);
        if let Err(Stopped { cause: StopCause::Ended, .. }) = result {
            // Somebody has killed the anchor. The monitor tells the watchers.
            self.declare(self.reason_of_loss());
            drop(inside);
            self.provider.hurry();
        }
        result
    }

    /// The task to be named in `process_vm` calls.
    #[cfg(not(sva_naive_check))]
    fn number_for_access(&self, inside: &Inside<'_>) -> Option<Tid> {
        Some(inside.tid)
    }

    /// The unsound construction that tests are to find: checks that the process has the space
    /// still, then names the process. An exec in between is missed.
    #[cfg(sva_naive_check)]
    fn number_for_access(&self, inside: &Inside<'_>) -> Option<Tid> {
        let process = self.member.lock().process;
        let same = matches!(sys::compare_spaces(inside.tid, process), Ok(Ordering::Equal));
        same.then_some(process)
    }
}

impl Drop for HostSpace {
    fn drop(&mut self) {
        // In a child made by fork the anchor is not ours to kill.
        if !self.provider.is_ours() {
            return;
        }
        if self.anchor.is_some() {
            self.provider.forget(self.id);
        }
        if self.gate.close() {
            self.let_go();
        }
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
        self.ended_as()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        if let Some(reason) = self.ended_as() {
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
        // What the watcher owns is dropped with no lock held.
        drop(state);
        drop(taken);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), Stopped> {
        self.access(|remote| access::read(remote, pieces, buf, mode))
    }

    fn write(&self, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), Stopped> {
        self.access(|remote| access::write(remote, pieces, data, mode))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let translated = self.access(|remote| {
            let translated = mapping::translate(remote.proc_number, address, privileged);
            translated.map_err(|cause| Stopped { done: 0, cause })
        });
        translated.map_err(|stopped| stopped.cause)
    }

    fn resolve(&self, address: u64, mode: AccessMode) -> Result<(), StopCause> {
        let resolved =
            self.access(|remote| access::resolve(remote, address, mode, &self.provider.unreadable));
        resolved.map_err(|stopped| stopped.cause)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        match self.enter() {
            Some(inside) => mapping::mapped_within(inside.tid, windows),
            // What has ended has no memory.
            None => Ok(Vec::new()),
        }
    }
}

impl fmt::Debug for HostSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSpace")
            .field("id", &self.id)
            .field("anchor", &self.anchor)
            .field("ended", &self.ended_as())
            .finish_non_exhaustive()
    }
}
