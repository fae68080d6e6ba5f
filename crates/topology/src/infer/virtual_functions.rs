//! Which functions are virtual ones of SR-IOV, and whose.

use std::collections::{BTreeMap, HashMap};

use sva_core::Bdf;

use super::identity::Identity;
use crate::machine::{Basis, Fact, FunctionReading};

/// The physical function of each function, in the order of `functions`.
pub(super) fn find(functions: &[FunctionReading], known: &[Identity]) -> Vec<Option<Fact<Bdf>>> {
    let by_address = addressed(functions);
    // Segment and requester ID of every physical function, to look downwards from a virtual one.
    let physical: BTreeMap<(u32, u16), Bdf> = functions
        .iter()
        .filter(|function| function.sriov.is_some())
        .map(|function| (place(function.bdf), function.bdf))
        .collect();
    let of = |(function, known): (&FunctionReading, &Identity)| {
        if let Some(physical) = function.physical_function {
            return Some(Fact::read(physical));
        }
        if let Some(physical) = by_address.get(&place(function.bdf)) {
            return Some(Fact::inferred(*physical, Basis::VirtualFunction));
        }
        // Text without the registers: the name says what it is, and the nearest function below that
        // can have virtual ones owns it.
        if function.sriov.is_some() || !known.name.contains("Virtual Function") {
            return None;
        }
        let (segment, requester) = place(function.bdf);
        physical
            .range((segment, 0)..(segment, requester))
            .next_back()
            .map(|(_, bdf)| Fact::assumed(*bdf, Basis::Name))
    };
    functions.iter().zip(known).map(of).collect()
}

/// The virtual functions that SR-IOV registers place somewhere (PCIe 6.0, section 9.2.1.2).
fn addressed(functions: &[FunctionReading]) -> HashMap<(u32, u16), Bdf> {
    let mut found = HashMap::new();
    // What the registers claim is foreign; no more addresses are looked at than could be meant.
    let mut left: u32 = 1 << 20;
    for function in functions {
        let Some(sriov) = function.sriov.filter(|sriov| sriov.enabled != Some(false)) else {
            continue;
        };
        let (Some(count), Some(offset), Some(stride)) =
            (sriov.functions, sriov.offset, sriov.stride)
        else {
            continue;
        };
        if offset == 0 || (stride == 0 && count > 1) {
            continue;
        }
        let (segment, requester) = place(function.bdf);
        for n in 0..u32::from(count).min(left) {
            left -= 1;
            let address = u32::from(requester) + u32::from(offset) + u32::from(stride) * n;
            let Ok(address) = u16::try_from(address) else { break };
            found.entry((segment, address)).or_insert(function.bdf);
        }
    }
    found
}

fn place(bdf: Bdf) -> (u32, u16) {
    (
        bdf.segment(),
        u16::from(bdf.bus()) << 8 | u16::from(bdf.device()) << 3 | u16::from(bdf.function()),
    )
}
