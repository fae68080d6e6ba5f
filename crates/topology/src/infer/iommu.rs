//! Registers of IOMMUs, as the kernel shows them.

use crate::machine::{Fact, IommuKind, IommuReading, IommuUnit};

/// What the registers of an IOMMU say it can do.
pub(crate) fn decode(reading: &IommuReading) -> IommuUnit {
    let mut unit = IommuUnit {
        name: reading.name.clone(),
        kind: reading.kind,
        function: reading.function,
        devices: reading.devices.clone(),
        pasid_width: None,
        page_requests: None,
        device_tlb: None,
        first_stage: None,
    };
    let Some(extended) = reading.extended.map(|hex| hex.0) else { return unit };
    let bit = |n: u32| Fact::read(extended >> n & 1 != 0);
    match reading.kind {
        IommuKind::VtD => vt_d(extended, &mut unit),
        IommuKind::AmdVi => {
            amd_vi(extended, &mut unit);
            // Capability header, IotlbSup.
            unit.device_tlb = reading.capability.map(|header| Fact::read(header.0 >> 24 & 1 != 0));
        }
        IommuKind::SmmuV3 => {
            // The feature word that the driver prints, in its own numbering: PRI, ATS, first stage.
            // The width of its substream IDs is not printed.
            (unit.page_requests, unit.device_tlb, unit.first_stage) =
                (Some(bit(4)), Some(bit(5)), Some(bit(9)));
        }
        _ => {}
    }
    unit
}

/// The extended capability register (VT-d 4.1, section 11.4.3).
fn vt_d(register: u64, unit: &mut IommuUnit) {
    let bit = |n: u32| register >> n & 1 != 0;
    unit.pasid_width =
        Some(Fact::read(if bit(40) { (register >> 35 & 0x1f) as u8 + 1 } else { 0 }));
    unit.page_requests = Some(Fact::read(bit(29)));
    unit.device_tlb = Some(Fact::read(bit(2)));
    // First stage takes scalable mode.
    unit.first_stage = Some(Fact::read(bit(43) && bit(47)));
}

/// The extended feature register (AMD I/O Virtualization Technology 3.08, section 3.4.8).
fn amd_vi(register: u64, unit: &mut IommuUnit) {
    let guest = register >> 4 & 1 != 0;
    unit.pasid_width = Some(Fact::read(if guest { (register >> 32 & 0x1f) as u8 + 1 } else { 0 }));
    unit.page_requests = Some(Fact::read(register >> 1 & 1 != 0));
    unit.first_stage = Some(Fact::read(guest));
}
