//! A process has one PASID on all its devices, and no device reaches it otherwise.

use sva_core::error::{BindError, Refusal};
use sva_core::{Bind, DmaError, FaultReason};
use sva_devices::Descriptor;

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;

const LEN: u64 = 1 << 20;

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (first, second) = (machine.device("01:00.0")?, machine.device("02:00.0")?);
    let (mut a, space_a) = context.process()?;
    let (mut b, space_b) = context.process()?;
    let (in_a, in_b) = (a.buffer(LEN, context.seed())?, b.buffer(LEN, context.seed())?);

    let bond = machine.iommu.bind_device(first, &space_a, Bind::new(()))?;
    let other_device = machine.iommu.bind_device(second, &space_a, Bind::new(()))?;
    let one = bond.pasid() == other_device.pasid();
    context.claim(
        &["B1"],
        "a process that is bound to two devices has one PASID",
        one,
        Figures::new().pasid("pasid", bond.pasid()),
    );

    let other_process = machine.iommu.bind_device(first, &space_b, Bind::new(()))?;
    let differ = other_process.pasid() != bond.pasid();
    context.claim(
        &["B1"],
        "another process has another PASID",
        differ,
        Figures::new().pasid("pasid", other_process.pasid()),
    );

    let mover = machine.mover("01:00.0")?;
    let through_a = mover
        .execute(
            Some(bond.pasid()),
            &Descriptor::crc(in_a.address, in_a.size(), 0).block_on_fault(),
        )?
        .record
        .crc();
    let through_b = mover
        .execute(
            Some(other_process.pasid()),
            &Descriptor::crc(in_b.address, in_b.size(), 0).block_on_fault(),
        )?
        .record
        .crc();
    let (own_a, own_b) = (a.crc(&in_a)?, b.crc(&in_b)?);
    let right = through_a == own_a && through_b == own_b && own_a != own_b;
    let figures = Figures::new().bytes("bytes", in_a.len + in_b.len);
    context.claim(
        &["B1"],
        "one device reads both, each by its PASID, as they read themselves",
        right,
        figures,
    );

    let again = sva_host::attach(a.pid())?;
    let again = machine.iommu.bind_device(first, &again, Bind::new(()));
    let refused = matches!(
        again,
        Err(BindError::Device(Refusal::AlreadyBound { pasid, .. })) if pasid == bond.pasid()
    );
    let figures =
        again.map_or_else(|refusal| Figures::new().said("refusal", refusal), |_| Figures::new());
    context.claim(
        &["B5"],
        "a second bind of the same process and device is refused",
        refused,
        figures,
    );

    let stranger = second.port().read(Some(other_process.pasid()), in_b.address, &mut [0; 8]);
    let fault = stranger.err().as_ref().and_then(DmaError::fault);
    let blocked = fault.is_some_and(|fault| fault.reason == FaultReason::NotBound);
    let figures = fault.map_or_else(Figures::new, |fault| Figures::new().said("fault", fault));
    context.claim(
        &["B8"],
        "a device that a process is not bound to cannot reach it",
        blocked,
        figures,
    );
    Ok(())
}
