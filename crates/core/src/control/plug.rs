//! Hotplug of a device: it becomes a member of its group and joins the bonds that it can.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use sva_sync::RwLock;
use sva_sync::atomic::AtomicBool;

use super::candidates::bind_refusal;
use super::messages::LinkReceiver;
use crate::api::bond::{IsolationChange, IsolationHandler};
use crate::api::device::{DeviceOps, DeviceSpec};
use crate::api::error::{PlugError, Refusal};
use crate::api::event::{Event, Overlap};
use crate::api::link::{DirectLink, Link, LinkEnds};
use crate::api::space::AddressSpace;
use crate::api::topology::GroupKey;
use crate::quiesce::callback::InCallback;
use crate::quiesce::{Gate, PinSlots, Readers};
use crate::table::{
    BondKey, BondKind, Device, DeviceRecord, Iommu, Phase, Requester, Routing, Services, State,
};
use crate::types::ids::{Bdf, Pasid, SpaceId};
use crate::types::range::AddrRange;

/// A bond of the group or container that a hotplugged device could not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJoined {
    /// The bound space.
    pub space: SpaceId,
    /// The PASID of the space.
    pub pasid: Pasid,
    /// Why the device was left out of the bond.
    pub because: Refusal,
}

/// A device that was plugged in, with the bonds that it joined.
#[derive(Debug)]
#[must_use = "it lists the bonds that the device could not join"]
pub struct Plugged {
    /// The device.
    pub device: Device,
    /// The PASIDs of the group's and container's bonds that the device joined. A device that shares
    /// its requester ID also gets the PASIDs of its siblings' own bonds.
    pub joined: Vec<Pasid>,
    /// The bonds that the device could not join.
    pub not_joined: Vec<NotJoined>,
    /// The mappings of the group's domain that meet a region reserved for this device. The device
    /// cannot use them.
    pub reserved: Vec<AddrRange>,
    /// Memory of the joined spaces and of the domain that the device cannot reach, because a peer
    /// decodes the addresses.
    pub overlaps: Vec<Overlap>,
}

/// A request to plug a device in: its specification, its model, its link.
#[derive(Clone)]
pub struct Plug {
    spec: DeviceSpec,
    model: Option<Arc<dyn DeviceOps>>,
    link: Arc<dyn Link>,
}

impl Plug {
    /// Makes the request for a device with a [`DirectLink`] and without a model.
    pub fn new(spec: DeviceSpec) -> Self {
        Self { spec, model: None, link: Arc::new(DirectLink) }
    }

    /// Sets the model, which is called when the device has to stop issuing a PASID.
    pub fn model(mut self, model: Arc<dyn DeviceOps>) -> Self {
        self.model = Some(model);
        self
    }

    /// Sets the link that carries the messages of ATS and PRI.
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

/// A device that has been inserted under the control lock, and the work that follows with the lock
/// released.
struct NewDevice {
    device: Arc<DeviceRecord>,
    joined: Vec<(Pasid, Arc<dyn AddressSpace>)>,
    not_joined: Vec<NotJoined>,
    /// The mapped ranges of the group's domain.
    mapped: Vec<AddrRange>,
    isolation_changes: Vec<IsolationChangeCall>,
}

/// A device bond whose device has lost its isolation. The call of its handler counts in the
/// `callbacks` of the bond from the moment that this is made.
struct IsolationChangeCall {
    bond: BondKey,
    pasid: Pasid,
    device: Bdf,
    handler: Option<IsolationHandler>,
}

impl State {
    /// Inserts a device and has it join the bonds of its group and container that it can join.
    fn plug(
        &mut self,
        iommu: &Iommu,
        plug: Plug,
        position: BusPosition,
    ) -> Result<NewDevice, PlugError> {
        if self.devices.contains_key(&plug.spec.bdf) {
            return Err(PlugError::Occupied { device: plug.spec.bdf });
        }
        let shares_requester = self.requesters.contains_key(&position.requester.id);
        let device = self.insert_device(iommu, plug, position);
        let group = &self.groups[&device.group_id];
        let former_singleton = match &group.members[..] {
            [first, second] => {
                Some(Arc::clone(if Arc::ptr_eq(first, &device) { second } else { first }))
            }
            _ => None,
        };
        let container = group.container.and_then(|id| self.containers.get(&id));
        let of_container = container.into_iter().flat_map(|container| &container.bonds);
        let bonds: Vec<BondKey> =
            group.bonds.iter().copied().chain(of_container.map(|bond| bond.key)).collect();
        let mut new_device = NewDevice {
            device,
            joined: Vec::new(),
            not_joined: Vec::new(),
            mapped: group.record.domain.current().domain.ranges(),
            isolation_changes: Vec::new(),
        };
        self.join(&bonds, shares_requester, &mut new_device);
        if let Some(device) = former_singleton {
            self.collect_isolation_changes(&device, &mut new_device);
        }
        Ok(new_device)
    }

    /// Makes the record of a device and inserts it into its requester and its group.
    fn insert_device(
        &mut self,
        iommu: &Iommu,
        plug: Plug,
        position: BusPosition,
    ) -> Arc<DeviceRecord> {
        let Plug { spec, model, link } = plug;
        let requester =
            Arc::clone(self.requesters.entry(position.requester.id).or_insert(position.requester));
        requester.models.write().extend(model.map(|model| (spec.bdf, model)));
        let key = self.next_device;
        self.next_device += 1;
        let group = self.group_for(position.group);
        let device = Arc::new_cyclic(|me| DeviceRecord {
            spec,
            group_id: group.id,
            requester,
            group: Arc::clone(&group.record),
            gate: Gate::new(),
            is_unplugged: AtomicBool::new(false),
            routing: RwLock::new(position.routing),
            readers: Readers::default(),
            pins: PinSlots::default(),
            iommu: iommu.downgrade(),
            services: Services::new(
                key,
                LinkEnds::new(spec.bdf, LinkReceiver::of(iommu.downgrade(), Weak::clone(me))),
                link,
                iommu.config(),
                &spec,
            ),
        });
        let at = group.members.partition_point(|member| member.bdf() < spec.bdf);
        group.members.insert(at, Arc::clone(&device));
        group.update_singleton();
        self.devices.insert(spec.bdf, Arc::clone(&device));
        device
    }

    /// Has the new device join those of `bonds` that are live and that it can join.
    /// `shares_requester` is true if another device has its requester ID.
    fn join(&mut self, bonds: &[BondKey], shares_requester: bool, new_device: &mut NewDevice) {
        let device = Arc::clone(&new_device.device);
        if let (true, Some(capability)) = (shares_requester, device.spec.capabilities.pasid) {
            // Devices with one requester ID share one PASID table. The new device uses all entries
            // of it whose PASID it can issue.
            let table = device.requester.table.read();
            let open =
                table.values().filter(|entry| !entry.gate.is_closed() && !entry.record.has_ended());
            let open = open.filter(|entry| entry.record.tag.pasid.fits(capability.width));
            new_device.joined.extend(
                open.map(|entry| (entry.record.tag.pasid, Arc::clone(&entry.record.space))),
            );
        }
        for &key in bonds {
            let Some(bond) = self.joinable_bond(key) else { continue };
            let (record, features) = (Arc::clone(&bond.record), bond.features);
            if new_device.joined.iter().any(|(pasid, _)| *pasid == record.tag.pasid) {
                continue;
            }
            match bind_refusal(&device, record.description(), features, Some(record.tag)) {
                Some(because) => new_device.not_joined.push(NotJoined {
                    space: record.id,
                    pasid: record.tag.pasid,
                    because,
                }),
                None => {
                    self.add_requesters(key, &[Arc::clone(&device.requester)]);
                    new_device.joined.push((record.tag.pasid, Arc::clone(&record.space)));
                }
            }
        }
    }

    /// Collects the live device bonds of `device`, which was the only member of its group before
    /// the new device came.
    fn collect_isolation_changes(&mut self, device: &DeviceRecord, new_device: &mut NewDevice) {
        let entries: Vec<_> = device
            .requester
            .table
            .read()
            .values()
            .map(|entry| (entry.bond, entry.record.tag.pasid))
            .collect();
        for (key, pasid) in entries {
            let Some(bond) = self.bond(key).filter(|bond| {
                bond.phase == Phase::Live && matches!(bond.kind, BondKind::Device(_))
            }) else {
                continue;
            };
            bond.callbacks += 1;
            let handler = bond.on_isolation.clone();
            let call = IsolationChangeCall { bond: key, pasid, device: device.bdf(), handler };
            new_device.isolation_changes.push(call);
        }
    }
}

/// The position of a device on the bus: its requester ID, its group and its routing.
struct BusPosition {
    requester: Arc<Requester>,
    group: GroupKey,
    routing: Routing,
}

impl Iommu {
    /// Plugs a device in. The device becomes a member of its group, uses the group's domain and
    /// joins the bonds of its group and container that it can join. A [`DeviceSpec`] alone is a
    /// device without a model; see [`Plug`].
    ///
    /// Blocks while the joined spaces are asked for overlaps, and while isolation handlers run.
    ///
    /// # Errors
    /// Another device has this address.
    pub fn plug(&self, plug: impl Into<Plug>) -> Result<Plugged, PlugError> {
        let plug = plug.into();
        let (topology, spec) = (self.topology(), plug.spec);
        let position = BusPosition {
            requester: Requester::new(topology.requester(spec.bdf), self.downgrade()),
            group: topology.group(spec.bdf),
            routing: Routing::query(topology, spec.bdf),
        };
        // A second reference to model and link. Their drop is foreign code, so the drop of a
        // refused plug must not be the last one under the control lock.
        let _references = plug.clone();
        let mut state = self.lock();
        let new_device = state.plug(self, plug, position);
        self.unlock(state);
        let NewDevice { device, joined, not_joined, mapped, isolation_changes } = new_device?;
        self.report_isolation_changes(spec.bdf, isolation_changes);
        let routing = device.cached_routing();
        let overlaps = self.overlaps_of_new_device(&device, &routing, &joined, &mapped);
        self.log_overlaps(&overlaps);
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

    /// Returns the overlaps of a new device with the mapped ranges of its domain and with the
    /// spaces that it joined.
    fn overlaps_of_new_device(
        &self,
        device: &Arc<DeviceRecord>,
        routing: &Routing,
        joined: &[(Pasid, Arc<dyn AddressSpace>)],
        mapped: &[AddrRange],
    ) -> Vec<Overlap> {
        let mut overlaps: Vec<Overlap> =
            mapped.iter().flat_map(|range| routing.overlaps(device.bdf(), *range)).collect();
        for (_, space) in joined {
            // The device has joined already. A provider that fails to list its mappings here
            // reports the same failure to the accesses.
            overlaps.extend(self.overlaps_of(device, routing, &**space).unwrap_or_default());
        }
        overlaps
    }

    /// Logs the isolation changes and runs the handlers of the bonds. The caller holds no lock.
    fn report_isolation_changes(&self, newcomer: Bdf, changes: Vec<IsolationChangeCall>) {
        // The whole loop is one callback: an unbind from inside a handler must not wait for a
        // handler that the loop runs after it.
        let _callback = InCallback::enter();
        for IsolationChangeCall { bond, pasid, device, handler } in changes {
            self.log(Event::IsolationChanged { device, pasid, newcomer });
            if let Some(handler) = handler {
                let change = IsolationChange { device, newcomer };
                // A handler that panics counts as one that has returned.
                let _ = catch_unwind(AssertUnwindSafe(|| handler(&change)));
            }
            self.with_state(|state, drops| state.callback_done(bond, drops));
        }
    }
}
