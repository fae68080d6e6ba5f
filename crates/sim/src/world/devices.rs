//! Devices are reset, removed, plugged in; their services are switched.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::{Device, DeviceSpec, GroupId, Pasid, Plug, Removal};
use sva_sync::Mutex;

use super::model::{Bonded, Bound, Group, Stopper};
use super::system::World;
use crate::choices::Choices;
use crate::link::ScheduledLink;
use crate::races::Race;

impl World {
    pub(super) fn reset(&mut self, choices: &mut Choices) {
        let cut_off = (0..self.slots.len())
            .find(|at| self.slots[*at].device.as_ref().is_some_and(Device::is_cut_off));
        let at =
            cut_off.filter(|_| choices.below(2) == 0).unwrap_or_else(|| self.busy_slot(choices));
        // A device that was cut off needs a reset, whatever the settings are.
        let Some(device) = self.slots[at]
            .device
            .clone()
            .filter(|device| self.config.device_faults || device.is_cut_off())
        else {
            return;
        };
        if self.slots[at].resets.len() >= 2 || choices.below(4) > 0 && !device.is_cut_off() {
            return;
        }
        self.note([
            (Race::NestedReset, !self.slots[at].resets.is_empty()),
            (Race::ResetWhileResolving, self.is_resolving(at)),
            (Race::ResetDuringInvalidation, device.outstanding_invalidations() > 0),
            (Race::ResetWithOwner, self.owner_has(at, None)),
        ]);
        let reset = match device.begin_reset() {
            Ok(reset) => reset,
            Err(error) => {
                self.violation.get_or_insert(format!("device {at} cannot be reset: {error}"));
                return;
            }
        };
        self.void(at, None);
        let slot = &mut self.slots[at];
        slot.resets.push(reset);
        slot.model.lock().reset();
        slot.link.take_lost_responses();
        slot.lost_responses = 0;
        self.say(|| format!("begin to reset device {at}"));
    }

    pub(super) fn end_reset(&mut self, choices: &mut Choices) {
        let in_reset: Vec<usize> =
            (0..self.slots.len()).filter(|at| !self.slots[*at].resets.is_empty()).collect();
        let Some(&at) = choices.pick(&in_reset) else { return };
        self.slots[at].link.push_posted();
        if let Some(reset) = self.slots[at].resets.pop() {
            reset.end();
            self.void(at, None);
            self.say(|| format!("a reset of device {at} is done"));
        }
    }

    pub(super) fn remove_or_plug(&mut self, choices: &mut Choices) {
        if !self.config.device_faults {
            return;
        }
        let absent = (0..self.slots.len()).find(|at| self.slots[*at].device.is_none());
        let at = absent.filter(|_| choices.below(3) > 0).unwrap_or_else(|| self.busy_slot(choices));
        if self.slots[at].device.is_some() {
            if choices.below(4) > 0 {
                return;
            }
            let removal = if choices.below(2) == 0 { Removal::Orderly } else { Removal::Surprise };
            self.remove(at, removal);
        } else {
            self.plug(at);
        }
    }

    pub(super) fn remove(&mut self, at: usize, removal: Removal) {
        let Some(device) = self.slots[at].device.take() else { return };
        self.note([
            (Race::RemovalWhileResolving, self.is_resolving(at)),
            (Race::RemovalDuringInvalidation, device.outstanding_invalidations() > 0),
            (Race::RemovalWhileInUse, device.atc_in_use() > 0),
            (Race::RemovalWithOwner, self.owner_has(at, None)),
        ]);
        self.count_device(&device);
        if self.iommu.begin_remove(&device, removal).is_err() {
            self.violation = Some(format!("device {at} cannot be removed"));
        }
        self.void(at, None);
        let own = |bound: &&mut Bound| match &bound.bond {
            Bonded::Device(bond) => bond.device() == device.bdf(),
            Bonded::Group(_) => false,
        };
        self.bound.iter_mut().filter(own).for_each(|bound| bound.inert = true);
        let slot = &mut self.slots[at];
        slot.resets.clear();
        slot.bonds.clear();
        slot.ats_on = false;
        slot.lost_responses = 0;
        // Its own bonds are inert now and stay until they are unbound.
        let late = std::mem::take(&mut slot.link);
        if self.old_links.len() == 3 {
            self.old_links.remove(0);
        }
        self.old_links.push(late);
        self.say(|| format!("device {at} is removed ({removal:?})"));
    }

    /// Whether a group of the device is being resolved.
    fn is_resolving(&self, at: usize) -> bool {
        self.works.iter().any(|working| working.at == at)
    }

    pub(super) fn plug(&mut self, at: usize) {
        let model = Arc::new(Mutex::new((self.make_model)(at)));
        if self.config.mappings {
            model.lock().plugged(&Self::iovas());
        }
        let slot = &mut self.slots[at];
        slot.model = Arc::clone(&model);
        slot.link = ScheduledLink::new();
        slot.bonds = BTreeMap::new();
        slot.plugged += 1;
        let stopper = Arc::new(Stopper { model, port: Mutex::new(None) });
        let spec = DeviceSpec { bdf: slot.bdf, capabilities: slot.capabilities };
        let plugged =
            self.iommu.plug(Plug::new(spec).model(stopper.clone()).link(slot.link.clone()));
        let Ok(plugged) = plugged else {
            self.violation = Some(format!("device {at} cannot be plugged in"));
            return;
        };
        *stopper.port.lock() = Some(plugged.device.ats_port());
        slot.ats_on =
            plugged.device.enable_ats().and_then(|()| plugged.device.enable_pri()).is_ok();
        let group = plugged.device.group();
        slot.device = Some(plugged.device);
        self.in_group(at, group);
        let joins = self.to_join(at);
        let contained = self.groups[Self::group_of(at)].container.is_some();
        self.note([
            (Race::HotplugDuringUnbind, !self.unbindings.is_empty()),
            (Race::HotplugIntoContainer, contained && !joins.is_empty()),
        ]);
        let mut expected: Vec<Pasid> = joins.iter().map(|(pasid, _)| *pasid).collect();
        let mut found = plugged.joined;
        expected.sort();
        found.sort();
        if expected != found {
            self.violation
                .get_or_insert(format!("device {at} joined {found:?}, and not {expected:?}"));
        }
        joins.into_iter().for_each(|(pasid, grant)| self.joined(at, pasid, grant));
        self.say(|| format!("device {at} is plugged in"));
    }

    /// Notes the group of a device. The core forgets a group without devices and mappings, so that
    /// the device may be in a new one.
    fn in_group(&mut self, at: usize, id: GroupId) {
        let number = Self::group_of(at);
        let group = &mut self.groups[number];
        if group.id == Some(id) {
            return;
        }
        if !group.own.mapped.is_empty() || group.container.is_some() {
            self.violation.get_or_insert(format!(
                "group {number} was forgotten with mappings or in a container"
            ));
        }
        let owner = group.own.owner();
        *group = Group { id: Some(id), switches: group.switches + 1, ..Group::default() };
        self.end_owner(owner);
    }

    /// ATS and page requests are switched off, or on.
    pub(super) fn switch(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        let slot = &mut self.slots[at];
        let Some(device) = slot.device.as_ref().filter(|_| slot.resets.is_empty()) else { return };
        if slot.ats_on {
            if choices.below(4) > 0 {
                return;
            }
            if device.outstanding_invalidations() > 0 {
                self.races.reached(Race::DisableDuringInvalidation);
            }
            slot.link.push_posted();
            slot.ats_on = device.disable_pri().and_then(|()| device.disable_ats()).is_err();
            self.void(at, None);
        } else {
            slot.ats_on = device.enable_ats().and_then(|()| device.enable_pri()).is_ok();
        }
        let on = self.slots[at].ats_on;
        self.say(|| format!("the services of device {at}: on is {on}"));
    }

    /// Adds the counts of a device that is being removed.
    pub(super) fn count_device(&mut self, device: &Device) {
        let (atc, invalidations, pages) =
            (device.atc_counts(), device.invalidation_counts(), device.page_request_counts());
        self.races.add(Race::FillOvertaken, atc.outdated);
        self.races.add(Race::StrangeCompletion, invalidations.unexpected);
        self.races.add(Race::InvalidationRepeated, invalidations.timed_out);
        self.races.add(Race::StrangeResponse, pages.unexpected);
        self.races.add(Race::ResponseFailure, pages.failures);
    }
}
