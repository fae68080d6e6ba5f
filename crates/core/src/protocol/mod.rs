//! ATS and PRI as state machines: the side of the device and the side of the IOMMU.
//!
//! They have no locks, links, threads or clock, and refer to devices by keys and small traits. The
//! caller has the lock, passes the time, and sends the messages that they return. Worker threads, a
//! model checker and a seeded scheduler can therefore drive them in the same way. This layer uses
//! `types`, `api` and the waiters of `quiesce`.

pub(crate) mod ats;
pub(crate) mod pri;
