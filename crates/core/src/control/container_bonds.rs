//! BIND and UNBIND of a container: one bond binds the capable devices of all its groups.
//!
//! A container has at most one bond of a space. A second BIND with equal drvdata and features
//! returns the PASID of that bond. The drvdata is compared by the caller's code, which runs with
//! the control lock released.

use std::sync::Arc;

use super::bond::Unbinding;
use super::candidates::Candidates;
use super::container::Container;
use super::space_to_bind::SpaceToBind;
use crate::api::bond::{AnyData, Bind, UnbindReport};
use crate::api::device::Features;
use crate::api::error::{ContainerBindError, ContainerUnbindError, Refusal, SpaceRefusal};
use crate::api::event::Overlap;
use crate::api::pri::FaultTimes;
use crate::api::space::{SpaceEnded, SpaceHandle};
use crate::table::{BondKey, BondKind, ContainerBond, State, StateGuard};
use crate::types::ids::{Pasid, PasidTag, SpaceId};

/// The result of a container's BIND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerBound {
    /// The PASID with which all capable devices of the container reach the space.
    pub pasid: Pasid,
    /// The PASID with its generation.
    pub tag: PasidTag,
    /// True if an earlier BIND with equal features and drvdata bound the space, so that this one
    /// changed nothing.
    pub already_bound: bool,
    /// The members that were left out, each with the reason.
    pub left_out: Vec<Refusal>,
    /// Memory of the space that a member cannot reach, because a peer decodes its addresses.
    pub overlaps: Vec<Overlap>,
}

/// The bond of a space that a container has, and the outcome of the comparison of its drvdata.
#[derive(Clone, Copy)]
struct ComparedBond {
    key: BondKey,
    has_equal_data: bool,
}

impl Container {
    /// Returns the bound spaces in the order of their BINDs.
    pub fn bound(&self) -> Vec<SpaceId> {
        let state = self.iommu.lock();
        let container = state.containers.get(&self.id);
        container.into_iter().flat_map(|c| &c.bonds).map(|bond| bond.space).collect()
    }

    /// Returns how long the faults of the bond of `space` took so far, over all devices of the
    /// container; `None` if the space is not bound to it.
    pub fn fault_times(&self, space: SpaceId) -> Option<FaultTimes> {
        let state = self.iommu.lock();
        let bonds = &state.containers.get(&self.id)?.bonds;
        let key = bonds.iter().find(|bond| bond.space == space)?.key;
        self.iommu.unlock(state);
        Some(self.iommu.fault_times(key))
    }

    /// Binds every capable device of the container to `space`.
    ///
    /// A second BIND with equal features and drvdata changes nothing and returns the same PASID;
    /// its handlers are dropped unused.
    ///
    /// # Errors
    /// See [`ContainerBindError`]. A BIND that fails changes nothing.
    pub fn bind<T: PartialEq + Send + Sync + 'static>(
        &self,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<ContainerBound, ContainerBindError> {
        let space = &space.to_space();
        let members = self.current_routings();
        let overlaps =
            self.iommu.overlaps(&members, &**space).map_err(ContainerBindError::Space)?;
        let data: Arc<dyn AnyData> = Arc::clone(&bind.data) as _;
        let mut space = SpaceToBind::new(&self.iommu, space);
        let (mut state, compared) = self.lock_and_compare(&mut space, &*data);
        let candidates = Candidates::of(state.members_of(self.id));
        if let Some(compared) = compared {
            let tag = self.bind_again(&mut state, compared, bind.features);
            self.iommu.unlock(state);
            return tag.map(|tag| ContainerBound {
                pasid: tag.pasid,
                tag,
                already_bound: true,
                left_out: candidates.left_out,
                overlaps,
            });
        }
        if state.containers[&self.id].groups.is_empty() {
            return Err(ContainerBindError::NoGroup { container: self.id });
        }
        if candidates.capable.is_empty() {
            return Err(ContainerBindError::NoCapableMember {
                container: self.id,
                left_out: candidates.left_out,
            });
        }
        let bound =
            state.bind_candidates(BondKind::Container(self.id), &candidates, &mut space, &mut bind);
        if let (Ok((key, _)), Some(container)) = (&bound, state.containers.get_mut(&self.id)) {
            container.bonds.push(ContainerBond { space: space.description.id, key: *key, data });
        }
        self.iommu.unlock(state);
        let (_, tag) = bound?;
        self.iommu.log_overlaps(&overlaps);
        Ok(ContainerBound {
            pasid: tag.pasid,
            tag,
            already_bound: false,
            left_out: candidates.left_out,
            overlaps,
        })
    }

    /// Takes the control lock for a bind of `space`, and compares the drvdata of the bond that the
    /// container has of it, if it has one.
    ///
    /// The comparison runs with the control lock released. Another thread can replace the bond
    /// meanwhile, so the loop ends once the compared bond is still the container's under the lock.
    fn lock_and_compare<'a>(
        &self,
        space: &mut SpaceToBind<'a>,
        data: &dyn AnyData,
    ) -> (StateGuard<'a>, Option<ComparedBond>) {
        let mut compared: Option<ComparedBond> = None;
        loop {
            let state = space.lock();
            let bonds = &state.containers[&self.id].bonds;
            let Some(bond) = bonds.iter().find(|bond| bond.space == space.description.id) else {
                return (state, None);
            };
            if compared.is_some_and(|compared| compared.key == bond.key) {
                return (state, compared);
            }
            let (key, known) = (bond.key, Arc::clone(&bond.data));
            self.iommu.unlock(state);
            compared = Some(ComparedBond { key, has_equal_data: known.is_equal(data) });
        }
    }

    /// Returns the PASID for a second BIND of a space, or why that BIND is refused.
    fn bind_again(
        &self,
        state: &mut State,
        compared: ComparedBond,
        features: Features,
    ) -> Result<PasidTag, ContainerBindError> {
        let container = self.id;
        let Some(bond) = state.bond(compared.key) else {
            unreachable!("a container's bond exists until its UNBIND")
        };
        let (tag, space) = (bond.record.tag, bond.record.id);
        if !compared.has_equal_data || bond.features != features {
            return Err(ContainerBindError::Different { container, space, pasid: tag.pasid });
        }
        match state.spaces.get(&space).and_then(|space| space.end) {
            Some(reason) => Err(SpaceRefusal::Ended(SpaceEnded(reason)).into()),
            None => Ok(tag),
        }
    }

    /// Undoes the BIND of a space, even if several BINDs asked for it. Blocks as the drop of a
    /// bond does.
    ///
    /// # Errors
    /// The space is not bound to this container.
    pub fn unbind(&self, space: SpaceId) -> Result<UnbindReport, ContainerUnbindError> {
        Ok(self.iommu.unbind(self.remove_bond(space)?.key))
    }

    /// Begins to undo the BIND of a space and does not wait, as
    /// [`Bond::begin_unbind`](crate::Bond::begin_unbind) does.
    ///
    /// # Errors
    /// The space is not bound to this container.
    pub fn begin_unbind(&self, space: SpaceId) -> Result<Unbinding, ContainerUnbindError> {
        Ok(Unbinding::begin(self.iommu.clone(), Some(self.remove_bond(space)?.key)))
    }

    /// Removes the bond of `space` from the container's list. The caller unbinds it.
    fn remove_bond(&self, space: SpaceId) -> Result<ContainerBond, ContainerUnbindError> {
        let mut state = self.iommu.lock();
        let bonds = state.containers.get_mut(&self.id).map(|container| &mut container.bonds);
        let bond = bonds.and_then(|bonds| {
            bonds.iter().position(|bond| bond.space == space).map(|at| bonds.remove(at))
        });
        self.iommu.unlock(state);
        bond.ok_or(ContainerUnbindError::NotBound { container: self.id, space })
    }
}
