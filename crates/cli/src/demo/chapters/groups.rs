//! A group of two, one of which cannot issue a PASID.

use sva_core::error::{BindError, Refusal};
use sva_core::topology::SharedBecause;
use sva_core::{Bind, DmaError, FaultReason};
use sva_devices::Descriptor;

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;

/// Two endpoints below one switch that does not validate sources: the second has no PASID
/// capability.
const MOVER: &str = "06:00.0";
const SIBLING: &str = "07:00.0";

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let iommu = &machine.iommu;
    let (mover, sibling) = (machine.device(MOVER)?, machine.device(SIBLING)?);
    let (mut process, space) = context.process()?;
    let buffer = process.buffer(1 << 20, context.seed())?;

    let before = iommu.object_counts();
    let alone = iommu.bind_device(mover, &space, Bind::new(()));
    let named = matches!(
        &alone,
        Err(BindError::NotSingleton { siblings, .. })
            if siblings.len() == 1
                && siblings[0].device == sibling.bdf()
                && matches!(siblings[0].because, SharedBecause::NoAcs { .. })
    );
    let figures =
        alone.map_or_else(|refusal| Figures::new().said("refusal", refusal), |_| Figures::new());
    context.claim(
        &["B1"],
        "bind_device in a group of two is refused: by whom, and why",
        named,
        figures,
    );

    let unchanged = iommu.object_counts() == before;
    context.claim(
        &["B3"],
        "the refused bind has left nothing behind",
        unchanged,
        Figures::new().count("bonds", iommu.object_counts().bonds as u64),
    );

    let bond = iommu.bind_group(mover.group(), &space, Bind::new(()))?;
    let bound = bond.members() == [mover.bdf()];
    let completion = machine.mover(MOVER)?.execute(
        Some(bond.pasid()),
        &Descriptor::crc(buffer.address, buffer.size(), 0).block_on_fault(),
    )?;
    let reads = completion.is_success() && completion.record.crc() == process.crc(&buffer)?;
    context.claim(
        &["B2"],
        "bind_group binds the group, and its data mover works",
        bound && reads,
        Figures::new().pasid("pasid", bond.pasid()),
    );

    let listed = *bond.left_out() == [Refusal::NoPasidCapability { device: sibling.bdf() }];
    let figures = bond
        .left_out()
        .iter()
        .fold(Figures::new(), |figures, refusal| figures.said("left_out", refusal));
    context.claim(&["B2"], "the member without PASID is left out and listed", listed, figures);

    let unbound = sibling.port().read(Some(bond.pasid()), buffer.address, &mut [0; 8]);
    let fault = unbound.err().as_ref().and_then(DmaError::fault);
    let blocked = fault.is_some_and(|fault| fault.reason == FaultReason::CannotIssuePasid);
    context.claim(&["B8"], "the sibling cannot reach the process", blocked, Figures::new());
    Ok(())
}
