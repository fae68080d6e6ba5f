//! Binds a process to a data mover and has that compute the CRC32C of one of the process's regions.
//!
//! ```text
//! cargo run -p sva-host --example checksum                        # this program's own stack
//! cargo run -p sva-host --example checksum -- 4242                # the stack of process 4242
//! cargo run -p sva-host --example checksum -- 4242 libc.so.6#0    # another of its regions
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use sva_core::{Access, Bind, Features, Iommu, IommuConfig, Plug};
use sva_devices::{DataMover, DataMoverConfig, Descriptor, JobTracker};
use sva_host::find_region;
use sva_pci::{DEFAULT_TOML, Fabric};

/// Bytes of one descriptor.
const PIECE: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let pid = arguments.next().map_or(Ok(std::process::id()), |pid| pid.parse())?;
    let name = arguments.next().unwrap_or_else(|| "[stack]".to_owned());

    // A machine: the built-in fabric, an IOMMU over it, and a data mover in its first slot.
    let fabric = Arc::new(Fabric::from_toml(DEFAULT_TOML)?);
    let iommu = Iommu::new(fabric.clone(), IommuConfig::default());
    let jobs = JobTracker::new();
    let spec = *fabric.devices().first().ok_or("the fabric has no device")?;
    let device = iommu.plug(Plug::new(spec).model(jobs.clone()))?.device;
    let mover = DataMover::new(device.port(), jobs, DataMoverConfig::default());

    // The process, and one of its regions. The handle keeps its own type for this; a bind takes it
    // as any other address space.
    let process = sva_host::attach(pid)?;
    let regions = process.regions()?;
    let region = find_region(&regions, &name)?;
    if let Some(why) = region.unusable(Access::READ) {
        return Err(format!("{name} cannot be read by a device: {why}").into());
    }
    let range = region.range;
    // A thread of another process is stopped for a moment. This process is attached without that.
    if pid != std::process::id() {
        println!("process {pid} was stopped for {:?} to attach it", process.stop_time());
    }

    // The bond ends when it is dropped, or when the process ends before.
    let features = Features { page_faults: true, ..Features::default() };
    let terms = Bind::new(pid)
        .features(features)
        .on_exit(|end, pid| eprintln!("process {pid} is gone: {}", end.reason));
    let bond = iommu.bind_device(&device, &process, terms)?;

    let (begin, mut crc, mut done) = (Instant::now(), 0, 0);
    while done < range.len() {
        let len = (range.len() - done).min(PIECE) as u32;
        let piece = Descriptor::crc(range.first() + done, len, crc).block_on_fault();
        let completion = mover.execute(Some(bond.pasid()), &piece)?;
        if !completion.is_success() {
            return Err(format!("after {done} bytes: {}", completion.record).into());
        }
        crc = completion.record.crc();
        done += u64::from(len);
    }
    println!(
        "CRC32C {crc:#010x} of {done} bytes of {name} at {range} by PASID {}, in {:?}",
        bond.pasid(),
        begin.elapsed()
    );
    Ok(())
}
