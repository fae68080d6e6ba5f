//! The features that a bond asks for.

use sva_core::Features;

use super::owner::OwnerId;
use crate::choices::Choices;

/// Mostly the default features.
pub(super) fn any_features(choices: &mut Choices) -> Features {
    let default = Features::default();
    match choices.below(12) {
        6 | 7 => Features { execute: true, ..default },
        8 => Features { privileged: true, ..default },
        9 | 10 => Features { execute: true, privileged: true, ..default },
        11 => Features::NONE,
        _ => default,
    }
}

/// What a trace tells of a bond beyond the default.
pub(super) fn extras(features: Features, owner: Option<OwnerId>) -> String {
    let default = Features::default();
    let mut more = String::new();
    for (differs, what) in [
        (features.execute != default.execute, ", may execute"),
        (features.privileged != default.privileged, ", may be privileged"),
        (features.page_faults != default.page_faults, ", without page faults"),
    ] {
        more += if differs { what } else { "" };
    }
    owner.map_or_else(|| more.clone(), |owner| format!("{more}, page requests to owner {owner}"))
}
