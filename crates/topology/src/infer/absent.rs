//! How the absence of a capability is known: by the list that it would be in.

use crate::machine::{Basis, Fact, ListState};

/// What an absent capability is known by: the list it would be in.
pub(super) fn absent<T>(list: ListState) -> Fact<Option<T>> {
    match list {
        ListState::Complete => Fact::inferred(None, Basis::CompleteList),
        ListState::Hidden => Fact::assumed(None, Basis::CapabilitiesHidden),
        ListState::NotPrinted => Fact::assumed(None, Basis::NotPrinted),
        ListState::Truncated => Fact::assumed(None, Basis::Truncated),
    }
}

/// Why a list does not show what it would have.
pub(super) fn gap(list: ListState) -> Basis {
    match list {
        ListState::Complete => Basis::CompleteList,
        ListState::Hidden => Basis::CapabilitiesHidden,
        ListState::NotPrinted => Basis::NotPrinted,
        ListState::Truncated => Basis::Truncated,
    }
}
