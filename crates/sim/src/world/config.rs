//! How large a world is, and what may happen in it.

use std::time::Duration;

use sva_core::device::PasidCapability;
use sva_core::{Capabilities, PasidWidth};

/// Where the memory of every space begins: the same in all, as it is in processes.
pub(super) const BASE: u64 = 0x10_0000;
/// For how long an invalidation is awaited.
pub(super) const LIMIT: Duration = Duration::from_millis(10);

/// The size of a world, and what may happen in it: the values of [`default`](Self::default), and
/// what the methods with the names of the fields change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorldConfig {
    /// The number of devices; the first two share a group. The last one issues neither execute nor
    /// privileged requests.
    pub devices: u8,
    /// The number of containers that groups join and leave; 0: none.
    pub containers: u8,
    /// The number of address spaces that exist at a time.
    pub spaces: u8,
    /// Pages of each space: 8 or more.
    pub pages: u64,
    /// The PASID width in bits, 1 to 20. With few bits, PASIDs are reused soon.
    pub pasid_bits: u8,
    /// One in this many messages is lost, delivered twice or corrupted; 0: none.
    pub message_faults: u32,
    /// Whether devices are reset, removed and plugged in. Without it, only devices that were cut
    /// off are reset.
    pub device_faults: bool,
    /// Whether address spaces end.
    pub exits: bool,
    /// Whether memory is mapped for transactions without PASID.
    pub mappings: bool,
    /// Whether bonds and domains have owners that answer page requests.
    pub owners: bool,
}

impl WorldConfig {
    /// Sets [`devices`](Self#structfield.devices).
    pub fn devices(self, devices: u8) -> Self {
        Self { devices, ..self }
    }

    /// Sets [`containers`](Self#structfield.containers).
    pub fn containers(self, containers: u8) -> Self {
        Self { containers, ..self }
    }

    /// Sets [`spaces`](Self#structfield.spaces).
    pub fn spaces(self, spaces: u8) -> Self {
        Self { spaces, ..self }
    }

    /// Sets [`pages`](Self#structfield.pages).
    pub fn pages(self, pages: u64) -> Self {
        Self { pages, ..self }
    }

    /// Sets [`pasid_bits`](Self#structfield.pasid_bits).
    pub fn pasid_bits(self, pasid_bits: u8) -> Self {
        Self { pasid_bits, ..self }
    }

    /// Sets [`message_faults`](Self#structfield.message_faults).
    pub fn message_faults(self, message_faults: u32) -> Self {
        Self { message_faults, ..self }
    }

    /// Sets [`device_faults`](Self#structfield.device_faults).
    pub fn device_faults(self, device_faults: bool) -> Self {
        Self { device_faults, ..self }
    }

    /// Sets [`exits`](Self#structfield.exits).
    pub fn exits(self, exits: bool) -> Self {
        Self { exits, ..self }
    }

    /// Sets [`mappings`](Self#structfield.mappings).
    pub fn mappings(self, mappings: bool) -> Self {
        Self { mappings, ..self }
    }

    /// Sets [`owners`](Self#structfield.owners).
    pub fn owners(self, owners: bool) -> Self {
        Self { owners, ..self }
    }
}

impl Default for WorldConfig {
    /// Four devices, two containers, three spaces of eight pages, three PASIDs; everything happens.
    fn default() -> Self {
        Self {
            devices: 4,
            containers: 2,
            spaces: 3,
            pages: 8,
            pasid_bits: 2,
            message_faults: 10,
            device_faults: true,
            exits: true,
            mappings: true,
            owners: true,
        }
    }
}

/// What a device can do: everything; or all but execute and be privileged.
pub(super) fn capabilities(config: &WorldConfig, plain: bool) -> Capabilities {
    let width = PasidWidth::new(config.pasid_bits).expect("1 to 20 bits");
    let pasid = PasidCapability { width, execute: !plain, privileged: !plain };
    Capabilities { pasid: Some(pasid), ..Capabilities::translating(width, 4) }
}
