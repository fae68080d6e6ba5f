//! Settings of an IOMMU, and counts of what it holds.

use std::time::Duration;

use crate::types::ids::PasidWidth;

/// Settings of an [`Iommu`](crate::Iommu): those of [`default`](Self::default), and what the methods
/// with the names of the fields change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuConfig {
    /// PASID bits that the IOMMU implements.
    pub pasid_width: PasidWidth,
    /// IOVA bits: mappings end below 2^this. 1..=64.
    pub address_width: u8,
    /// Mappings that one domain may hold.
    pub max_mappings: usize,
    /// Events that the log keeps.
    pub event_capacity: usize,
    /// Page requests that the queue holds before they are sorted.
    pub page_queue: usize,
    /// Outstanding page requests that one device is allocated at the most, whatever its capacity:
    /// a share of the queue, so that one device does not fill it.
    pub page_requests_each: u32,
    /// Translations that the cache of one device holds.
    pub atc_entries: usize,
    /// Translation requests that one device may have outstanding: asked, and their answer neither
    /// collected nor given up. At least one.
    pub translation_requests_each: usize,
    /// Bytes that the translation cache of the IOMMU (IOTLB) takes, for all spaces that can be
    /// accessed in place, with the first bond of such a space; rounded down to a power of two. It
    /// holds a translation for each 48 of them, and more with some luck.
    pub iotlb_bytes: usize,
    /// For how long the completion of an invalidation is awaited, each time. Hardware may take a
    /// minute (PCIe 6.0, section 10.3.1); needs a clock.
    pub invalidation_limit: Duration,
    /// How often an invalidation is sent before the device is cut off: 1 or more.
    pub invalidation_tries: u8,
    /// For how long a device awaits the response to a group of page requests; needs a clock.
    pub response_limit: Duration,
}

impl IommuConfig {
    /// Sets [`pasid_width`](Self#structfield.pasid_width).
    pub fn pasid_width(self, pasid_width: PasidWidth) -> Self {
        Self { pasid_width, ..self }
    }

    /// Sets [`address_width`](Self#structfield.address_width).
    pub fn address_width(self, address_width: u8) -> Self {
        Self { address_width, ..self }
    }

    /// Sets [`max_mappings`](Self#structfield.max_mappings).
    pub fn max_mappings(self, max_mappings: usize) -> Self {
        Self { max_mappings, ..self }
    }

    /// Sets [`event_capacity`](Self#structfield.event_capacity).
    pub fn event_capacity(self, event_capacity: usize) -> Self {
        Self { event_capacity, ..self }
    }

    /// Sets [`page_queue`](Self#structfield.page_queue).
    pub fn page_queue(self, page_queue: usize) -> Self {
        Self { page_queue, ..self }
    }

    /// Sets [`page_requests_each`](Self#structfield.page_requests_each).
    pub fn page_requests_each(self, page_requests_each: u32) -> Self {
        Self { page_requests_each, ..self }
    }

    /// Sets [`atc_entries`](Self#structfield.atc_entries).
    pub fn atc_entries(self, atc_entries: usize) -> Self {
        Self { atc_entries, ..self }
    }

    /// Sets [`translation_requests_each`](Self#structfield.translation_requests_each).
    pub fn translation_requests_each(self, translation_requests_each: usize) -> Self {
        Self { translation_requests_each, ..self }
    }

    /// Sets [`iotlb_bytes`](Self#structfield.iotlb_bytes).
    pub fn iotlb_bytes(self, iotlb_bytes: usize) -> Self {
        Self { iotlb_bytes, ..self }
    }

    /// Sets [`invalidation_limit`](Self#structfield.invalidation_limit).
    pub fn invalidation_limit(self, invalidation_limit: Duration) -> Self {
        Self { invalidation_limit, ..self }
    }

    /// Sets [`invalidation_tries`](Self#structfield.invalidation_tries).
    pub fn invalidation_tries(self, invalidation_tries: u8) -> Self {
        Self { invalidation_tries, ..self }
    }

    /// Sets [`response_limit`](Self#structfield.response_limit).
    pub fn response_limit(self, response_limit: Duration) -> Self {
        Self { response_limit, ..self }
    }
}

impl Default for IommuConfig {
    /// 20 PASID bits, 48 IOVA bits, 65,535 mappings a domain, 1,024 events, 4,096 page requests of
    /// which a device has 512, 1,024 translations and 1,024 translation requests a device, 4 MiB
    /// for the IOTLB; an invalidation is awaited for a second and sent twice, a response for
    /// ten seconds.
    fn default() -> Self {
        Self {
            pasid_width: PasidWidth::MAX,
            address_width: 48,
            max_mappings: 65_535,
            event_capacity: 1024,
            page_queue: 4096,
            page_requests_each: 512,
            atc_entries: 1024,
            translation_requests_each: 1024,
            iotlb_bytes: 4 << 20,
            invalidation_limit: Duration::from_secs(1),
            invalidation_tries: 2,
            response_limit: Duration::from_secs(10),
        }
    }
}

/// How many objects of each kind there are; all are zero in a system that has been taken down
/// without a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObjectCounts {
    /// Devices plugged in.
    pub devices: usize,
    /// Groups.
    pub groups: usize,
    /// Containers.
    pub containers: usize,
    /// Bonds, those included that are being unbound.
    pub bonds: usize,
    /// Address spaces with at least one bond.
    pub spaces: usize,
    /// PASIDs in use.
    pub pasids: u32,
    /// Page requests that are queued or belong to a group that is not complete.
    pub page_requests: usize,
    /// Groups of page requests that are not answered.
    pub page_groups: usize,
    /// Invalidations that a device has not completed.
    pub invalidations: usize,
    /// What devices have under way themselves: translation requests, translated requests, groups
    /// that they wait for.
    pub device_work: usize,
}
