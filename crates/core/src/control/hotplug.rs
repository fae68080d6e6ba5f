//! Devices come and go (rules G4, G5, F7).

use std::fmt;
use std::sync::{Arc, Weak};

use sva_sync::RwLock;
use sva_sync::atomic::{AtomicBool, Ordering};

use super::bind::refusal;
use super::messages::Endpoints;
use super::unbind::Teardown;
use crate::api::bond::{IsolationChange, IsolationHandler};
use crate::api::device::{DeviceOps, DeviceSpec};
use crate::api::error::{PlugError, Refusal, RemoveError};
use crate::api::event::{Event, Overlap};
use crate::api::link::{DirectLink, Link, LinkEnds};
use crate::api::space::AddressSpace;
use crate::api::topology::GroupKey;
use crate::quiesce::callback::{self, InCallback};
use crate::quiesce::{Gate, PinSlots, Readers};
use crate::table::{
    BondKey, BondKind, DeferredDrops, Device, DeviceRecord, Iommu, Phase, Requester, Routing,
    Services, State,
};
use crate::types::ids::{Bdf, Pasid, SpaceId};
use crate::types::range::AddrRange;

/// A binding of the group or container that a hotplugged device could not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJoined {
    /// The bound space.
    pub space: SpaceId,
    /// Its PASID.
    pub pasid: Pasid,
    /// Why the device was left out of it.
    pub because: Refusal,
}

/// A device that was plugged in, and what it found there (rule G4).
#[derive(Debug)]
#[must_use = "it tells what the device could not join"]
pub struct Plugged {
    /// The device.
    pub device: Device,
    /// PASIDs of the group's and container's bonds that it joined; with a shared requester ID,
    /// also those of its siblings' own bonds.
    pub joined: Vec<Pasid>,
    /// Bonds that it could not join.
    pub not_joined: Vec<NotJoined>,
    /// Mappings of the group's domain that meet a region reserved for this device: it cannot use
    /// them.
    pub reserved: Vec<AddrRange>,
    /// Memory of the joined spaces and of the domain that it cannot reach, because a peer decodes
    /// the addresses (rule B7).
    pub overlaps: Vec<Overlap>,
}

/// A device that is to be plugged in.
#[derive(Clone)]
pub struct Plug {
    spec: DeviceSpec,
    model: Option<Arc<dyn DeviceOps>>,
    link: Arc<dyn Link>,
}

impl Plug {
    /// A device without a model that wants to be told, over a [`DirectLink`].
    pub fn new(spec: DeviceSpec) -> Self {
        Self { spec, model: None, link: Arc::new(DirectLink) }
    }

    /// With a model that wants to be told when it is to stop.
    pub fn model(mut self, model: Arc<dyn DeviceOps>) -> Self {
        self.model = Some(model);
        self
    }

    /// With a link of its own for translation services and page requests.
    pub fn link(mut self, link: Arc<dyn Link>) -> Self {
        self.link = link;
        self
    }
}

impl From<DeviceSpec> for Plug {
    fn from(spec: DeviceSpec) -> Self {
        Self::new(spec)
    }
}

impl fmt::Debug for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plug").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// How a device leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The device is asked to stop each PASID first.
    Orderly,
    /// The device is gone and can be asked nothing.
    Surprise,
}

/// What a plug leaves to do once the lock is released.
struct Arrival {
    device: Arc<DeviceRecord>,
    joined: Vec<(Pasid, Arc<dyn AddressSpace>)>,
    not_joined: Vec<NotJoined>,
    mapped: Vec<AddrRange>,
    /// Owners of device bonds that are to be told; each call counts in its bond's `callbacks`.
    told: Vec<(BondKey, Pasid, Bdf, Option<IsolationHandler>)>,
}

impl State {
    fn plug(
        &mut self,
        iommu: &Iommu,
        plug: Plug,
        location: Location,
    ) -> Result<Arrival, PlugError> {
        let Plug { spec, model: ops, link } = plug;
        if self.devices.contains_key(&spec.bdf) {
            return Err(PlugError::Occupied { device: spec.bdf });
        }
        let shared = self.requesters.contains_key(&location.requester.id);
        let requester =
            Arc::clone(self.requesters.entry(location.requester.id).or_insert(location.requester));
        requester.models.write().extend(ops.map(|ops| (spec.bdf, ops)));
        let key = self.next_device;
        self.next_device += 1;
        let group = self.group_for(location.group);
        let device = Arc::new_cyclic(|me| DeviceRecord {
            spec,
            group_id: group.id,
            requester,
            group: Arc::clone(&group.record),
            gate: Gate::new(),
            is_unplugged: AtomicBool::new(false),
            routing: RwLock::new(location.routing),
            readers: Readers::default(),
            pins: PinSlots::default(),
            host: iommu.downgrade(),
            services: Services::new(
                key,
                LinkEnds::new(spec.bdf, Endpoints::of(iommu.downgrade(), Weak::clone(me))),
                link,
                iommu.config(),
                &spec,
            ),
        });
        let at = group.members.partition_point(|member| member.bdf() < spec.bdf);
        group.members.insert(at, Arc::clone(&device));
        group.update_singleton();
        let (container, mut bonds) = (group.container, group.bonds.clone());
        let sole = (group.members.len() == 2).then(|| Arc::clone(&group.members[1 - at.min(1)]));
        let mapped = group.record.domain.current().domain.ranges();
        bonds.extend(
            container
                .and_then(|id| self.containers.get(&id))
                .into_iter()
                .flat_map(|c| c.bonds.iter().map(|bond| bond.key)),
        );
        self.devices.insert(spec.bdf, Arc::clone(&device));
        let mut arrival = Arrival {
            device,
            joined: Vec::new(),
            not_joined: Vec::new(),
            mapped,
            told: Vec::new(),
        };
        self.join(&bonds, shared, &mut arrival);
        if let Some(sole) = sole {
            self.tell_owners(&sole, &mut arrival);
        }
        Ok(arrival)
    }

    /// Has the new device join the live bonds of its group and container that it can.
    fn join(&mut self, bonds: &[BondKey], shared: bool, arrival: &mut Arrival) {
        let device = Arc::clone(&arrival.device);
        if let (true, Some(capability)) = (shared, device.spec.capabilities.pasid) {
            // One requester ID is one table: what is in it is the newcomer's as well, as far as it
            // can issue the number.
            let table = device.requester.table.read();
            let open =
                table.values().filter(|entry| !entry.gate.is_closed() && !entry.record.has_ended());
            let open = open.filter(|entry| entry.record.tag.pasid.fits(capability.width));
            arrival.joined.extend(
                open.map(|entry| (entry.record.tag.pasid, Arc::clone(&entry.record.space))),
            );
        }
        for &key in bonds {
            let Some(bond) = self.joinable_bond(key) else { continue };
            let (record, features) = (Arc::clone(&bond.record), bond.features);
            if arrival.joined.iter().any(|(pasid, _)| *pasid == record.tag.pasid) {
                continue;
            }
            match refusal(&device, &*record.space, features, Some(record.tag)) {
                Some(because) => arrival.not_joined.push(NotJoined {
                    space: record.id,
                    pasid: record.tag.pasid,
                    because,
                }),
                None => {
                    self.add_requesters(key, &[Arc::clone(&device.requester)]);
                    arrival.joined.push((record.tag.pasid, Arc::clone(&record.space)));
                }
            }
        }
    }

    /// The device that was alone until now: the owners of its device bonds are to hear of the
    /// newcomer.
    fn tell_owners(&mut self, sole: &DeviceRecord, arrival: &mut Arrival) {
        let entries: Vec<_> = sole
            .requester
            .table
            .read()
            .values()
            .map(|held| (held.bond, held.record.tag.pasid))
            .collect();
        for (key, pasid) in entries {
            let Some(bond) = self.bond(key).filter(|bond| {
                bond.phase == Phase::Live && matches!(bond.kind, BondKind::Device(_))
            }) else {
                continue;
            };
            bond.callbacks += 1;
            arrival.told.push((key, pasid, sole.bdf(), bond.on_isolation.clone()));
        }
    }

    /// Takes a device out of its group and ends its bonds. Answers what is to be closed, and the
    /// bonds that ended.
    fn unplug(
        &mut self,
        device: &Arc<DeviceRecord>,
        drops: &mut DeferredDrops,
    ) -> Option<(Teardown, Vec<(Bdf, Pasid)>)> {
        if !self.is_plugged_in(device) {
            return None;
        }
        let bdf = device.bdf();
        self.devices.remove(&bdf);
        device.is_unplugged.store(true, Ordering::Relaxed);
        if let Some(group) = self.groups.get_mut(&device.group_id) {
            group.members.retain(|member| !Arc::ptr_eq(member, device));
            group.update_singleton();
        }
        let requester = &device.requester;
        let last = !self.devices.values().any(|other| Arc::ptr_eq(&other.requester, requester));
        let mut teardown = Teardown::default();
        let mut ended = Vec::new();
        let held: Vec<_> = requester.table.read().values().cloned().collect();
        for entry in held {
            let own = self.bond(entry.bond).is_some_and(|bond| bond.kind == BondKind::Device(bdf));
            if own && self.begin_closing(entry.bond, drops) {
                ended.push((bdf, entry.record.tag.pasid));
            }
            if own || last {
                teardown.add(&entry);
            } else {
                // The entry stays, for the others that issue requests as this requester.
                teardown.add_stop_of(bdf, &entry);
            }
        }
        if last {
            self.requesters.remove(&requester.id);
        }
        drops.models.extend(requester.remove_model(bdf));
        self.remove_group_if_empty(device.group_id);
        Some((teardown, ended))
    }
}

/// Where a device sits, as the bus says.
struct Location {
    requester: Arc<Requester>,
    group: GroupKey,
    routing: Routing,
}

impl Iommu {
    /// Plugs a device in: it becomes a member of its group, uses the group's domain and joins the
    /// bonds that it can. A [`DeviceSpec`] alone is a device without a model; see [`Plug`].
    ///
    /// Blocks while the joined spaces are asked for overlaps, and while isolation handlers run.
    ///
    /// # Errors
    /// There is a device at this address.
    pub fn plug(&self, plug: impl Into<Plug>) -> Result<Plugged, PlugError> {
        let plug = plug.into();
        let (topology, spec) = (self.topology(), plug.spec);
        let location = Location {
            requester: Requester::new(topology.requester(spec.bdf)),
            group: topology.group(spec.bdf),
            routing: Routing::query(topology, spec.bdf),
        };
        // A model that is refused is not to be dropped under the control lock: its drop is foreign
        // code.
        let _kept = plug.clone();
        let mut state = self.lock();
        let arrival = state.plug(self, plug, location);
        self.unlock(state);
        let Arrival { device, joined, not_joined, mapped, told } = arrival?;
        self.tell(spec.bdf, told);
        let routing = device.cached_routing();
        let overlaps = self.overlaps_on_arrival(&device, &routing, &joined, &mapped);
        self.report_overlaps(&overlaps);
        let meets =
            |range: &AddrRange| routing.reserved().iter().any(|reserved| reserved.overlaps(*range));
        Ok(Plugged {
            device: Device::new(self.clone(), device),
            joined: joined.into_iter().map(|(pasid, _)| pasid).collect(),
            not_joined,
            reserved: mapped.into_iter().filter(meets).collect(),
            overlaps,
        })
    }

    fn overlaps_on_arrival(
        &self,
        device: &Arc<DeviceRecord>,
        routing: &Routing,
        joined: &[(Pasid, Arc<dyn AddressSpace>)],
        mapped: &[AddrRange],
    ) -> Vec<Overlap> {
        let mut overlaps: Vec<Overlap> =
            mapped.iter().flat_map(|range| routing.overlaps(device.bdf(), *range)).collect();
        for (_, space) in joined {
            // The device is in: a space that cannot tell its mappings now is a space whose accesses
            // will say so themselves.
            overlaps.extend(self.overlaps_of(device, routing, &**space).unwrap_or_default());
        }
        overlaps
    }

    /// Runs the isolation handlers of device bonds, with no lock held.
    fn tell(&self, newcomer: Bdf, told: Vec<(BondKey, Pasid, Bdf, Option<IsolationHandler>)>) {
        // All of it is one callback: an unbind from here must not wait for a handler that this loop
        // has not come to yet.
        let _inside = InCallback::enter();
        for (key, pasid, device, handler) in told {
            self.log(Event::IsolationChanged { device, pasid, newcomer });
            if let Some(handler) = handler {
                let change = IsolationChange { device, newcomer };
                // A handler that panics counts as run.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(&change)));
            }
            self.with_state(|state, drops| state.callback_done(key, drops));
        }
    }

    /// Removes a device: reception stops, its device bonds end, and it leaves the bonds of its
    /// group and container (rules F7, G5).
    ///
    /// Blocks until its transactions in flight are over, unless called from inside a callback: then
    /// they end after it.
    ///
    /// # Errors
    /// It has been removed before.
    pub fn remove(&self, device: &Device, removal: Removal) -> Result<(), RemoveError> {
        let removing = self.take_out(device, removal)?;
        if !callback::inside() {
            self.wait_until(|state| removing.is_over_in(state));
        }
        Ok(())
    }

    /// Begins to remove a device as [`remove`](Self::remove) does, and does not wait. For event
    /// loops and schedulers.
    ///
    /// # Errors
    /// It has been removed before.
    pub fn begin_remove(&self, device: &Device, removal: Removal) -> Result<Removing, RemoveError> {
        self.take_out(device, removal)
    }

    fn take_out(&self, device: &Device, removal: Removal) -> Result<Removing, RemoveError> {
        let inner = device.record();
        let gone = RemoveError::Gone { device: inner.bdf() };
        let (mut teardown, ended) =
            self.with_state(|state, drops| state.unplug(inner, drops)).ok_or(gone)?;
        match removal {
            Removal::Orderly => self.ask_to_stop(&teardown),
            Removal::Surprise => teardown.forget_stops(),
        }
        self.end_services(inner, removal == Removal::Orderly);
        // Where somebody is inside, the last one to leave wakes us; where nobody is, there is
        // nobody to wake.
        let _drained = inner.gate.close();
        inner.await_cached_accesses();
        // Before an entry can be taken out: no group of a bond that is gone is pending (rule
        // U2).
        self.forget_pages(inner);
        self.close_all(&teardown);
        for (device, pasid) in ended {
            self.log(Event::BondEnded { device, pasid });
        }
        Ok(Removing { iommu: self.clone(), device: Arc::clone(inner), teardown })
    }
}

/// A removal that was begun and is not waited for. Dropping it changes nothing.
pub struct Removing {
    iommu: Iommu,
    device: Arc<DeviceRecord>,
    teardown: Teardown,
}

impl Removing {
    /// Whether no transaction of the device is under way and nothing of its bonds is left. Does not
    /// block.
    pub fn is_over(&self) -> bool {
        self.is_over_in(&mut self.iommu.lock())
    }

    fn is_over_in(&self, state: &mut State) -> bool {
        self.device.gate.is_drained() && self.teardown.is_over(state)
    }
}

impl fmt::Debug for Removing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removing")
            .field("device", &self.device.bdf())
            .field("is_over", &self.is_over())
            .finish()
    }
}
