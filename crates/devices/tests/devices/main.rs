//! The devices against the real core and memory of the test's own.

mod bad_descriptors;
mod batch;
mod completion;
mod faults;
mod jobs;
mod rig;
mod semantics;
mod stop;
mod walker;
