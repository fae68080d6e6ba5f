//! Devices that are plugged into a group with mappings and bonds, and one that is removed.

use std::sync::Arc;

use sva_core::bond::IsolationChange;
use sva_core::error::{BindError, Refusal};
use sva_core::{
    Bdf, Bind, Capabilities, DeviceSpec, DmaError, FaultReason, MapRequest, PasidWidth,
    Permissions, Plugged, Removal,
};
use sva_pci::FunctionSpec;
use sva_sync::Mutex;

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::writer::WriteLoop;

/// A switch that redirects but does not validate sources: all below it is one group. One of its
/// slots is full, two are empty.
const FABRIC: &str = r#"
    host_bridge = [{ id = "rc", windows = [{ address = "0x80000000", size = "1M" }] }]
    port = [
        { id = "rp", parent = "rc", kind = "root-port", bdf = "00:01.0", secondary = 1, acs = [
            "SV", "RR", "CR", "UF",
        ] },
        { id = "sw", parent = "rp", kind = "upstream", bdf = "01:00.0", secondary = 2 },
        { id = "a", parent = "sw", kind = "downstream", bdf = "02:00.0", secondary = 3, acs = [
            "RR", "UF",
        ] },
        { id = "b", parent = "sw", kind = "downstream", bdf = "02:01.0", secondary = 4, acs = [
            "RR", "UF",
        ] },
        { id = "c", parent = "sw", kind = "downstream", bdf = "02:02.0", secondary = 5, acs = [
            "RR", "UF",
        ] },
    ]

    [[device]]
    parent = "a"
    bdf = "03:00.0"
    model = "data-mover"
    pasid = { width = 20 }
    page_faults = true
"#;
const FIRST: &str = "03:00.0";
const LEN: u64 = 1 << 20;
const IOVA: u64 = 0x10_0000;

/// Puts a device into the slot below `port`, on the bus and in the IOMMU.
fn plug(
    machine: &Machine,
    port: &str,
    bdf: &str,
    capabilities: Capabilities,
) -> Result<Plugged, Failure> {
    let bdf: Bdf = bdf.parse().map_err(|_| Failure::Missing { what: format!("address {bdf}") })?;
    machine.fabric.add(FunctionSpec::new(port, bdf).with_capabilities(capabilities))?;
    Ok(machine.iommu.plug(DeviceSpec { bdf, capabilities })?)
}

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    into_a_bound_group(context)?;
    beside_a_device_bond(context)?;
    surprise(context)
}

fn into_a_bound_group(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::new(FABRIC)?;
    let group = machine.group(FIRST)?;
    let (mut process, space) = context.process()?;
    // Whole pages inside a buffer.
    let buffer = process.buffer(LEN + 4096, context.seed())?;
    let address = buffer.address.next_multiple_of(4096);
    let request = MapRequest {
        iova: IOVA,
        len: LEN,
        space: space.clone(),
        address,
        permissions: Permissions::READ_WRITE,
    };
    machine.iommu.map(group, &request)?;
    let bond = machine.iommu.bind_group(group, &space, Bind::new(()))?;

    let plugged = plug(&machine, "b", "04:00.0", Capabilities::sva(PasidWidth::MAX))?;
    let port = plugged.device.port();
    let own = process.crc_of(&buffer, address - buffer.address, LEN)?;
    let equal = |pasid, address| {
        let mut data = vec![0; LEN as usize];
        port.read(pasid, address, &mut data).is_ok() && crc32c::crc32c(&data) == own
    };
    let mapping = plugged.device.group() == group && equal(None, IOVA);
    let joined = plugged.joined == [bond.pasid()]
        && plugged.not_joined.is_empty()
        && equal(Some(bond.pasid()), address);
    let figures = Figures::new().bytes("bytes", LEN);
    context.claim(
        &["G4"],
        "a device hotplugged into a group sees the group's mappings",
        mapping,
        figures,
    );
    context.claim(
        &["G4"],
        "it joins the group's bond, and reads by the same PASID",
        joined,
        Figures::new().pasid("pasid", bond.pasid()),
    );

    let lesser = plug(
        &machine,
        "c",
        "05:00.0",
        Capabilities { page_faults: false, ..Capabilities::sva(PasidWidth::MAX) },
    )?;
    let bdf = lesser.device.bdf();
    let lacks = |why: Refusal| matches!(why, Refusal::DeviceLacks { device, .. } if device == bdf);
    let reported = matches!(lesser.not_joined[..], [left] if lacks(left.because));
    let fault = lesser
        .device
        .port()
        .read(Some(bond.pasid()), address, &mut [0; 8])
        .err()
        .as_ref()
        .and_then(DmaError::fault);
    let blocked = fault.is_some_and(|fault| fault.reason == FaultReason::NotBound);
    let figures = lesser
        .not_joined
        .iter()
        .fold(Figures::new(), |figures, left| figures.said("not_joined", left.because));
    context.claim(
        &["G4", "B8"],
        "what a newcomer cannot join is reported, and it is blocked",
        reported && blocked,
        figures,
    );
    Ok(())
}

fn beside_a_device_bond(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::new(FABRIC)?;
    let device = machine.device(FIRST)?;
    let (mut process, space) = context.process()?;
    let (_other, other_space) = context.process()?;
    let buffer = process.buffer(LEN, context.seed())?;
    let told: Arc<Mutex<Vec<IsolationChange>>> = Arc::default();
    let handler = told.clone();
    let bind = Bind::new(()).on_isolation_change(move |change, ()| handler.lock().push(*change));
    let bond = machine.iommu.bind_device(device, &space, bind)?;

    let plugged = plug(&machine, "b", "04:00.0", Capabilities::sva(PasidWidth::MAX))?;
    let newcomer = plugged.device.bdf();
    let changes = told.lock().clone();
    let event = changes == [IsolationChange { device: device.bdf(), newcomer }];
    let refusal = machine.iommu.bind_device(device, &other_space, Bind::new(())).err();
    let refused = matches!(
        &refusal,
        Some(BindError::NotSingleton { siblings, .. })
            if siblings.iter().any(|sibling| sibling.device == newcomer)
    );
    let figures =
        refusal.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
    context.claim(
        &["G4"],
        "beside a device's own bond: its owner is told, and new ones are refused",
        event && refused,
        figures,
    );

    let fault = plugged
        .device
        .port()
        .read(Some(bond.pasid()), buffer.address, &mut [0; 8])
        .err()
        .as_ref()
        .and_then(DmaError::fault);
    let blocked = fault.is_some_and(|fault| fault.reason == FaultReason::NotBound);
    let works = device.port().read(Some(bond.pasid()), buffer.address, &mut [0; 8]).is_ok();
    context.claim(
        &["B8"],
        "the newcomer is not in that bond, which goes on",
        blocked && works,
        Figures::new(),
    );
    Ok(())
}

fn surprise(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::new(FABRIC)?;
    let device = machine.device(FIRST)?;
    let (mut process, space) = context.process()?;
    let buffer = process.buffer(LEN, context.seed())?;
    let bond = machine.iommu.bind_device(device, &space, Bind::new(()))?;
    let writer = WriteLoop::start(device.port(), bond.pasid(), buffer)?;
    machine.fabric.remove_device(device.bdf());
    machine.iommu.remove(device, Removal::Surprise)?;
    let aborted = writer.wait()?;
    // What was in flight ended in whatever the removal had come to; from here on it is gone.
    let fault = device
        .port()
        .write(Some(bond.pasid()), buffer.address, &[0; 8])
        .err()
        .as_ref()
        .and_then(DmaError::fault);
    let stopped = fault.is_some_and(|fault| fault.reason == FaultReason::DeviceRemoved);
    let ended = !bond.is_live() && bond.unbind().already_ended;
    let left = machine.iommu.object_counts();
    let nothing = (left.bonds, left.pasids, left.devices) == (0, 0, 0);
    let figures = Figures::new().count("writes", aborted.writes);
    context.claim(
        &["G5"],
        "surprise removal in the middle of DMA leaves nothing behind",
        stopped && ended && nothing,
        figures,
    );
    Ok(())
}
