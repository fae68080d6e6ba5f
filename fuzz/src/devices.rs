//! What the devices read from a bound process: descriptors, lists, graphs.

use std::sync::Arc;

use sva_core::{
    Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Iommu, IommuConfig, PasidWidth, Plug,
};
use sva_devices::{
    DataMover, DataMoverConfig, Descriptor, GraphSearch, IndexWidth, JobTracker, ListWalk, Walker,
    WalkerConfig,
};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

/// Where the process has memory.
const BASE: u64 = 0x10_0000;
const PAGES: u64 = 8;

/// A device bound to a process.
struct Rig {
    device: Device,
    jobs: Arc<JobTracker>,
    bond: Bond<()>,
}

impl Rig {
    /// `bytes` at [`BASE`], as many as there is room for.
    fn new(bytes: &[u8]) -> Self {
        let space = Arc::new(MemorySpace::new());
        let len = PAGES * PAGE;
        space.map(BASE, len, Protection::READ_WRITE);
        space.poke(BASE, &bytes[..bytes.len().min(len as usize)]);
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let jobs = JobTracker::new();
        let width = PasidWidth::new(1).expect("1..=20");
        let bdf = Bdf::new(0, 1, 0, 0).expect("a device number below 32");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(width) };
        let device =
            iommu.plug(Plug::new(spec).model(jobs.clone())).expect("the slot is free").device;
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("a bond");
        Self { device, jobs, bond }
    }
}

/// A descriptor, then what is in memory: the rest, or the list of a batch.
///
/// # Panics
/// The data mover is told to stop, though nobody unbinds.
pub fn descriptor(data: &[u8]) {
    let Some((head, memory)) = data.split_first_chunk::<64>() else { return };
    let rig = Rig::new(memory);
    let config =
        DataMoverConfig::default().max_transfer(0x1_0000).max_batch(16).chunk(PAGE as usize);
    let mover = DataMover::new(rig.device.port(), rig.jobs.clone(), config);
    let descriptor = Descriptor::from(*head);
    mover.execute(Some(rig.bond.pasid()), &descriptor).expect("nobody unbinds");
}

/// A list and a graph: how they are to be followed, then what is in memory.
///
/// # Panics
/// More is followed than was asked for.
pub fn walk(data: &[u8]) {
    let Some((head, memory)) = data.split_first_chunk::<16>() else { return };
    let rig = Rig::new(memory);
    let config = WalkerConfig::default().max_payload(512).max_vertices(512).chunk(256);
    let walker = Walker::new(rig.device.port(), rig.jobs.clone(), config);
    let pasid = Some(rig.bond.pasid());
    let near = |at: usize| BASE + u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let list = ListWalk {
        head: near(0),
        next_offset: u64::from(head[2]),
        payload_offset: u64::from(head[3]),
        payload_len: u32::from(head[4]) * 4,
        max_nodes: 256,
    };
    let mut nodes = 0;
    if let Ok(report) = walker.walk_list(pasid, &list, |_, _| nodes += 1) {
        assert!(report.nodes == nodes && nodes <= 256, "{report:?}");
    }
    let width = |bit: u8| if head[5] & bit == 0 { IndexWidth::U32 } else { IndexWidth::U64 };
    let graph = GraphSearch {
        rows: near(6),
        row_width: width(1),
        columns: near(8),
        column_width: width(2),
        vertices: u32::from(u16::from_le_bytes([head[10], head[11]])),
        edges: u64::from(u16::from_le_bytes([head[12], head[13]])),
        source: u32::from(head[14]),
        distances: (head[5] & 4 != 0).then(|| near(0)),
    };
    if let Ok(report) = walker.search_graph(pasid, &graph) {
        assert_eq!(report.distances.len(), graph.vertices as usize);
    }
}
