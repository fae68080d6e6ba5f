//! What a process may not do its devices may not.

use sva_core::{Access, Bind, DmaError, Event, Fault, FaultReason};
use sva_host::Region;

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;

/// The first address that is no user address of any process (canonical addresses of 48 or 57 bits
/// are below).
const KERNEL: u64 = 0xffff_8000_0000_0000;

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let device = machine.device("01:00.0")?;
    let (mut process, space) = context.process()?;
    let bond = machine.iommu.bind_device(device, &space, Bind::new(()))?;
    let (port, pasid) = (device.port(), bond.pasid());
    let fault_at = |address, access, reason| Fault {
        device: device.bdf(),
        pasid: Some(pasid),
        address,
        access,
        reason,
    };

    let (address, len, before) = process.constant()?;
    let data = vec![!0; len as usize];
    let error = port.write(Some(pasid), address, &data).err();
    let expected = fault_at(address, Access::WRITE, FaultReason::Denied);
    let (found, _, after) = process.constant()?;
    let held = error.as_ref().is_some_and(|e| e.done == 0 && e.fault() == Some(expected))
        && found == address
        && after == before;
    context.claim(
        &["T1"],
        "a write to a read-only page faults and changes nothing",
        held,
        said(error.as_ref()),
    );

    let mut seen = vec![0; len as usize];
    port.read(Some(pasid), address, &mut seen)?;
    let readable = crc32c::crc32c(&seen) == before;
    context.claim(
        &["T1"],
        "the same page can be read",
        readable,
        Figures::new().bytes("bytes", len),
    );

    let end = edge(&sva_host::regions(process.pid())?)?;
    let error = port.read(Some(pasid), end - 100, &mut [0; 4096]).err();
    let expected = fault_at(end, Access::READ, FaultReason::NotMapped);
    let exact = error.as_ref().is_some_and(|e| e.done == 100 && e.fault() == Some(expected));
    let figures = error
        .as_ref()
        .map_or_else(Figures::new, |e| Figures::new().count("bytes_before_it", e.done));
    context.claim(
        &["T5"],
        "an access that runs into a hole stops at its exact byte",
        exact,
        figures,
    );

    let error = port.write(Some(pasid), KERNEL, &[0; 8]).err();
    let fault = error.as_ref().and_then(DmaError::fault);
    let refused = fault == Some(fault_at(KERNEL, Access::WRITE, FaultReason::NotMapped));
    context.claim(
        &["T1"],
        "a kernel address is no address of the process",
        refused,
        Figures::new(),
    );

    let drained = machine.iommu.drain_events();
    let faults = drained
        .events
        .iter()
        .filter(|event| matches!(event, Event::Fault(fault) if fault.pasid == Some(pasid)))
        .count() as u64;
    let logged = faults == 3 && drained.lost == 0;
    context.claim(
        &["F6"],
        "each of these faults is in the event log, and nothing else is",
        logged,
        Figures::new().count("faults", faults),
    );
    Ok(())
}

fn said(error: Option<&DmaError>) -> Figures {
    error.map_or_else(Figures::new, |error| Figures::new().said("fault", error))
}

/// The end of a readable mapping that nothing follows.
fn edge(regions: &[Region]) -> Result<u64, Failure> {
    let usable = |region: &Region| {
        region.unusable(Access::READ).is_none()
            && !region.name.starts_with("[v")
            && region.name != "[stack]"
    };
    let followed = |region: &Region| {
        regions.iter().any(|other| other.range.first() == region.range.last() + 1)
    };
    let lonely = regions.iter().find(|region| usable(region) && !followed(region));
    lonely
        .map(|region| region.range.last() + 1)
        .ok_or_else(|| Failure::Missing { what: "mapping with a hole behind it".to_owned() })
}
