//! Devices are reset, removed, plugged in; their services are switched.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::sync::Mutex;
use sva_core::{Device, DeviceSpec, Plug, Removal};

use super::{Bonded, Bound, Stopper, World};
use crate::schedule::choices::Choices;
use crate::schedule::link::HeldLink;
use crate::schedule::races::Race;

impl World {
    pub(super) fn reset(&mut self, choices: &mut Choices) {
        let at = self.busy_slot(choices);
        let Some(device) = self.slots[at].device.clone().filter(|_| self.config.device_faults) else { return };
        if self.slots[at].resets.len() >= 2 || choices.below(4) > 0 && !device.is_cut_off() {
            return;
        }
        let resolving = self.works.iter().any(|work| work.device() == self.slots[at].bdf);
        let invalidating = device.invalidations_under_way() > 0;
        let nested = !self.slots[at].resets.is_empty();
        for (race, reached) in
            [(Race::NestedReset, nested), (Race::ResetWhileResolving, resolving), (Race::ResetDuringInvalidation, invalidating)]
        {
            if reached {
                self.races.reached(race);
            }
        }
        let Ok(reset) = device.begin_reset() else { return };
        let slot = &mut self.slots[at];
        slot.resets.push(reset);
        slot.driver.lock().reset();
        slot.link.take_lost_responses();
        slot.lost_responses = 0;
        self.say(|| format!("begin to reset device {at}"));
    }

    pub(super) fn end_reset(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        if let Some(reset) = self.slots[at].resets.pop() {
            reset.done();
            self.say(|| format!("a reset of device {at} is done"));
        }
    }

    pub(super) fn remove_or_plug(&mut self, choices: &mut Choices) {
        let at = self.busy_slot(choices);
        if !self.config.device_faults {
            return;
        }
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
        let resolving = self.works.iter().any(|work| work.device() == self.slots[at].bdf);
        for (race, reached) in [
            (Race::RemovalWhileResolving, resolving),
            (Race::RemovalDuringInvalidation, device.invalidations_under_way() > 0),
            (Race::RemovalWhileInUse, device.atc_in_use() > 0),
        ] {
            if reached {
                self.races.reached(race);
            }
        }
        self.count_device(&device);
        if self.iommu.begin_remove(&device, removal).is_err() {
            self.wrong = Some(format!("device {at} cannot be removed"));
        }
        let own = |bound: &&mut Bound| matches!(&bound.bond, Bonded::Device(bond) if bond.device() == device.bdf());
        self.bound.iter_mut().filter(own).for_each(|bound| bound.inert = true);
        let slot = &mut self.slots[at];
        slot.resets.clear();
        slot.bonds.clear();
        slot.ats_on = false;
        slot.lost_responses = 0;
        // Its own bonds are inert now; they stay until they are unbound.
        let late = std::mem::take(&mut slot.link);
        if self.old_links.len() == 3 {
            self.old_links.remove(0);
        }
        self.old_links.push(late);
        self.say(|| format!("device {at} is removed ({removal:?})"));
    }

    pub(super) fn plug(&mut self, at: usize) {
        if !self.unbindings.is_empty() {
            self.races.reached(Race::HotplugDuringUnbind);
        }
        let (capabilities, driver) = (self.capabilities(), Arc::new(Mutex::new((self.make_driver)(at))));
        let slot = &mut self.slots[at];
        slot.driver = Arc::clone(&driver);
        slot.link = HeldLink::new();
        slot.bonds = BTreeMap::new();
        let stopper = Arc::new(Stopper { driver, port: Mutex::new(None) });
        let spec = DeviceSpec { bdf: slot.bdf, capabilities };
        let plugged = self.iommu.plug_in(Plug::new(spec).model(stopper.clone()).link(slot.link.clone()));
        let Ok(plugged) = plugged else {
            self.wrong = Some(format!("device {at} cannot be plugged in"));
            return;
        };
        *stopper.port.lock() = Some(plugged.device.ats_port());
        slot.ats_on = plugged.device.enable_ats().and_then(|()| plugged.device.enable_pri()).is_ok();
        slot.device = Some(plugged.device);
        for pasid in plugged.joined {
            if let Some(space) = self.bound.iter().find(|bound| bound.tag.pasid == pasid && !bound.inert).map(|bound| bound.space) {
                self.joined(at, pasid, space);
            }
        }
        self.say(|| format!("device {at} is plugged in"));
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
            if device.invalidations_under_way() > 0 {
                self.races.reached(Race::DisableDuringInvalidation);
            }
            let off = device.disable_pri().and_then(|()| device.disable_ats());
            slot.ats_on = off.is_err();
        } else {
            slot.ats_on = device.enable_ats().and_then(|()| device.enable_pri()).is_ok();
        }
        let on = slot.ats_on;
        self.say(|| format!("the services of device {at}: on is {on}"));
    }

    /// Counts what a device has seen, when it goes.
    pub(super) fn count_device(&mut self, device: &Device) {
        let (atc, invalidations, pages) = (device.atc_counts(), device.invalidation_counts(), device.page_request_counts());
        self.races.add(Race::FillOvertaken, atc.outdated);
        self.races.add(Race::StrangeCompletion, invalidations.unexpected);
        self.races.add(Race::InvalidationRepeated, invalidations.timed_out);
        self.races.add(Race::StrangeResponse, pages.unexpected);
        self.races.add(Race::ResponseFailure, pages.failures);
    }
}
