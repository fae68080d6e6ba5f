//! The IOMMU: who owns what, and every operation on it.
//!
//! One *control lock* ([`Inner::state`]) covers all that changes by request: devices, groups,
//! containers, bonds, PASIDs. It is held for short, bounded steps that call nobody but the address
//! space's `watch`, `id`, `ended` and `capabilities`, which are short and call nobody, and never
//! while anything is waited for. The data path does not take it: a port goes from its device to the
//! PASID table or the domain, each behind a reader's lock of its own, and through
//! [gates](crate::gate) that unbind, unmap and removal close.

#[cfg(not(loom))]
mod attendance;
mod bind;
mod blocking;
mod container;
mod hotplug;
pub(crate) mod inside;
mod invalidate;
mod leave;
mod map;
mod owners;
pub(crate) mod pages;
pub(crate) mod parts;
pub(crate) mod services;
pub(crate) mod state;
mod translate;
mod unbind;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use bind::GroupInfo;
pub use blocking::Reset;
pub use container::{Container, ContainerBound, Joined};
pub use hotplug::{NotJoined, Plug, Plugged, Removal, Removing};
pub use leave::Leaving;
pub use map::{Mapped, Unmapped};
pub use owners::HandlerRegistration;
pub use pages::PageWork;

use crate::callback;
use crate::clock::Clock;
use crate::event::{Drained, Event, EventLog};
use crate::ids::{PasidTag, PasidWidth, SpaceId};
use crate::invalidation::{Countdown, Invalidation};
use crate::iotlb::IotlbUsage;
use crate::mutation;
use crate::pasid::PasidAllocator;
use crate::pri::queue::PageRequests;
use crate::range::AddrRange;
use crate::space::{EndReason, ExitWork, SpaceWatcher};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, barrier};
use crate::topology::Topology;
#[cfg(not(loom))]
use attendance::Attendance;
use parts::{Attachment, DeviceInner};
use state::{Aftermath, State};

/// How often whoever waits for a device looks for what is overdue.
#[cfg(not(loom))]
pub(crate) const OVERDUE_EVERY: Duration = Duration::from_millis(5);

/// Settings of an [`Iommu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IommuConfig {
    /// PASID bits that the IOMMU implements.
    pub pasid_width: PasidWidth,
    /// IOVA bits: mappings end below 2^this. 1..=64.
    pub address_width: u8,
    /// Mappings that one domain may hold.
    pub max_mappings: usize,
    /// Events that the log keeps.
    pub event_capacity: usize,
    /// Page requests that the queue holds before they are sorted.
    pub page_queue: usize,
    /// Outstanding page requests that one device is allocated at the most, whatever its capacity:
    /// a share of the queue, so that one device does not fill it.
    pub page_requests_each: u32,
    /// Translations that the cache of one device holds.
    pub atc_entries: usize,
    /// Translation requests that one device may have outstanding: asked, and their answer neither
    /// collected nor given up. At least one.
    pub translation_requests_each: usize,
    /// Bytes that the translation cache of the IOMMU (IOTLB) takes, for all spaces that can be
    /// accessed in place, with the first bond of such a space; rounded down to a power of two. It
    /// holds a translation for each 48 of them, and more with some luck.
    pub iotlb_bytes: usize,
    /// For how long the completion of an invalidation is awaited, each time. Hardware may take a
    /// minute (PCIe 6.0, section 10.3.1); needs a clock.
    pub invalidation_limit: Duration,
    /// How often an invalidation is sent before the device is cut off: 1 or more.
    pub invalidation_tries: u8,
    /// For how long a device awaits the response to a group of page requests; needs a clock.
    pub response_limit: Duration,
}

impl Default for IommuConfig {
    /// 20 PASID bits, 48 IOVA bits, 65,535 mappings a domain, 1,024 events, 4,096 page requests of
    /// which a device has 512, 1,024 translations and 1,024 translation requests a device, 4 MiB
    /// for the IOTLB; an invalidation is awaited for a second and sent twice, a response for
    /// ten seconds.
    fn default() -> Self {
        Self {
            pasid_width: PasidWidth::MAX,
            address_width: 48,
            max_mappings: 65_535,
            event_capacity: 1024,
            page_queue: 4096,
            page_requests_each: 512,
            atc_entries: 1024,
            translation_requests_each: 1024,
            iotlb_bytes: 4 << 20,
            invalidation_limit: Duration::from_secs(1),
            invalidation_tries: 2,
            response_limit: Duration::from_secs(10),
        }
    }
}

/// Counts of what is alive; all are zero in a system that has been taken down without a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Census {
    /// Devices plugged in.
    pub devices: usize,
    /// Groups.
    pub groups: usize,
    /// Containers.
    pub containers: usize,
    /// Bonds, those included that are being unbound.
    pub bonds: usize,
    /// Address spaces with at least one bond.
    pub spaces: usize,
    /// PASIDs in use.
    pub pasids: u32,
    /// Page requests that are queued or belong to a group that is not complete.
    pub page_requests: usize,
    /// Groups of page requests that are not answered.
    pub page_groups: usize,
    /// Invalidations that a device has not completed.
    pub invalidations: usize,
    /// What devices have under way themselves: translation requests, translated requests, groups
    /// that they wait for.
    pub device_work: usize,
}

/// A software IOMMU: devices, groups, containers, bonds, PASIDs and domains over one bus. Cheap to
/// clone; all clones are one.
#[derive(Clone)]
pub struct Iommu(Arc<Inner>);

pub(crate) struct Inner {
    topology: Arc<dyn Topology>,
    config: IommuConfig,
    state: Mutex<State>,
    /// Signalled, with the control lock, when an attachment was retired, a handler returned, or a
    /// gate drained.
    changed: Condvar,
    events: EventLog,
    stale_dropped: AtomicU64,
    clock: Option<Arc<dyn Clock>>,
    /// When somebody looked last for what is overdue: nanoseconds of the clock.
    ticked: AtomicU64,
    /// Devices that an invalidation may have to be sent to.
    translating: AtomicUsize,
    pages: Mutex<PageRequests>,
    #[cfg(not(loom))]
    attendance: Attendance,
    watcher: Arc<Watcher>,
}

/// What providers hold: it does not keep the system alive.
struct Watcher(Weak<Inner>);

impl SpaceWatcher for Watcher {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        self.0
            .upgrade()
            .map_or_else(ExitWork::none, |inner| Iommu(inner).space_ended(space, reason))
    }

    fn invalidate(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        self.0
            .upgrade()
            .map_or_else(Invalidation::none, |inner| Iommu(inner).invalidate_space(space, range))
    }
}

impl Iommu {
    /// An IOMMU without devices over `topology`. It has no clock: nothing times out, and the times
    /// of faults are not kept.
    pub fn new(topology: Arc<dyn Topology>, config: IommuConfig) -> Self {
        Self::make(topology, config, None)
    }

    /// As [`new`](Self::new), with a clock.
    pub fn with_clock(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::make(topology, config, Some(clock))
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    fn make(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Option<Arc<dyn Clock>>,
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
            )),
            changed: Condvar::new(),
            events: EventLog::new(config.event_capacity),
            stale_dropped: AtomicU64::new(0),
            clock,
            ticked: AtomicU64::new(0),
            translating: AtomicUsize::new(0),
            pages: Mutex::new(PageRequests::new(config.page_queue)),
            #[cfg(not(loom))]
            attendance: Attendance::default(),
            watcher: Arc::new(Watcher(Weak::clone(me))),
        }))
    }

    /// Whether both are clones of one.
    pub(crate) fn same(&self, other: &Self) -> bool {
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
    pub fn drain_events(&self) -> Drained {
        self.0.events.drain()
    }

    /// Counts what is alive.
    pub fn census(&self) -> Census {
        let (page_requests, page_groups) = self.0.pages.lock().under_way();
        let state = self.lock();
        let devices: Vec<_> =
            state.devices.values().map(|device| device.services.under_way()).collect();
        Census {
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

    /// How much of the translation cache is in use; nothing before the first bond of a space that
    /// can be accessed in place. Looks at all of it, so that it takes a while.
    pub fn iotlb_usage(&self) -> IotlbUsage {
        let table = self.lock().iotlb();
        table.map(|table| table.usage()).unwrap_or_default()
    }

    /// Transactions for earlier owners of a PASID that were dropped (rule U6).
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

    pub(crate) fn log(&self, event: Event) {
        self.0.events.push(event);
    }

    pub(crate) fn count_stale(&self, device: &DeviceInner, tag: PasidTag) {
        self.0.stale_dropped.fetch_add(1, Ordering::Relaxed);
        self.log(Event::StaleDropped { device: device.bdf(), tag });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Releases the control lock and wakes those that wait, where there is something to see.
    fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let wake = std::mem::take(&mut state.news) && state.waiters > 0;
        drop(state);
        if wake {
            self.0.changed.notify_all();
        }
    }

    /// Waits, with the control lock, until `done` holds. Never called from inside a callback (rule
    /// U3).
    fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        debug_assert!(!callback::inside(), "a callback must not wait");
        let mut state = self.lock();
        state.waiters += 1;
        while !done(&mut state) {
            state = self.wait_a_moment(state);
        }
        state.waiters -= 1;
    }

    /// Waits for news; where a device may owe an answer and there is a clock, also looks for what
    /// is overdue.
    fn wait_a_moment<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if mutation::is_on(23) {
            // Whoever would finish what is waited for needs the lock.
            std::thread::yield_now();
            return state;
        }
        #[cfg(not(loom))]
        if self.0.clock.is_some() && self.0.translating.load(Ordering::Relaxed) > 0 {
            let (state, timed_out) = self.0.changed.wait_timeout(state, OVERDUE_EVERY);
            if !timed_out && !self.is_tick_due() {
                return state;
            }
            drop(state);
            self.tick();
            return self.lock();
        }
        self.0.changed.wait(state)
    }

    /// Whether it is time to look for what is overdue, in a wait that ended with news before its
    /// limit. Where news come all the time, no wait ever reaches its limit.
    #[cfg(not(loom))]
    pub(crate) fn is_tick_due(&self) -> bool {
        let limit = OVERDUE_EVERY.as_nanos() as u64;
        self.now().is_some_and(|now| {
            (now.as_nanos() as u64).saturating_sub(self.0.ticked.load(Ordering::Relaxed)) >= limit
        })
    }

    /// Waits until devices have answered. Also from inside a callback: what is waited for is no
    /// callback.
    pub(crate) fn wait_for_devices(&self, left: &Countdown) {
        let mut state = self.lock();
        state.waiters += 1;
        while !left.is_over() {
            state = self.wait_a_moment(state);
        }
        state.waiters -= 1;
    }

    /// Nothing is left of an attachment whose gate is closed.
    pub(crate) fn retire(&self, attachment: &Arc<Attachment>) {
        let mut after = Aftermath::default();
        let mut state = self.lock();
        state.retire(attachment, &mut after);
        self.unlock(state);
    }

    /// Closes an attachment: no access starts through it any more, its device forgets, its page
    /// requests are drained. Answers how many accesses were in flight and how many groups
    /// of page requests were answered.
    fn close(&self, attachment: &Arc<Attachment>) -> (usize, usize) {
        if mutation::is_on(8) {
            // Cleared while it is present.
            self.retire(attachment);
        }
        let Some(inside) = attachment.gate.close() else { return (0, 0) };
        let in_hand = attachment.await_hits();
        let answered = self.flush(attachment);
        if inside == 0 {
            self.attachment_step(attachment);
        }
        (inside + in_hand, answered)
    }

    /// A gate without a follow-up has been drained: whoever waits for it looks again.
    pub(crate) fn gate_drained(&self) {
        let mut state = self.lock();
        state.news = true;
        self.unlock(state);
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.census().fmt(f)
    }
}
