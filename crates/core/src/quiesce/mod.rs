//! Quiescence: how whoever takes something away waits for the accesses that still use it.
//!
//! This is the one place that knows how accesses in flight are found. It uses `types` and the
//! shim `sva-sync`, and nothing else of this crate.
//!
//! | what uses it | how it says so | how others wait for it |
//! |---|---|---|
//! | an access through gates | a count in a [`Gate`] | the last one out continues the work |
//! | an access through a cached translation | a [`ReadGuard`] over the port's [`ReaderSlot`] | a [`GracePeriod`] spins: the access is one copy |
//! | code of a device model that holds memory | a range in a [`PinSlot`] | a [`Completion`] is left at the slot |
//! | a device that keeps translations | an invalidation in flight | a [`Completion`] is given to the invalidation |
//!
//! A thread that is [inside a callback](callback) does not wait at all: what it would wait for may
//! be its own call.

pub(crate) mod callback;
mod completion;
mod gate;
mod pin;
mod read;

pub(crate) use completion::{Change, Completion, Countdown, InvalidationHost, Waiter, complete};
pub(crate) use gate::Gate;
pub(crate) use pin::{PinSlot, PinSlots, PinnedRange};
pub(crate) use read::{GracePeriod, ReadGuard, ReaderSlot, ReaderTag, Readers, SpaceUsers};
