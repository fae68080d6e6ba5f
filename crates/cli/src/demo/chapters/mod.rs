//! The chapters, in their order. Each uses what `demo` has, and no other chapter.

mod compute;
mod containers;
mod endings;
mod groups;
mod hotplug;
mod pasids;
mod protection;
mod windows;

use super::context::Context;
use super::failure::Failure;
use super::storm;

/// A part of the demonstration.
pub(super) struct Chapter {
    /// In JSON.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    /// Does what it shows, and makes its claims. An error ends the chapter.
    pub(super) run: fn(&mut Context) -> Result<(), Failure>,
}

/// `sva demo --faults`.
pub(super) const FAULTS: &[Chapter] =
    &[Chapter { name: "storm", title: "A storm of page requests", run: storm::run }];

/// `sva demo`.
pub(super) const ALL: &[Chapter] = &[
    Chapter { name: "pasids", title: "One PASID for each process", run: pasids::run },
    Chapter {
        name: "compute",
        title: "Devices work with a process's own pointers",
        run: compute::run,
    },
    Chapter {
        name: "groups",
        title: "Devices that cannot be isolated are bound together",
        run: groups::run,
    },
    Chapter {
        name: "windows",
        title: "The bus routes by address: peers can catch what is not redirected",
        run: windows::run,
    },
    Chapter {
        name: "protection",
        title: "A device may do what the process may",
        run: protection::run,
    },
    Chapter {
        name: "endings",
        title: "Unbind, munmap, exec and kill -9 in the middle of DMA",
        run: endings::run,
    },
    Chapter { name: "hotplug", title: "Devices come and go", run: hotplug::run },
    Chapter {
        name: "containers",
        title: "Containers share mappings and bindings",
        run: containers::run,
    },
];
