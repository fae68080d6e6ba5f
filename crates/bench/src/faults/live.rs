//! One fault at a time in a live process: page request, resolving, response and the access again,
//! beside one bare `process_vm_readv` of a page that is not there either.

use std::error::Error;
use std::time::Instant;

use sva_bench::row::{Goal, Rows};
use sva_bench::system::{RemoteIoVec, read_process};
use sva_core::pri::Histogram;
use sva_core::pri::WorkerConfig;
use sva_core::{Bind, IommuConfig, Workers};
use sva_testkit::PAGE;

use super::fixture::{parts, requesting_device, system, us};
use crate::target::Target;

/// Pages of the target: each is faulted in once, by the device or by the baseline.
const PAGES: u64 = 16 << 10;
/// Faults in a round; then the baseline has its turn.
const BATCH: u64 = 64;

pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let mut target = Target::untouched((PAGES * PAGE) as usize)?;
    let iommu = system(IommuConfig::default());
    let device = requesting_device(&iommu, 0, 32, None)?;
    let space = sva_host::attach(target.pid())?;
    let bond = iommu.bind_device(&device, &space, Bind::new(()))?;
    let _workers = Workers::start(&iommu, WorkerConfig::default().threads(1).max_threads(1))?;
    let port = device.ats_port();
    let (mut access, mut bare) = (Histogram::default(), Histogram::default());
    let (times, per_time) = if quick { (1, 4) } else { (4, PAGES / (2 * BATCH)) };
    for time in 0..times {
        if time > 0 {
            target.renew()?;
        }
        // The page that the buffer begins in has the allocator's own words: it is there.
        let mut pages = (target.address.next_multiple_of(PAGE)..).step_by(PAGE as usize).skip(1);
        for _ in 0..per_time - 1 {
            for page in pages.by_ref().take(BATCH as usize) {
                let begun = Instant::now();
                port.read(Some(bond.pasid()), page, &mut [0; 64])?;
                access.record(begun.elapsed());
            }
            for page in pages.by_ref().take(BATCH as usize) {
                let begun = Instant::now();
                let remote = [RemoteIoVec { base: page as usize, len: 64 }];
                read_process(target.pid(), &mut [0; 64], &remote)?;
                bare.record(begun.elapsed());
            }
        }
    }
    let times = bond.fault_times();
    if times.response.count() != access.count() {
        return Err(
            format!("{} of {} accesses faulted", times.response.count(), access.count()).into()
        );
    }
    for percent in [50, 99] {
        let baseline = us(&bare, percent);
        let case = |what| format!("live process: {what}, p{percent}, bare readv of an absent page");
        rows.add(case("whole faulting access"), "us", us(&access, percent), baseline, Goal::None);
        rows.add(
            case("fault round trip"),
            "us",
            us(&times.response, percent),
            baseline,
            Goal::None,
        );
    }
    parts("live process", &times, rows);
    Ok(())
}
