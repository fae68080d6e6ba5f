//! A system whose devices make page requests, and how their times become rows.

use std::error::Error;
use std::sync::Arc;

use sva_bench::row::{Goal, Rows};
use sva_core::link::Link;
use sva_core::pri::{FaultTimes, Histogram};
use sva_core::{Capabilities, Device, DeviceSpec, Iommu, IommuConfig, PasidWidth, Plug};
use sva_host::MonotonicClock;
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

use crate::device::spec;

/// Where the memory of a space begins.
pub(super) const BASE: u64 = 0x7000_0000_0000;

/// A system with this machine's clock.
pub(super) fn system(config: IommuConfig) -> Iommu {
    Iommu::with_clock(Arc::new(FlatTopology::new()), config, Arc::new(MonotonicClock::new()))
}

/// Plugs the `n`th device in, with ATS and PRI on and `credit` page requests that may be
/// outstanding.
pub(super) fn requesting_device(
    iommu: &Iommu,
    n: u16,
    credit: u32,
    link: Option<Arc<dyn Link>>,
) -> Result<Device, Box<dyn Error>> {
    let capabilities = Capabilities::translating(PasidWidth::MAX, credit);
    let plug = Plug::new(DeviceSpec { capabilities, ..spec(n, PasidWidth::MAX)? });
    let plug = link.into_iter().fold(plug, Plug::link);
    let device = iommu.plug(plug)?.device;
    device.enable_ats()?;
    device.enable_pri()?;
    Ok(device)
}

/// A space with so many pages, none of them present.
pub(super) fn absent_space(pages: u64) -> MemorySpace {
    let space = MemorySpace::new();
    space.map(BASE, pages * PAGE, Protection::READ_WRITE);
    space.absent(BASE, pages * PAGE);
    space
}

/// Microseconds of a quantile.
pub(super) fn us(times: &Histogram, percent: u32) -> f64 {
    times.quantile(f64::from(percent) / 100.0).as_secs_f64() * 1e6
}

/// Rows for the parts of a fault beside the whole of it: the ratio is the share.
pub(super) fn parts(what: &str, times: &FaultTimes, rows: &mut Rows) {
    let all = [
        ("request: until resolving begins", &times.request),
        ("resolve", &times.resolve),
        ("retry: from response to bytes", &times.retry),
    ];
    for (part, histogram) in all.into_iter().filter(|(_, histogram)| histogram.count() > 0) {
        for percent in [50, 99] {
            let (value, whole) = (us(histogram, percent), us(&times.response, percent));
            rows.add(
                format!("{what}, {part}, p{percent}; the whole"),
                "us",
                value,
                whole,
                Goal::None,
            );
        }
    }
}
