//! What faults cost in memory: each that is outstanding, and each bond that has had one.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use rustc_hash::FxHashMap;
use sva_bench::row::{Goal, Rows, median};
use sva_core::pri::PageRequest;
use sva_core::{Access, Bind, IommuConfig, Pasid};
use sva_testkit::PAGE;

use super::fixture::{BASE, absent_space, requesting_device, system};
use crate::resident::resident;

pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    outstanding(if quick { 40 } else { 200 }, rows)?;
    bonds(if quick { 1_000 } else { 10_000 }, rows)
}

/// As many groups of one request as `devices` can have outstanding, all complete and none resolved.
fn outstanding(devices: u16, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    const CREDIT: u32 = 500;
    let iommu = system(IommuConfig::default());
    let space = absent_space(CREDIT.into());
    let mut bonds = Vec::new();
    for n in 0..devices {
        let device = requesting_device(&iommu, n, CREDIT, None)?;
        bonds
            .push((iommu.bind_device(&device, &space.handle(), Bind::new(()))?, device.ats_port()));
    }
    let before = resident()?;
    for (bond, port) in &bonds {
        for page in 0..u64::from(CREDIT) {
            let group = port.open_group(Some(bond.pasid()))?;
            port.request_page(group, BASE + page * PAGE, Access::READ, true)?;
        }
        while iommu.sort_page_request() {}
    }
    let groups = iommu.object_counts().page_groups;
    let bytes = (resident()? - before) / groups as f64;
    let case = format!("memory of a fault outstanding, {groups} of them, plain table entry");
    rows.add(case, "bytes", bytes, entry_bytes(groups)?, Goal::None);
    // All wait in the line of one space: the first unbind finds it long, the last finds its own
    // only.
    let mut each = Vec::with_capacity(bonds.len());
    for (bond, _) in bonds {
        let begun = Instant::now();
        let report = bond.unbind();
        each.push(begun.elapsed().as_secs_f64() * 1e6);
        if report.page_groups != CREDIT as usize {
            return Err(format!(
                "an unbind has answered {} groups and not {CREDIT}",
                report.page_groups
            )
            .into());
        }
    }
    let last = each.len() - 5;
    let (value, baseline) = (median(&mut each[..5]), median(&mut each[last..]));
    rows.add(
        format!("unbind that answers {CREDIT} groups, of {groups} in line; the last ones"),
        "us",
        value,
        baseline,
        Goal::None,
    );
    Ok(())
}

/// Bytes of an entry of a plain table of as many requests.
fn entry_bytes(entries: usize) -> Result<f64, Box<dyn Error>> {
    let index = sva_core::pri::PrgIndex::new(0).ok_or("0 is an index")?;
    let request = |n: usize| PageRequest {
        pasid: Pasid::new(1),
        address: n as u64 * PAGE,
        read: true,
        write: false,
        execute: false,
        privileged: false,
        index,
        last: true,
    };
    let before = resident()?;
    let table: FxHashMap<usize, PageRequest> = (0..entries).map(|n| (n, request(n))).collect();
    let after = resident()?;
    black_box(&table);
    Ok((after - before) / entries as f64)
}

/// Bonds that have each had one fault, so that they keep times, beside what a bond takes without.
fn bonds(count: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let iommu = system(IommuConfig::default());
    let device = requesting_device(&iommu, 0, 32, None)?;
    let (plain, port) = (device.port(), device.ats_port());
    let spaces: Vec<_> = (0..count).map(|_| absent_space(1)).collect();
    let before = resident()?;
    let bonds = spaces
        .iter()
        .map(|space| iommu.bind_device(&device, &space.handle(), Bind::new(())))
        .collect::<Result<Vec<_>, _>>()?;
    let bound = resident()?;
    for (bond, space) in bonds.iter().zip(&spaces) {
        // Once without the protocol, so that the frame and the like are not counted as the
        // protocol's.
        plain.read(Some(bond.pasid()), BASE, &mut [0; 8])?;
        space.absent(BASE, PAGE);
    }
    let read = resident()?;
    for bond in &bonds {
        let group = port.open_group(Some(bond.pasid()))?;
        port.request_page(group, BASE, Access::READ, true)?;
        while iommu.sort_page_request() {}
        iommu.next_page_request_job().ok_or("there is nothing to resolve")?.run();
        port.outcome(group).ok_or("the group is not answered")?;
    }
    let faulted = resident()?;
    let kept: u64 = bonds.iter().map(|bond| bond.fault_times().response.count()).sum();
    if kept != count as u64 {
        return Err(format!("{kept} of {count} bonds have times").into());
    }
    let each = |from: f64, to: f64| (to - from) / count as f64;
    rows.add(
        "memory of a bond's fault times, the bond without",
        "bytes",
        each(read, faulted),
        each(before, bound),
        Goal::None,
    );
    Ok(())
}
