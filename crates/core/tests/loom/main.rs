//! Models of the core's races, over the production types through the shim.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p sva-core --test loom --profile model`; with `--
//! --nocapture` each says how many schedules it tried. loom tries every order of the steps that
//! threads can see of one another, and reports any deadlock.
//!
//! Each model says its threads, how far it is explored, how many schedules that is, and how long it
//! took alone on one core. *Every schedule* is without a bound; *forced switches* are the times
//! that all threads together are interrupted where they could have gone on: the largest bound that
//! stays within seconds. Capacities are those of [`support::tiny`] where nothing else is said: one
//! or three PASIDs, two page requests in the queue, one translation a device. What is done before
//! the threads are started and after they have ended has one order. `LOOM_MAX_PREEMPTIONS` lowers
//! all bounds.
#![cfg(loom)]

mod bonds;
mod domains;
mod hotplug;
mod in_place;
mod iotlb;
mod iotlb_bonds;
mod pages;
mod pins;
mod probe;
mod reset;
mod support;
mod translation;
