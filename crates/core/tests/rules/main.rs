//! The contract's rules, one by one, against the production types. docs/rules.md says which test
//! shows which rule.
//!
//! Nothing here sleeps: what has to happen at a certain moment is held there by a resolver or a
//! model, and every wait has a limit.
#![cfg(not(loom))]

mod ats;
mod ats_bounds;
mod ats_cache;
mod ats_invalidation;
mod ats_owner;
mod ats_removal;
mod ats_reset;
mod ats_transfer;
mod ats_unbind;
mod binding;
mod callbacks;
mod container_members;
mod containers;
mod data_path;
mod domains;
mod drain;
mod drain_leaving;
mod ending;
mod fault_queue;
mod faulty_providers;
mod forgotten_pins;
mod group_bonds;
mod hammer;
mod hammer_translating;
mod handlers;
mod hooked_bus;
mod hooked_space;
mod hotplug;
mod in_place;
mod in_place_ports;
mod manual_link;
mod misuse;
mod model;
mod overflow;
mod page_log;
mod pages;
mod paging;
mod pasids;
mod peer_windows;
mod pins;
mod regressions;
mod removal;
mod responses;
mod rollback;
mod services;
mod settings;
mod support;
mod translating;
mod unbinding;
mod workers;
