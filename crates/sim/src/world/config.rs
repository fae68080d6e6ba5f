//! How large a world is, and what may happen in it.

use std::time::Duration;

use sva_core::device::PasidCapability;
use sva_core::{Capabilities, PasidWidth};

/// Where the memory of every space begins: the same in all, as it is in processes.
pub(super) const BASE: u64 = 0x10_0000;
/// For how long an invalidation is awaited.
pub(super) const LIMIT: Duration = Duration::from_millis(10);

/// How large a world is, and what may happen in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldConfig {
    /// Devices; the first two share a group. The last one can neither execute nor be privileged.
    pub devices: u8,
    /// Containers at a time, that groups join and leave; 0: none.
    pub containers: u8,
    /// Spaces at a time.
    pub spaces: u8,
    /// Pages of each space: 8 or more.
    pub pages: u64,
    /// PASID bits: few, so that numbers come again soon.
    pub pasid_bits: u8,
    /// One message in so many of those that can is lost, doubled or corrupted; 0: none.
    pub message_faults: u32,
    /// Devices are reset, removed and plugged in. Without it only those are reset that were cut
    /// off, which nothing else ends.
    pub device_faults: bool,
    /// Spaces end.
    pub exits: bool,
    /// Memory is mapped for transactions without PASID.
    pub mappings: bool,
    /// Bonds and domains have owners who answer page requests.
    pub owners: bool,
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
