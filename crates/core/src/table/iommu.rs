//! The IOMMU: its parts, and the control lock.
//!
//! One *control lock* ([`Inner::state`]) covers all that changes by request: devices, groups,
//! containers, bonds, PASIDs. It is held for short, bounded steps that call nobody but the address
//! space's `watch`, `id`, `ended` and `capabilities`, which are short and call nobody, and never
//! while anything is waited for. The data path does not take it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sva_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use sva_sync::{Condvar, Mutex, MutexGuard, barrier};

use super::fault_target::PageQueue;
use super::log::EventLog;
use super::pasid::PasidAllocator;
use super::records::{DeviceRecord, PasidEntry, RecordHost};
use super::state::{DeferredDrops, State};
#[cfg(not(loom))]
use super::wakeup::WorkerWakeup;
use crate::api::clock::Clock;
use crate::api::config::{IommuConfig, ObjectCounts};
use crate::api::event::{DrainedEvents, Event};
use crate::api::pri::PageResponder;
use crate::api::space::SpaceWatcher;
use crate::api::topology::Topology;
use crate::iotlb::IotlbUsage;
use crate::quiesce::{Countdown, InvalidationHost, callback};
use crate::types::ids::{PasidTag, SpaceId};

/// How often a thread that waits for a device looks for what is overdue.
#[cfg(not(loom))]
pub(crate) const TICK_INTERVAL: Duration = Duration::from_millis(5);

/// A software IOMMU: devices, groups, containers, bonds, PASIDs and domains over one bus. Cheap to
/// clone; all clones are one.
#[derive(Clone)]
pub struct Iommu(pub(super) Arc<Inner>);

pub(crate) struct Inner {
    topology: Arc<dyn Topology>,
    config: IommuConfig,
    state: Mutex<State>,
    /// Signalled, with the control lock, when an entry was retired, a handler returned, or a gate
    /// drained.
    changed: Condvar,
    events: EventLog,
    stale_dropped: AtomicU64,
    clock: Option<Arc<dyn Clock>>,
    /// When somebody looked last for what is overdue: nanoseconds of the clock.
    pub(super) last_tick: AtomicU64,
    /// Devices that an invalidation may have to be sent to.
    pub(super) ats_devices: AtomicUsize,
    pub(super) pages: Mutex<PageQueue>,
    #[cfg(not(loom))]
    pub(super) workers: WorkerWakeup,
    watcher: Arc<dyn SpaceWatcher>,
}

impl Iommu {
    /// An IOMMU without devices. `watcher` makes what the providers hold; it must not keep the
    /// system alive.
    pub(crate) fn with_watcher(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Option<Arc<dyn Clock>>,
        watcher: impl FnOnce(Weak<Inner>) -> Arc<dyn SpaceWatcher>,
    ) -> Self {
        // Here, once in a process: where there are other threads the kernel takes some
        // milliseconds, which no access and no invalidation is to wait for.
        barrier::prepare();
        Self(Arc::new_cyclic(|me| Inner {
            topology,
            config,
            state: Mutex::new(State::new(
                PasidAllocator::new(config.pasid_width),
                config.iotlb_bytes,
                Weak::clone(me) as _,
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

    /// Itself, as groups of page requests are answered by it.
    pub(crate) fn responder(&self) -> Arc<dyn PageResponder> {
        Arc::clone(&self.0) as _
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Itself, as changes of spaces wait for it.
    pub(crate) fn host(&self) -> Arc<dyn InvalidationHost> {
        Arc::clone(&self.0) as _
    }

    /// Whether both are clones of one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The time, where the system has a clock.
    pub(crate) fn now(&self) -> Option<Duration> {
        self.0.clock.as_ref().map(|clock| clock.now())
    }

    /// Its settings.
    pub fn config(&self) -> &IommuConfig {
        &self.0.config
    }

    /// Takes what the event log holds.
    pub fn drain_events(&self) -> DrainedEvents {
        self.0.events.drain()
    }

    /// Calls `notify` after each event that is logged, in place of what was called before: it is to
    /// wake whoever [drains](Self::drain_events) the events.
    ///
    /// It runs on the thread that logs, which may be in the middle of a transaction, with no lock of
    /// the core held. So it must not block; an unbind from inside it is deferred.
    pub fn on_event(&self, notify: impl Fn() + Send + Sync + 'static) {
        let before = self.0.events.set_notify(Some(Arc::new(notify)));
        drop(before);
    }

    /// Counts the objects that there are.
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

    /// How much of the IOTLB is in use; nothing before the first bond of a space that can be
    /// accessed in place. Looks at all of it, so that it takes a while.
    pub fn iotlb_usage(&self) -> IotlbUsage {
        let table = self.lock().iotlb();
        table.map(|table| table.usage()).unwrap_or_default()
    }

    /// Transactions for earlier owners of a PASID that were dropped.
    pub fn stale_dropped(&self) -> u64 {
        self.0.stale_dropped.load(Ordering::Relaxed)
    }

    /// The PASID of a space that has a bond.
    pub fn pasid_of(&self, space: SpaceId) -> Option<PasidTag> {
        self.lock().spaces.get(&space).map(|state| state.record.tag)
    }

    pub(crate) fn topology(&self) -> &dyn Topology {
        &*self.0.topology
    }

    /// What providers hold to tell of changes and of the end.
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
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Releases the control lock and wakes those that wait, where there is something to see.
    pub(crate) fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let wake = std::mem::take(&mut state.has_changed) && state.waiters > 0;
        drop(state);
        if wake {
            self.0.changed.notify_all();
        }
    }

    /// Makes a change under the control lock; what it lets go of is dropped after the lock is
    /// released. Not to be called under the lock.
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

    /// Waits, with the control lock, until `done` holds. Never called from inside a callback.
    pub(crate) fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        debug_assert!(!callback::inside(), "a callback must not wait");
        let mut state = self.lock();
        state.waiters += 1;
        while !done(&mut state) {
            state = self.wait_for_change(state);
        }
        state.waiters -= 1;
    }

    /// Waits for a change; where a device may owe an answer and there is a clock, also looks for
    /// what is overdue.
    fn wait_for_change<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        #[cfg(not(loom))]
        if self.0.clock.is_some() && self.0.ats_devices.load(Ordering::Relaxed) > 0 {
            let (state, timed_out) = self.0.changed.wait_timeout(state, TICK_INTERVAL);
            if !timed_out && !self.is_tick_due() {
                return state;
            }
            drop(state);
            self.tick();
            return self.lock();
        }
        self.0.changed.wait(state)
    }

    /// Something that somebody may wait for has changed, such as a gate that has drained.
    pub(crate) fn wake_waiters(&self) {
        let mut state = self.lock();
        state.has_changed = true;
        self.unlock(state);
    }
}

impl RecordHost for Inner {
    fn remove_entry(self: Arc<Self>, entry: &Arc<PasidEntry>) {
        Iommu(self).with_state(|state, drops| state.remove_entry(entry, drops));
    }
}

impl InvalidationHost for Inner {
    fn wake(self: Arc<Self>) {
        Iommu(self).wake_waiters();
    }

    /// Also from inside a callback: devices and pins are no callbacks.
    fn wait_for(self: Arc<Self>, left: &Countdown) {
        let iommu = Iommu(self);
        let mut state = iommu.lock();
        state.waiters += 1;
        while !left.is_over() {
            state = iommu.wait_for_change(state);
        }
        state.waiters -= 1;
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object_counts().fmt(f)
    }
}
