//! The endpoints of a device: their capabilities, and ACS services between them.

use sva_core::device::PasidCapability;
use sva_core::{Capabilities, PasidWidth};
use sva_topology::AcsBits;
use sva_topology::machine::PciFunction;

use super::{MODEL, ParentBridge, Walk};
use crate::fabric::{FunctionSpec, PortKind};
use crate::mirror::acs;
use crate::mirror::note::Note;

impl Walk<'_> {
    /// Places the functions of one device; `beside` an upstream port or not.
    pub(super) fn endpoints(&mut self, functions: &[usize], beside: bool, above: &ParentBridge) {
        let conventional = matches!(above.bridge, Some((_, PortKind::PciBridge)));
        let first = self.spec.functions.len();
        for &function in functions {
            let it = &self.machine.functions()[function];
            let mut spec = FunctionSpec::new(above.id.clone(), it.bdf);
            spec.capabilities = capabilities(it, &mut self.notes);
            spec.model = spec.capabilities.pasid.map(|_| MODEL.to_owned());
            let possible = AcsBits::FUNCTION_ISOLATION | AcsBits::EC | AcsBits::DT;
            // Services between functions matter where there are several.
            let judged = if (functions.len() > 1 || beside) && !conventional {
                AcsBits::FUNCTION_ISOLATION
            } else {
                AcsBits::NONE
            };
            spec.acs = acs::counted(
                self.machine,
                function,
                possible,
                judged,
                self.policy,
                &mut self.notes,
            );
            self.spec.functions.push(spec);
            if above.other_requester {
                self.other_requester.push(it.bdf);
            }
        }
        let placed = self.spec.functions.get_mut(first..).unwrap_or_default();
        let isolating = placed
            .iter()
            .filter(|function| crate::acs::enabled(function.acs, AcsBits::FUNCTION_ISOLATION))
            .count();
        if isolating != 0 && isolating != placed.len() {
            self.notes.extend(
                placed.first().map(|function| Note::MixedFunctionAcs { slot: function.bdf.slot() }),
            );
            // Requests, which are what is routed, stay as they are redirected.
            for acs in placed.iter_mut().filter_map(|function| function.acs.as_mut()) {
                acs.enabled = acs.enabled & !AcsBits::CR;
            }
        }
    }
}

fn capabilities(it: &PciFunction, notes: &mut Vec<Note>) -> Capabilities {
    let ats = it.ats.value.is_some();
    let mut pri = it.pri.value.map(|pri| pri.capacity.unwrap_or(1));
    if pri.is_some() && !ats {
        notes.push(Note::PriWithoutAts { bdf: it.bdf });
        pri = None;
    }
    let pasid = it.pasid.value.and_then(|pasid| {
        let width = PasidWidth::new(pasid.width.value);
        if width.is_none() {
            notes.push(Note::PasidWidth { bdf: it.bdf });
        }
        width.map(|width| PasidCapability {
            width,
            execute: pasid.execute,
            privileged: pasid.privileged,
        })
    });
    if pasid.is_some() && pri.is_none() {
        notes.push(Note::PageFaults { bdf: it.bdf });
    }
    // As in a fabric file: the bit for it is not among what is read of a machine.
    Capabilities {
        pasid,
        ats,
        pri,
        response_pasid: pri.is_some(),
        page_faults: pasid.is_some() || pri.is_some(),
    }
}
