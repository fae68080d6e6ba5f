//! The space of one bind: what its provider says about it, and the watch that it needs if it has no
//! bond yet.
//!
//! The provider is foreign code, so it is called with the control lock released: it may block, call
//! the IOMMU, end the space or panic. What it says is asked once, and later answers do not matter.

use std::sync::Arc;

use crate::api::space::{AddressSpace, EndReason, SpaceEnded, WatchToken};
use crate::table::{Iommu, SpaceDescription, State, StateGuard, WatchNumber};

/// A space that is being bound.
pub(super) struct SpaceToBind<'a> {
    iommu: &'a Iommu,
    pub(super) space: &'a Arc<dyn AddressSpace>,
    pub(super) description: SpaceDescription,
    /// The end that the provider has reported to the thread that binds.
    ended: Option<EndReason>,
    watch: Option<NewWatch<'a>>,
}

impl<'a> SpaceToBind<'a> {
    /// Asks the provider. The caller does not hold the control lock.
    pub(super) fn new(iommu: &'a Iommu, space: &'a Arc<dyn AddressSpace>) -> Self {
        let description = SpaceDescription::of(&**space);
        Self { iommu, space, description, ended: space.ended(), watch: None }
    }

    /// Takes the control lock. Under it the space has a bond, or is watched, or has ended: it is
    /// watched before, unless that is not needed.
    pub(super) fn lock(&mut self) -> StateGuard<'a> {
        let mut state = self.iommu.lock();
        let is_known = state.spaces.contains_key(&self.description.id);
        if is_known || self.watch.is_some() || self.ended.is_some() {
            return state;
        }
        let number = state.begin_watch(self.description.id);
        self.iommu.unlock(state);
        let mut watch =
            NewWatch { iommu: self.iommu, space: self.space, number: Some(number), token: None };
        match self.space.watch(self.iommu.watcher()) {
            Ok(token) => watch.token = Some(token),
            Err(SpaceEnded(reason)) => self.ended = Some(reason),
        }
        self.watch = Some(watch);
        self.iommu.lock()
    }

    /// Why the space has ended; `None` if it has not.
    pub(super) fn end(&self, state: &State) -> Option<EndReason> {
        let known = state.spaces.get(&self.description.id).and_then(|space| space.end);
        let number = self.watch.as_ref().and_then(|watch| watch.number);
        known.or(self.ended).or_else(|| state.end_of_watch(number?))
    }

    /// Hands over the watch. The caller inserts the space under the same lock, so that
    /// [`State::end_space`] finds it and its bonds from here on.
    pub(super) fn take_watch(&mut self, state: &mut State) -> Option<WatchToken> {
        let mut watch = self.watch.take()?;
        state.finish_watch(watch.number.take()?);
        watch.token.take()
    }
}

/// A watch of a space that has no bond. Its drop undoes it; the thread does not hold the control
/// lock then.
struct NewWatch<'a> {
    iommu: &'a Iommu,
    space: &'a Arc<dyn AddressSpace>,
    number: Option<WatchNumber>,
    token: Option<WatchToken>,
}

impl Drop for NewWatch<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.iommu.with_state(|state, _| state.finish_watch(number));
        }
        if let Some(token) = self.token.take() {
            self.space.unwatch(token);
        }
    }
}
