//! The provider: which spaces this program has, how one is attached, and who notices its end.
//!
//! Layer: the highest. Inside the folder, lowest first: `registry`, `monitor`, `attach`.
//!
//! # Locks
//!
//! Outermost first: `Provider::attaching`, held over an attach, one at a time; the lock of the
//! registry, held over a few `kcmp` calls; the locks of a space. A handle of a space that is taken
//! under the registry's lock is dropped after the lock has been released: dropping the last one
//! drops watchers.

mod attach;
mod monitor;
mod registry;

pub(super) use attach::Provider;
