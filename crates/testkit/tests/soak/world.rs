//! What all threads of a round share.

use sva_core::{Device, Iommu};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_testkit::PAGE;

use crate::life::{Life, Tie};
use crate::page::Name;

/// Pages of a site whose contents come and go, at most. One more, the ledger, keeps its contents as
/// long as the space lives.
pub(crate) const PAGES: usize = 32;
/// The page to whose first word all devices add.
pub(crate) const LEDGER: usize = PAGES;

/// Words in more memory than the processor's caches hold.
const COLD: usize = 1 << 24;

const BASE: u64 = 0x7000_0000_0000;
/// Sites are that far apart, so that who comes to another space by a PASID that has a new owner
/// finds nothing there.
const SITE: u64 = 1 << 30;

/// Addresses at which one space after another lives.
pub(crate) struct Site {
    pub(crate) number: usize,
    pub(crate) pages: [Life; PAGES + 1],
    /// Of each device.
    pub(crate) ties: Vec<Tie>,
}

impl Site {
    fn new(number: usize, devices: usize) -> Self {
        Self {
            number,
            pages: std::array::from_fn(|_| Life::new()),
            ties: (0..devices).map(|_| Tie::default()).collect(),
        }
    }

    pub(crate) fn name(&self, page: usize) -> Name {
        Name { site: self.number, page }
    }

    pub(crate) fn address(&self, page: usize) -> u64 {
        BASE + self.number as u64 * SITE + page as u64 * PAGE
    }

    /// Where its pages are made ready, out of the devices' sight.
    pub(crate) fn staging(&self, page: usize) -> u64 {
        self.address(page) + SITE / 4
    }

    /// Where its pages are put aside, out of the devices' sight.
    pub(crate) fn aside(&self, page: usize) -> u64 {
        self.address(page) + SITE / 2
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) iommu: Iommu,
    pub(crate) devices: Vec<Device>,
    pub(crate) sites: Vec<Site>,
    /// Of each site, that devices access; not the ledger.
    pub(crate) pages: usize,
    /// Accesses of each thread, as far as it has told.
    pub(crate) accesses: Vec<AtomicU64>,
    pub(crate) changes: AtomicU64,
    /// To be written to, and never read.
    pub(crate) cold: Vec<AtomicU64>,
    /// Owners wait for the devices to be told, lest a change is made that no device sees.
    pub(crate) devices_over: AtomicBool,
    pub(crate) owners_over: AtomicBool,
    defect: Mutex<Option<String>>,
}

impl World {
    pub(crate) fn new(
        iommu: Iommu,
        devices: Vec<Device>,
        sites: usize,
        pages: usize,
        threads: usize,
    ) -> Self {
        Self {
            iommu,
            sites: (0..sites).map(|number| Site::new(number, devices.len())).collect(),
            devices,
            pages,
            accesses: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            changes: AtomicU64::new(0),
            cold: (0..COLD).map(|_| AtomicU64::new(0)).collect(),
            devices_over: AtomicBool::new(false),
            owners_over: AtomicBool::new(false),
            defect: Mutex::default(),
        }
    }

    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.iter().map(|told| told.load(Ordering::Relaxed)).sum()
    }

    /// Something that no space has permitted. The first one counts.
    pub(crate) fn report(&self, defect: String) {
        self.defect.lock().get_or_insert(defect);
        self.devices_over.store(true, Ordering::Relaxed);
        self.owners_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn defect(&self) -> Option<String> {
        self.defect.lock().clone()
    }
}
