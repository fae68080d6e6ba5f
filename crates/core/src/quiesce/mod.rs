//! Quiescence: an unbind, a removal and an invalidation wait here for the accesses in flight.
//!
//! All detection of accesses in flight is in this layer. It uses `types` and the crate `sva-sync`,
//! and nothing else of this crate.
//!
//! - An access through gates increments the count of a [`Gate`]. The access that brings the count
//!   of a shut gate to zero continues the work of the thread that shut it.
//! - An access through a cached translation is a [`ReadGuard`] of the port's [`ReaderSlot`]. A
//!   [`GracePeriod`] spins until it has ended: such an access is one copy.
//! - Memory that a device model has pinned is a range in a [`PinSlot`]. The waiting thread adds a
//!   [`Completion`] to the slot.
//! - A translation in a device's ATC is covered by an invalidation request, which carries a
//!   [`Completion`].
//!
//! A thread that is [inside a callback](callback) never waits: the access that it would wait for
//! may be a caller of that callback.

pub(crate) mod callback;
mod completion;
mod gate;
mod pin;
mod read;

pub(crate) use completion::{Change, Completion, Countdown, InvalidationHost, Waiter, complete};
pub(crate) use gate::Gate;
pub(crate) use pin::{PinSlot, PinSlots, PinnedRange};
pub(crate) use read::{GracePeriod, ReadGuard, ReaderSlot, ReaderTag, Readers, SpaceUsers};
