//! MAP and UNMAP: transactions without PASID.

use std::ops::Range;
use std::sync::Arc;

use sva_core::container::Unmapped;
use sva_core::error::{MapError, UnmapError};
use sva_core::link::ToDevice;
use sva_core::{MapRequest, Pasid, Permissions};
use sva_sync::Mutex;
use sva_testkit::PAGE;

use super::config::BASE;
use super::model::{Mapping, Place, StartedWork};
use super::system::World;
use crate::choices::Choices;
use crate::link::Message;
use crate::races::Race;

/// Where domains map memory.
pub(super) const IOVA: u64 = 0x4000_0000;
/// How many pages there are.
const IOVAS: u64 = 6;

type Outcome = Arc<Mutex<Option<Result<Unmapped, UnmapError>>>>;

/// An UNMAP that is prepared for the resolving of a page of its range.
pub(super) struct UnmapInside {
    group: usize,
    range: Range<u64>,
    outcome: Outcome,
}

impl World {
    /// The addresses that devices are told of.
    pub(super) fn iovas() -> Vec<u64> {
        (0..IOVAS).map(|page| IOVA + page * PAGE).collect()
    }

    /// A domain that can be changed: of a container, or of a group that is in none.
    pub(super) fn any_domain(&self, choices: &mut Choices) -> Option<Place> {
        let free = (0..self.groups.len()).filter(|group| {
            let group = &self.groups[*group];
            group.container.is_none() && group.id.is_some_and(|id| self.iommu.group(id).is_some())
        });
        let places: Vec<Place> = free
            .map(Place::Group)
            .chain((0..self.containers.len()).map(Place::Container))
            .collect();
        choices.pick(&places).copied()
    }

    pub(super) fn map_or_unmap(&mut self, choices: &mut Choices) {
        let Some(place) = self.any_domain(choices) else { return };
        let pages = 1 + u64::from(choices.below(3));
        let page = u64::from(choices.below((IOVAS - pages + 1) as u32));
        let range = IOVA + page * PAGE..IOVA + (page + pages) * PAGE;
        if choices.below(5) < 3 {
            self.map(place, range, choices)
        } else {
            self.unmap(place, range)
        }
    }

    fn map(&mut self, place: Place, iovas: Range<u64>, choices: &mut Choices) {
        let at = self.any_space(choices);
        let space = &self.spaces[at];
        let len = iovas.end - iovas.start;
        let address =
            BASE + u64::from(choices.below((self.config.pages - len / PAGE + 1) as u32)) * PAGE;
        let permissions = match choices.below(6) {
            0 => Permissions::READ,
            1 => Permissions::WRITE,
            _ => Permissions::READ_WRITE,
        };
        let handle = space.space.handle();
        let request = MapRequest::new(iovas.start, len, &handle, address, permissions);
        let domain = self.domain(place);
        let (taken, ended) = (!domain.meeting(&iovas).is_empty(), space.ended);
        let empty = match place {
            Place::Container(container) => self.containers[container].groups.is_empty(),
            Place::Group(_) => false,
        };
        let made = match place {
            Place::Group(group) => {
                self.groups[group].id.map(|group| self.iommu.map(group, &request))
            }
            Place::Container(container) => Some(self.containers[container].container.map(&request)),
        };
        let right = match &made {
            Some(Ok(_)) => !taken && !ended && !empty,
            Some(Err(MapError::Overlaps { .. })) => taken,
            Some(Err(MapError::Target(_))) => ended,
            Some(Err(MapError::NoGroup { .. })) => empty,
            _ => false,
        };
        if !right {
            self.violation.get_or_insert(format!(
                "map at {iovas:x?} in {place:?}: {made:?}; taken {taken}, ended {ended}, without \
                 groups {empty}"
            ));
        }
        if let Some(Ok(_)) = made {
            let domain = self.domain_mut(place);
            iovas.clone().step_by(PAGE as usize).for_each(|page| _ = domain.unmapped.remove(&page));
            domain.mapped.insert(iovas.start, Mapping { len, space: handle, address, permissions });
            self.say(|| format!("map {iovas:x?} of {place:?} to {address:#x} of space {at}"));
        }
    }

    fn unmap(&mut self, place: Place, iovas: Range<u64>) {
        self.note_unmap(place, &iovas);
        let len = iovas.end - iovas.start;
        let outcome = match place {
            Place::Group(group) => {
                let Some(group) = self.groups[group].id else { return };
                self.iommu.unmap(group, iovas.start, len)
            }
            Place::Container(container) => {
                self.containers[container].container.unmap(iovas.start, len)
            }
        };
        self.unmapped(place, &iovas, &outcome, false);
    }

    /// Checks the outcome of an UNMAP against the model, and updates the model.
    fn unmapped(
        &mut self,
        place: Place,
        iovas: &Range<u64>,
        outcome: &Result<Unmapped, UnmapError>,
        deferred: bool,
    ) {
        let meeting = self.domain(place).meeting(iovas);
        let splits =
            meeting.iter().any(|mapped| mapped.start < iovas.start || mapped.end > iovas.end);
        let bytes = meeting.iter().map(|mapped| mapped.end - mapped.start).sum();
        let right = match outcome {
            Ok(unmapped) => {
                !splits && *unmapped == Unmapped { bytes, deferred: deferred && bytes > 0 }
            }
            Err(UnmapError::WouldSplit { .. }) => splits,
            Err(_) => false,
        };
        if !right {
            self.violation.get_or_insert(format!(
                "unmap of {iovas:x?} in {place:?}: {outcome:?}; there was {meeting:x?}, deferred \
                 {deferred}"
            ));
        }
        if outcome.is_ok() {
            let domain = self.domain_mut(place);
            for mapped in meeting {
                domain.mapped.remove(&mapped.start);
                domain.unmapped.extend(mapped.step_by(PAGE as usize));
            }
            self.say(|| format!("unmap {iovas:x?} of {place:?}"));
        }
    }

    fn note_unmap(&mut self, place: Place, iovas: &Range<u64>) {
        let users: Vec<usize> =
            (0..self.slots.len()).filter(|at| self.place_of(*at) == place).collect();
        let mapped = !self.domain(place).meeting(iovas).is_empty();
        let resolving = |at: usize| {
            let mut requests = self
                .works
                .iter()
                .filter(|working| working.at == at)
                .flat_map(|working| working.work.requests());
            requests.any(|request| request.pasid.is_none() && iovas.contains(&request.address))
        };
        let fault = users.iter().any(|at| resolving(*at) || self.owner_has_iova(*at, iovas));
        let for_it = |message: &Message| match message {
            Message::Down(ToDevice::Translated(completion)) => {
                completion.owner.is_none()
                    && completion.result.as_ref().is_ok_and(|found| {
                        !found.permissions.is_empty() && iovas.contains(&found.range.first())
                    })
            }
            _ => false,
        };
        let on_its_way = users.iter().any(|at| self.slots[*at].link.messages().iter().any(for_it));
        self.note([
            (Race::UnmapWithFaultPending, mapped && fault),
            (Race::UnmapWithTranslationOnItsWay, mapped && on_its_way),
        ]);
    }

    /// Prepares an unmap of a page's mapping from inside the resolving of that page.
    pub(super) fn unmap_inside(&mut self, working: &StartedWork) -> Option<UnmapInside> {
        // One request only, so that the page that is resolved is in the mapping that is removed.
        let [request] = working.work.requests() else { return None };
        let Place::Group(group) = self.place_of(working.at) else { return None };
        if request.pasid.is_some() || working.switches != self.groups[group].switches {
            return None;
        }
        let id = self.groups[group].id?;
        let range =
            self.groups[group].own.meeting(&(request.address..request.address + 1)).pop()?;
        let space = self.groups[group].own.mapped.get(&range.start)?.space.id();
        let slot = self.spaces.iter().find(|slot| slot.space.handle().id() == space)?;
        let outcome = Outcome::default();
        let (iommu, within, result) = (self.iommu.clone(), range.clone(), Arc::clone(&outcome));
        *slot.while_resolving.lock() = Some(Box::new(move || {
            let unmapped = iommu.unmap(id, within.start, within.end - within.start);
            *result.lock() = Some(unmapped);
        }));
        Some(UnmapInside { group, range, outcome })
    }

    /// Checks the outcome of that unmap: the access under way goes on, and no other begins.
    pub(super) fn unmapped_inside(&mut self, inside: Option<UnmapInside>) {
        let Some(UnmapInside { group, range, outcome }) = inside else { return };
        self.spaces.iter().for_each(|slot| drop(slot.while_resolving.lock().take()));
        let outcome = outcome.lock().take();
        if let Some(outcome) = outcome {
            self.note([(Race::UnmapWhileResolving, true)]);
            self.unmapped(Place::Group(group), &range, &outcome, true);
        }
    }

    /// At the end: takes everything out of the groups' own domains.
    pub(super) fn unmap_all(&mut self) {
        for group in 0..self.groups.len() {
            if !self.groups[group].own.mapped.is_empty() {
                self.unmap(Place::Group(group), IOVA..IOVA + IOVAS * PAGE);
            }
            let owner = self.groups[group].own.owner();
            self.groups[group].own.registration = None;
            self.end_owner(owner);
        }
    }

    /// The requests without PASID of the devices of a group were for a domain that it has left.
    pub(super) fn void_domain(&mut self, group: usize) {
        let none: Option<Pasid> = None;
        self.places_of(group).into_iter().for_each(|at| self.void(at, Some(none)));
    }
}
