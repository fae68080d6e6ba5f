//! One of each way, and their names in rows.

use super::ways::{Counted, Epoch, Locked, Nothing, Slots, Swapped, Validated};

/// In the order of the rows; the first is the baseline.
pub(super) const KINDS: [&str; 8] = [
    "no guard",
    "slot, membarrier",
    "slot, fence",
    "reader count",
    "RwLock",
    "crossbeam-epoch pin",
    "arc-swap load",
    "check after (reads only)",
];

/// Calls `$body` with each kind, in the order of [`KINDS`], and answers the results.
macro_rules! for_each_kind {
    ($kinds:expr, |$kind:ident| $body:expr) => {{
        let Kinds { nothing, asymmetric, symmetric, counted, locked, epoch, swapped, validated } =
            $kinds;
        let all: [_; KINDS.len()] = [
            {
                let $kind = nothing;
                $body
            },
            {
                let $kind = asymmetric;
                $body
            },
            {
                let $kind = symmetric;
                $body
            },
            {
                let $kind = counted;
                $body
            },
            {
                let $kind = locked;
                $body
            },
            {
                let $kind = epoch;
                $body
            },
            {
                let $kind = swapped;
                $body
            },
            {
                let $kind = validated;
                $body
            },
        ];
        all
    }};
}

/// One of each.
#[derive(Default)]
pub(super) struct Kinds {
    pub(super) nothing: Nothing,
    pub(super) asymmetric: Slots<false>,
    pub(super) symmetric: Slots<true>,
    pub(super) counted: Counted,
    pub(super) locked: Locked,
    pub(super) epoch: Epoch,
    pub(super) swapped: Swapped,
    pub(super) validated: Validated,
}

pub(super) use for_each_kind;
