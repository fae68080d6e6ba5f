//! ATS and PRI as state machines, of the device's side and of the IOMMU's.
//!
//! They have no locks, links, threads or clock, and know devices by keys and small traits: whoever
//! calls them holds the lock, passes the time, and sends what they answer. So they are driven alike
//! by worker threads, by a model checker and by a seeded scheduler. They use `types`, `api` and, of
//! `quiesce`, the completions that are waited for.

pub(crate) mod ats;
pub(crate) mod pri;
