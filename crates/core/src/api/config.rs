//! Settings of an IOMMU, and counts of its objects.

use std::time::Duration;

use crate::api::error::{ConfigError, in_bounds};
use crate::types::ids::PasidWidth;

/// Settings of an [`Iommu`](crate::Iommu): the values of [`default`](Self::default), and what the
/// methods with the names of the fields change. Each has bounds, which [`check`](Self::check)
/// checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuConfig {
    /// The PASID width that the IOMMU implements.
    pub pasid_width: PasidWidth,
    /// The width of an I/O virtual address in bits, 1..=64. A mapping ends at or below
    /// 2^`address_width`.
    pub address_width: u8,
    /// The most mappings of one domain, 0 to 2^24.
    pub max_mappings: usize,
    /// The most events that the log holds, 1 to 2^24. When it is full, the oldest event is lost.
    pub event_capacity: usize,
    /// The most page requests that the queue of the IOMMU holds, 1 to 2^24.
    pub page_queue: usize,
    /// The most outstanding page requests that are allocated to one device, whatever its capacity
    /// (Outstanding Page Request Allocation; PCIe 6.0, section 10.5.2.5). It is a share of the
    /// queue, so that one device does not fill it. 0 to 2^24.
    pub page_requests_each: u32,
    /// The most translations in the address translation cache of one device, 1 to 2^24.
    pub atc_entries: usize,
    /// The most outstanding translation requests of one device, 1 to 2^24. A request is
    /// outstanding until its answer is collected or given up.
    pub translation_requests_each: usize,
    /// The size of the IOTLB in bytes, 0 to 2^32, rounded down to a power of two; it has a least
    /// size of 4 KiB. It is one cache for all spaces that can be accessed in place, and is
    /// allocated by the first bond of such a space. A line of 64 bytes holds two translations;
    /// count on one translation per 48 bytes.
    pub iotlb_bytes: usize,
    /// How long the IOMMU waits for the completion of an invalidation before it sends the
    /// invalidation again. Hardware may take a minute (PCIe 6.0, section 10.3.1). Without a clock
    /// there is no limit.
    pub invalidation_limit: Duration,
    /// How many times an invalidation is sent before the device is cut off, 1 to 255.
    pub invalidation_tries: u8,
    /// How long a device waits for the response to a page request group. Without a clock there is
    /// no limit.
    pub response_limit: Duration,
}

/// The greatest number of entries of any table. It bounds the memory that devices can make an IOMMU
/// use, and is far above what serves any of them.
const MAX_ENTRIES: u64 = 1 << 24;
/// The greatest size of an IOTLB.
const MAX_IOTLB_BYTES: u64 = 1 << 32;

impl IommuConfig {
    /// Checks that every setting is in its bounds.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_bounds("address_width", u64::from(self.address_width), 1, 64)?;
        in_bounds("max_mappings", self.max_mappings as u64, 0, MAX_ENTRIES)?;
        in_bounds("event_capacity", self.event_capacity as u64, 1, MAX_ENTRIES)?;
        in_bounds("page_queue", self.page_queue as u64, 1, MAX_ENTRIES)?;
        in_bounds("page_requests_each", u64::from(self.page_requests_each), 0, MAX_ENTRIES)?;
        in_bounds("atc_entries", self.atc_entries as u64, 1, MAX_ENTRIES)?;
        let requests = self.translation_requests_each as u64;
        in_bounds("translation_requests_each", requests, 1, MAX_ENTRIES)?;
        in_bounds("iotlb_bytes", self.iotlb_bytes as u64, 0, MAX_IOTLB_BYTES)?;
        in_bounds("invalidation_tries", u64::from(self.invalidation_tries), 1, u64::from(u8::MAX))
    }

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
    /// 20 PASID bits; 48 bits of I/O virtual address; 65,535 mappings per domain; 1,024 events;
    /// 4,096 page requests, of which a device has 512; 1,024 translations and 1,024 outstanding
    /// translation requests per device; 4 MiB of IOTLB. The IOMMU waits one second for the
    /// completion of an invalidation, which it sends twice, and a device waits ten seconds for the
    /// response to a page request group.
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

/// The number of objects of each kind. All are zero in a system that has been taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObjectCounts {
    /// Devices that are plugged in.
    pub devices: usize,
    /// IOMMU groups.
    pub groups: usize,
    /// Containers.
    pub containers: usize,
    /// Bonds, including those that are being unbound.
    pub bonds: usize,
    /// Address spaces with at least one bond.
    pub spaces: usize,
    /// PASIDs in use.
    pub pasids: u32,
    /// Page requests that are in the queue, or belong to a page request group whose last request
    /// has not arrived.
    pub page_requests: usize,
    /// Page request groups without a response.
    pub page_groups: usize,
    /// Invalidations that are sent and not completed.
    pub invalidations: usize,
    /// Outstanding work of devices: translation requests, translated requests, and page request
    /// groups whose response they wait for.
    pub device_work: usize,
}
