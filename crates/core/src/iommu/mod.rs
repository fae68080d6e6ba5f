//! The IOMMU: who owns what, and every operation on it.
//!
//! One *control lock* ([`Inner::state`]) covers all that changes by request: devices, groups, containers, bonds, PASIDs. It is held for short, bounded steps that call nobody but
//! the address space's `watch`, `id`, `ended` and `capabilities`, which are short and call nobody, and never while anything is waited for. The data path does not take it: a port goes from its device to the PASID
//! table or the domain, each behind a reader's lock of its own, and through [gates](crate::gate) that unbind, unmap and removal close.

mod bind;
mod container;
mod hotplug;
mod map;
pub(crate) mod parts;
pub(crate) mod state;
mod unbind;

use std::fmt;
use std::sync::{Arc, Weak};

pub use bind::GroupInfo;
pub use container::{Container, ContainerBound, Joined};
pub use hotplug::{NotJoined, Plugged, Removal};
pub use map::{Mapped, Unmapped};

use crate::callback;
use crate::event::{Drained, Event, EventLog};
use crate::ids::{PasidTag, PasidWidth, SpaceId};
use crate::invalidation::Countdown;
use crate::mutation;
use crate::pasid::PasidAllocator;
use crate::space::{EndReason, ExitWork, SpaceWatcher};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::topology::Topology;
use parts::{Attachment, DeviceInner};
use state::{Aftermath, State};

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
}

impl Default for IommuConfig {
    /// 20 PASID bits, 48 IOVA bits, 65,535 mappings a domain, 1,024 events.
    fn default() -> Self {
        Self { pasid_width: PasidWidth::MAX, address_width: 48, max_mappings: 65_535, event_capacity: 1024 }
    }
}

/// Counts of what is alive; all are zero in a system that has been taken down without a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
}

/// A software IOMMU: devices, groups, containers, bonds, PASIDs and domains over one bus. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Iommu(Arc<Inner>);

pub(crate) struct Inner {
    topology: Arc<dyn Topology>,
    config: IommuConfig,
    state: Mutex<State>,
    /// Signalled, with the control lock, when an attachment was retired, a handler returned, or a gate drained.
    changed: Condvar,
    events: EventLog,
    stale_dropped: AtomicU64,
    watcher: Arc<Watcher>,
}

/// What providers hold: it does not keep the system alive.
struct Watcher(Weak<Inner>);

impl SpaceWatcher for Watcher {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        self.0.upgrade().map_or_else(ExitWork::none, |inner| Iommu(inner).space_ended(space, reason))
    }
}

impl Iommu {
    /// An IOMMU without devices over `topology`.
    pub fn new(topology: Arc<dyn Topology>, config: IommuConfig) -> Self {
        Self(Arc::new_cyclic(|me| Inner {
            topology,
            config,
            state: Mutex::new(State::new(PasidAllocator::new(config.pasid_width))),
            changed: Condvar::new(),
            events: EventLog::new(config.event_capacity),
            stale_dropped: AtomicU64::new(0),
            watcher: Arc::new(Watcher(Weak::clone(me))),
        }))
    }

    /// Whether both are clones of one.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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
        let state = self.lock();
        Census {
            devices: state.devices.len(),
            groups: state.groups.len(),
            containers: state.containers.len(),
            bonds: state.live_bonds(),
            spaces: state.spaces.len(),
            pasids: state.pasids.in_use(),
        }
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

    /// Waits, with the control lock, until `done` holds. Never called from inside a callback (rule U3).
    fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        debug_assert!(!callback::inside(), "a callback must not wait");
        let mut state = self.lock();
        state.waiters += 1;
        while !done(&mut state) {
            state = self.0.changed.wait(state);
        }
        state.waiters -= 1;
    }

    /// Waits until devices have answered. Also from inside a callback: what is waited for is no callback.
    pub(crate) fn wait_for_devices(&self, left: &Countdown) {
        let mut state = self.lock();
        state.waiters += 1;
        while !left.is_over() {
            state = self.0.changed.wait(state);
        }
        state.waiters -= 1;
    }

    /// The last access has left an attachment whose gate is closed.
    pub(crate) fn retire(&self, attachment: &Arc<Attachment>) {
        let mut after = Aftermath::default();
        let mut state = self.lock();
        state.retire(attachment, &mut after);
        self.unlock(state);
    }

    /// Closes an attachment: no access starts through it any more. Answers how many were in flight.
    fn close(&self, attachment: &Arc<Attachment>) -> usize {
        if mutation::is_on(8) {
            // Cleared while it is present.
            self.retire(attachment);
        }
        let inside = attachment.gate.close();
        if inside == Some(0) {
            self.retire(attachment);
        }
        inside.unwrap_or_default()
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
