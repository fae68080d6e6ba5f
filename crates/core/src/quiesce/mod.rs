//! Quiescence: an unbind, a removal and an invalidation wait here for the accesses in flight.
//!
//! All detection of accesses in flight is in this layer, except of those through the ATC of a
//! device, which `protocol::ats` records. It uses `types` and the crate `sva-sync`, and nothing
//! else of this crate.
//!
//! - An access through gates increments the count of a [`Gate`]. The access that brings the count
//!   of a shut gate to zero continues the work of the thread that shut it.
//! - An access through a cached translation is a [`ReadGuard`] of the port's [`ReaderSlot`]. A
//!   [`GracePeriod`] spins until it has ended: such an access is one copy.
//! - Memory that a device model has pinned is a range in a [`PinSlot`]. The waiting thread adds a
//!   [`Waiter`] to the slot.
//! - A translation in a device's ATC ends with an invalidation of the device. Its invalidation
//!   queue keeps a [`Waiter`] for each request in flight.
//!
//! A thread that is [inside a callback](callback) does not wait for gates or handlers: the access
//! that it would wait for may be a caller of that callback. It may wait for a grace period, for a
//! device, and for pins of other threads.

pub(crate) mod callback;
mod gate;
mod pin;
mod read;
mod wait;

pub(crate) use gate::Gate;
pub(crate) use pin::{PinSlot, PinSlots, PinnedRange};
pub(crate) use read::{GracePeriod, ReadGuard, ReaderSlot, ReaderTag, Readers, SpaceUsers};
pub(crate) use wait::{Countdown, InvalidationWait, WaitQueue, Waiter, WeakWaiter, step_all};
