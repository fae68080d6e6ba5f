//! The chapters, in the order in which they are told.

mod compute;
mod containers;
mod endings;
mod groups;
mod hotplug;
mod pasids;
mod protection;
mod windows;

use super::failure::Failure;
use super::{Stage, storm};

/// A part of the story.
pub(super) struct Chapter {
    /// In JSON.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    /// Tells it. An error ends the chapter.
    pub(super) tell: fn(&mut Stage) -> Result<(), Failure>,
}

/// `sva demo --faults`.
pub(super) const FAULTS: &[Chapter] =
    &[Chapter { name: "storm", title: "A storm of page requests", tell: storm::tell }];

/// `sva demo`.
pub(super) const ALL: &[Chapter] = &[
    Chapter { name: "pasids", title: "One PASID for each process", tell: pasids::tell },
    Chapter {
        name: "compute",
        title: "Devices work with a process's own pointers",
        tell: compute::tell,
    },
    Chapter {
        name: "groups",
        title: "Devices that cannot be isolated are bound together",
        tell: groups::tell,
    },
    Chapter {
        name: "windows",
        title: "The bus routes by address: peers can catch what is not redirected",
        tell: windows::tell,
    },
    Chapter {
        name: "protection",
        title: "A device may do what the process may",
        tell: protection::tell,
    },
    Chapter {
        name: "endings",
        title: "Unbind, munmap, exec and kill -9 in the middle of DMA",
        tell: endings::tell,
    },
    Chapter { name: "hotplug", title: "Devices come and go", tell: hotplug::tell },
    Chapter {
        name: "containers",
        title: "Containers share mappings and bindings",
        tell: containers::tell,
    },
];
