//! Errors of the core as errors of vm-memory.

use sva_core::port::DmaCause;
use sva_core::{DmaError, FaultReason, Segment};
use vm_memory::GuestAddress;
use vm_memory::iommu::{Error, IovaRange};

/// The error of a transaction that failed.
#[cold]
pub(super) fn iommu_error(error: &DmaError, piece: Segment) -> Error {
    match &error.cause {
        DmaCause::Fault(fault) if !concerns_binding(fault.reason) => {
            cannot_resolve(piece, fault.address, fault.to_string())
        }
        cause => Error::IommuMisconfigured { reason: cause.to_string() },
    }
}

/// Whether the fault concerns the bond or the device: it does not depend on the address.
fn concerns_binding(reason: FaultReason) -> bool {
    use FaultReason as F;
    matches!(
        reason,
        F::CannotIssuePasid
            | F::NotBound
            | F::SpaceEnded
            | F::NotGranted
            | F::DeviceRemoved
            | F::DeviceHalted
    )
}

/// The error that the part of `piece` from `at` on cannot be translated.
pub(super) fn cannot_resolve(piece: Segment, at: u64, reason: String) -> Error {
    let before = at.wrapping_sub(piece.address).min(piece.len);
    let iova_range = IovaRange {
        base: GuestAddress(piece.address.wrapping_add(before)),
        length: (piece.len - before) as usize,
    };
    Error::CannotResolve { iova_range, reason }
}
