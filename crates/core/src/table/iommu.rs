//! The IOMMU: its parts, and the control lock.
//!
//! The *control lock* ([`Inner::state`]) covers everything that operations change: devices, groups,
//! containers, bonds, PASIDs. It is held for short, bounded steps. Under it, no foreign code is
//! called. No thread waits while it holds the lock, except on [`Inner::changed`], which
//! releases it. Accesses do not take it.
//!
//! Lock order: the control lock, then the `invalidations` of a device, then its `endpoint`, then
//! the lock of the page requests; under that, the locks of PASID tables and domain slots. No lock
//! is taken under one of these others: the ATS device of a requester, routing, models, fault times,
//! the lists of readers and of pins, pin slots, the event log. In the IOTLB the list of a space
//! comes before a stripe of the table.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

use sva_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use sva_sync::{Condvar, Mutex, barrier};

use super::log::EventLog;
use super::page_target::PageQueue;
use super::pasid::PasidAllocator;
use super::records::{DeviceRecord, IommuHandle, PasidEntry};
use super::state::{DeferredDrops, State};
use super::state_guard::StateGuard;
#[cfg(not(loom))]
use super::wakeup::WorkerWakeup;
use crate::api::clock::Clock;
use crate::api::config::{IommuConfig, ObjectCounts};
use crate::api::event::{DrainedEvents, Event};
use crate::api::pri::PageResponder;
use crate::api::space::SpaceWatcher;
use crate::api::topology::Topology;
use crate::iotlb::IotlbUsage;
use crate::quiesce::{Countdown, WaitQueue, callback};
use crate::types::ids::{PasidTag, SpaceId};

/// The interval at which a thread that waits for a device looks for overdue invalidations and
/// responses.
#[cfg(not(loom))]
pub(crate) const TICK_INTERVAL: Duration = Duration::from_millis(5);

/// How long a thread waits before it logs the pins that it may be waiting for.
#[cfg(not(loom))]
const PATIENCE: Duration = Duration::from_secs(1);

/// A software IOMMU over one bus: devices, groups, containers, bonds, PASIDs and domains. A clone
/// is cheap and refers to the same IOMMU. All methods can be called from any thread.
#[derive(Clone)]
pub struct Iommu(pub(super) Arc<Inner>);

/// The state that all clones of an [`Iommu`] share.
pub(crate) struct Inner {
    topology: Arc<dyn Topology>,
    config: IommuConfig,
    state: Mutex<State>,
    /// Used with the control lock. Signalled when anything has changed that a thread may wait for.
    changed: Condvar,
    events: EventLog,
    stale_dropped: AtomicU64,
    clock: Option<Arc<dyn Clock>>,
    /// The time of the last [`tick`](Iommu::tick), in nanoseconds of the clock.
    pub(super) last_tick: AtomicU64,
    /// The number of devices that invalidations may have to be sent to.
    pub(super) ats_devices: AtomicUsize,
    pub(super) pages: Mutex<PageQueue>,
    #[cfg(not(loom))]
    pub(super) workers: WorkerWakeup,
    watcher: Arc<dyn SpaceWatcher>,
}

impl Iommu {
    /// Makes an IOMMU without devices, for the public constructors (`control::watcher`). `watcher`
    /// makes the watcher that providers hold; it must not keep the IOMMU alive.
    pub(crate) fn with_watcher(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Option<Arc<dyn Clock>>,
        watcher: impl FnOnce(Weak<Inner>) -> Arc<dyn SpaceWatcher>,
    ) -> Self {
        // Here, once in a process: in a process with other threads the kernel takes some
        // milliseconds for it, which no access and no invalidation should wait for.
        barrier::prepare();
        Self(Arc::new_cyclic(|me| Inner {
            topology,
            config,
            state: Mutex::new(State::new(
                PasidAllocator::new(config.pasid_width),
                config.iotlb_bytes,
            )),
            changed: Condvar::new(),
            events: EventLog::new(config.event_capacity),
            stale_dropped: AtomicU64::new(0),
            clock,
            last_tick: AtomicU64::new(0),
            ats_devices: AtomicUsize::new(0),
            pages: Mutex::new(PageQueue::new(config.page_queue)),
            #[cfg(not(loom))]
            workers: WorkerWakeup::default(),
            watcher: watcher(Weak::clone(me)),
        }))
    }

    pub(crate) fn upgrade(inner: &Weak<Inner>) -> Option<Self> {
        inner.upgrade().map(Self)
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// The IOMMU as the responder to page request groups.
    pub(crate) fn responder(&self) -> Arc<dyn PageResponder> {
        Arc::clone(&self.0) as _
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// The wait queue of the threads that wait for a change.
    pub(crate) fn wait_queue(&self) -> Arc<dyn WaitQueue> {
        Arc::clone(&self.0) as _
    }

    /// Whether both are clones of one IOMMU.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The current time; `None` without a clock.
    pub(crate) fn now(&self) -> Option<Duration> {
        self.0.clock.as_ref().map(|clock| clock.now())
    }

    /// The settings that the IOMMU was made with.
    pub fn config(&self) -> &IommuConfig {
        &self.0.config
    }

    /// Removes and returns all events in the event log.
    pub fn drain_events(&self) -> DrainedEvents {
        self.0.events.drain()
    }

    /// Sets the function that is called after each event that is logged, in place of the previous
    /// one. It is meant to wake the thread that [drains](Self::drain_events) the events.
    ///
    /// It runs on the thread that logs, possibly in the middle of a transaction, with no lock of
    /// the core held. It must not block. An unbind from inside it is deferred.
    pub fn on_event(&self, notify: impl Fn() + Send + Sync + 'static) {
        let before = self.0.events.set_notify(Some(Arc::new(notify)));
        drop(before);
    }

    /// Counts the objects of the IOMMU. Takes the control lock.
    pub fn object_counts(&self) -> ObjectCounts {
        let (page_requests, page_groups) = self.0.pages.lock().outstanding();
        let state = self.lock();
        let devices: Vec<_> =
            state.devices.values().map(|device| device.services.outstanding()).collect();
        ObjectCounts {
            devices: state.devices.len(),
            groups: state.groups.len(),
            containers: state.containers.len(),
            bonds: state.live_bonds(),
            spaces: state.spaces.len(),
            pasids: state.pasids.in_use(),
            page_requests,
            page_groups,
            invalidations: devices.iter().map(|(invalidations, _)| invalidations).sum(),
            device_work: devices.iter().map(|(_, own)| own).sum(),
        }
    }

    /// The usage of the IOTLB; empty before the first bond of a space that can be accessed in
    /// place. Reads the whole table, which takes time in proportion to its size.
    pub fn iotlb_usage(&self) -> IotlbUsage {
        let table = self.lock().iotlb();
        table.map(|table| table.usage()).unwrap_or_default()
    }

    /// The number of transactions that were aborted because they were for an owner of a PASID that
    /// has been unbound or is being unbound.
    pub fn stale_dropped(&self) -> u64 {
        self.0.stale_dropped.load(Ordering::Relaxed)
    }

    /// The PASID of a space, if the space has a bond.
    pub fn pasid_of(&self, space: SpaceId) -> Option<PasidTag> {
        self.lock().spaces.get(&space).map(|state| state.record.tag)
    }

    pub(crate) fn topology(&self) -> &dyn Topology {
        &*self.0.topology
    }

    /// The watcher that providers hold, by which they report changes and ends of spaces.
    pub(crate) fn watcher(&self) -> Arc<dyn SpaceWatcher> {
        Arc::clone(&self.0.watcher)
    }

    pub(crate) fn log(&self, event: Event) {
        self.0.events.push(event);
    }

    pub(crate) fn count_stale(&self, device: &DeviceRecord, tag: PasidTag) {
        self.0.stale_dropped.fetch_add(1, Ordering::Relaxed);
        self.log(Event::StaleDropped { device: device.bdf(), tag });
    }

    /// Takes the control lock.
    pub(crate) fn lock(&self) -> StateGuard<'_> {
        StateGuard::lock(&self.0.state)
    }

    /// Releases the control lock, and wakes the waiting threads if something has changed.
    pub(crate) fn unlock(&self, mut state: StateGuard<'_>) {
        let wake = std::mem::take(&mut state.has_changed) && state.waiting_threads > 0;
        drop(state);
        if wake {
            self.0.changed.notify_all();
        }
    }

    /// Makes a change under the control lock. What the change puts into `DeferredDrops` is dropped
    /// after the lock is released. The caller must not hold the lock.
    pub(crate) fn with_state<R>(
        &self,
        change: impl FnOnce(&mut State, &mut DeferredDrops) -> R,
    ) -> R {
        let mut drops = DeferredDrops::default();
        let mut state = self.lock();
        let result = change(&mut state, &mut drops);
        self.unlock(state);
        result
    }

    /// Waits until `done`, which is called under the control lock, returns true. Must not be called
    /// inside a callback.
    pub(crate) fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        debug_assert!(!callback::inside(), "a callback must not wait");
        self.wait_while(|state| !done(state));
    }

    /// Waits as long as `waits`, which is called under the control lock, returns true. After some
    /// time it logs the pins that there are, since a thread can have forgotten one.
    fn wait_while(&self, mut waits: impl FnMut(&mut State) -> bool) {
        let mut state = self.lock();
        state.waiting_threads += 1;
        #[cfg(not(loom))]
        let (mut begun, mut is_logged) = (None, false);
        while waits(&mut state) {
            #[cfg(not(loom))]
            if begun.get_or_insert_with(Instant::now).elapsed() >= PATIENCE && !is_logged {
                is_logged = true;
                state = self.log_pins(state);
                continue;
            }
            state = self.wait_for_change(state);
        }
        state.waiting_threads -= 1;
    }

    /// Waits for a change. If a device may owe a completion and there is a clock, also looks for
    /// overdue invalidations.
    #[cfg(not(loom))]
    fn wait_for_change<'a>(&'a self, state: StateGuard<'a>) -> StateGuard<'a> {
        if self.0.clock.is_none() || self.0.ats_devices.load(Ordering::Relaxed) == 0 {
            return state.wait_timeout(&self.0.changed, PATIENCE).0;
        }
        let (state, timed_out) = state.wait_timeout(&self.0.changed, TICK_INTERVAL);
        if !timed_out && !self.is_tick_due() {
            return state;
        }
        drop(state);
        self.tick();
        self.lock()
    }

    #[cfg(loom)]
    fn wait_for_change<'a>(&'a self, state: StateGuard<'a>) -> StateGuard<'a> {
        state.wait(&self.0.changed)
    }

    /// Logs the pins of all spaces that have a bond. Releases the lock meanwhile.
    #[cfg(not(loom))]
    fn log_pins<'a>(&'a self, state: StateGuard<'a>) -> StateGuard<'a> {
        let records: Vec<_> =
            state.spaces.values().map(|space| Arc::clone(&space.record)).collect();
        drop(state);
        for record in records {
            let pins = record.iotlb.as_ref().map(|iotlb| {
                let users = iotlb.users();
                users.pins.pinned_of(users.owner())
            });
            for (requester, range) in pins.into_iter().flatten() {
                let pasid = record.tag.pasid;
                self.log(Event::PinOutstanding { requester, pasid, range });
            }
        }
        self.lock()
    }

    /// Wakes the waiting threads after a change outside the control lock, such as the drain of a
    /// gate.
    pub(crate) fn wake_threads(&self) {
        let mut state = self.lock();
        state.has_changed = true;
        self.unlock(state);
    }
}

impl IommuHandle for Inner {
    fn remove_entry(self: Arc<Self>, entry: &Arc<PasidEntry>) {
        Iommu(self).with_state(|state, drops| state.remove_entry(entry, drops));
    }
}

impl WaitQueue for Inner {
    fn wake(self: Arc<Self>) {
        Iommu(self).wake_threads();
    }

    /// Allowed inside a callback too: neither the completion of a device nor an unpin of another
    /// thread needs this thread to return, and pins of this thread are not among those it waits
    /// for.
    fn wait_for(self: Arc<Self>, left: &Countdown) {
        Iommu(self).wait_while(|_| !left.is_over());
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object_counts().fmt(f)
    }
}
