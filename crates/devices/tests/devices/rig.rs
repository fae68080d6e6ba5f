//! One device bound to one space.

use std::sync::Arc;

use sva_core::{
    AddressSpace, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Iommu, IommuConfig, Pasid,
    PasidWidth, Plug,
};
use sva_devices::{
    Completion, DataMover, DataMoverConfig, Descriptor, JobTracker, Walker, WalkerConfig,
};
use sva_testkit::{FlatTopology, Forwarding, MemorySpace, PAGE, Protection, RecordingSpace};

/// Where the space has memory.
pub(crate) const BASE: u64 = 0x10_0000;

pub(crate) struct Rig {
    pub(crate) space: Arc<MemorySpace>,
    pub(crate) log: Arc<Forwarding<RecordingSpace>>,
    pub(crate) iommu: Iommu,
    pub(crate) device: Device,
    pub(crate) jobs: Arc<JobTracker>,
    pub(crate) bond: Option<Bond<()>>,
    pub(crate) pasid: Option<Pasid>,
    pub(crate) mover: DataMover,
    pub(crate) walker: Walker,
}

/// A data mover that moves a page at a time, so that small transfers take several steps.
pub(crate) fn page_by_page() -> DataMoverConfig {
    DataMoverConfig::default().chunk(1)
}

impl Rig {
    /// `pages` of memory at [`BASE`], zeroed.
    pub(crate) fn new(pages: u64) -> Self {
        Self::with(pages, page_by_page())
    }

    pub(crate) fn with(pages: u64, config: DataMoverConfig) -> Self {
        let space = Arc::new(MemorySpace::new());
        space.map(BASE, pages * PAGE, Protection::READ_WRITE);
        let log = RecordingSpace::new(space.handle());
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let jobs = JobTracker::new();
        let bdf = Bdf::new(0, 1, 0, 0).expect("a device number below 32");
        let spec = DeviceSpec {
            bdf,
            capabilities: Capabilities::sva(PasidWidth::new(1).expect("1..=20")),
        };
        let device =
            iommu.plug(Plug::new(spec).model(jobs.clone())).expect("the slot is free").device;
        let handle: Arc<dyn AddressSpace> = log.clone();
        let bond = iommu.bind_device(&device, &handle, Bind::new(())).expect("a bond");
        let mover = DataMover::new(device.port(), jobs.clone(), config);
        let walker = Walker::new(device.port(), jobs.clone(), WalkerConfig::default().chunk(256));
        Self {
            space,
            log,
            iommu,
            device,
            jobs,
            pasid: Some(bond.pasid()),
            bond: Some(bond),
            mover,
            walker,
        }
    }

    /// Executes a descriptor that nothing stops.
    pub(crate) fn run(&self, descriptor: Descriptor) -> Completion {
        self.mover.execute(self.pasid, &descriptor).expect("nobody unbinds")
    }

    /// Puts random bytes at `at` (an offset from [`BASE`]) and answers them.
    pub(crate) fn scribble(&self, at: u64, len: usize, seed: u64) -> Vec<u8> {
        let bytes = noise(len, seed);
        self.space.poke(BASE + at, &bytes);
        bytes
    }

    /// Puts descriptors at `at` and answers their address.
    pub(crate) fn list(&self, at: u64, descriptors: &[Descriptor]) -> u64 {
        use zerocopy::IntoBytes;
        self.space.poke(BASE + at, descriptors.as_bytes());
        BASE + at
    }
}

/// Bytes by a seed (splitmix64).
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}
