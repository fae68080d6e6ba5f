//! `bind_device` and unbind on the in-memory provider: the rate, and how it grows with the bonds
//! that are alive.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use sva_bench::row::{Goal, Rows, median};
use sva_core::{AddressSpace, Bind, Bond, Device, Iommu, IommuConfig, PasidWidth};
use sva_sync::Mutex;
use sva_testkit::{FlatTopology, MemorySpace};

use crate::device::spec;
use crate::resident::resident;

pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    rate(quick, rows)?;
    growth(quick, rows)
}

/// A system of devices and spaces in which everything is bound to everything, and some more spaces
/// that are bound to nothing.
struct Full {
    devices: Vec<Device>,
    more: Vec<(MemorySpace, Arc<dyn AddressSpace>)>,
    iommu: Iommu,
    bonds: Vec<Bond<()>>,
    /// They end with the system.
    _spaces: Vec<MemorySpace>,
}

impl Full {
    fn new(
        devices: u16,
        spaces: usize,
        width: PasidWidth,
        more: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let devices = (0..devices)
            .map(|n| Ok(iommu.plug(spec(n, width)?)?.device))
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let space = || {
            let space = MemorySpace::new();
            let handle = space.handle();
            (space, handle)
        };
        let (owners, handles): (Vec<_>, Vec<_>) = (0..spaces).map(|_| space()).unzip();
        let mut bonds = Vec::with_capacity(devices.len() * spaces);
        for handle in &handles {
            for device in &devices {
                bonds.push(iommu.bind_device(device, handle, Bind::new(()))?);
            }
        }
        Ok(Self {
            devices,
            more: (0..more).map(|_| space()).collect(),
            iommu,
            bonds,
            _spaces: owners,
        })
    }

    /// Nanoseconds for one more bind and its unbind, of a device and a further space chosen at
    /// random.
    fn one_more(&self, pairs: usize, random: &mut fastrand::Rng) -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        for _ in 0..pairs {
            let device = &self.devices[random.usize(..self.devices.len())];
            let (_, space) = &self.more[random.usize(..self.more.len())];
            black_box(self.iommu.bind_device(device, space, Bind::new(()))?).unbind();
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / pairs as f64)
    }
}

/// The least that any table of bonds has to do: enter one behind a lock, and take it out.
fn bare_table(pairs: usize, random: &mut fastrand::Rng) -> f64 {
    let table: Mutex<FxHashMap<(u32, u32), Arc<u32>>> = Mutex::default();
    let start = Instant::now();
    for _ in 0..pairs {
        let key = (random.u32(..1000), random.u32(..1000));
        table.lock().insert(black_box(key), Arc::new(key.0));
        black_box(table.lock().remove(&key));
    }
    start.elapsed().as_secs_f64() * 1e9 / pairs as f64
}

fn rate(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let system = Full::new(1, 0, PasidWidth::MAX, 1)?;
    let (rounds, pairs) = if quick { (3, 10_000) } else { (15, 100_000) };
    let mut random = fastrand::Rng::with_seed(1);
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        values.push(1e9 / system.one_more(pairs, &mut random)?);
        baselines.push(1e9 / bare_table(pairs, &mut random));
    }
    let (value, baseline) = (median(&mut values), median(&mut baselines));
    rows.add(
        "bind_device + unbind, one core, bare locked table",
        "pairs/s",
        value,
        baseline,
        Goal::ValueAtLeast(250_000.0),
    );
    Ok(())
}

fn growth(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    // 10 bits: 1,023 PASIDs, of which 972 are 95 %; a space more or less is neither here nor there,
    // so that the million is round.
    let width = PasidWidth::new(10).ok_or("10 bits")?;
    let (devices, spaces) = if quick { (100, 972) } else { (1000, 1000) };
    let more = 20;
    let small = Full::new(1, 10, width, more)?;
    let before = resident()?;
    let large = Full::new(devices, spaces, width, more)?;
    let bytes = (resident()? - before) / large.bonds.len() as f64;
    let (rounds, pairs) = if quick { (3, 5_000) } else { (25, 50_000) };
    let mut random = fastrand::Rng::with_seed(2);
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        baselines.push(small.one_more(pairs, &mut random)?);
        values.push(large.one_more(pairs, &mut random)?);
    }
    let case = format!("one more bind + unbind, {} bonds alive, 10 bonds", large.bonds.len());
    rows.add(case, "ns/pair", median(&mut values), median(&mut baselines), Goal::RatioAtMost(2.0));
    rows.add(
        "memory per bond, bare table entry",
        "bytes",
        bytes,
        table_entry_bytes(large.bonds.len())?,
        Goal::None,
    );
    Ok(())
}

/// Bytes per entry of a plain table with as many entries: key, and a counted value of its own.
fn table_entry_bytes(entries: usize) -> Result<f64, Box<dyn Error>> {
    let before = resident()?;
    let table: FxHashMap<(u32, u32), Arc<u32>> =
        (0..entries as u32).map(|n| ((n, n), Arc::new(n))).collect();
    let after = resident()?;
    black_box(&table);
    Ok((after - before) / entries as f64)
}
