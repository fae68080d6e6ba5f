//! One function, listed more than once.

use crate::machine::FunctionReading;

/// Fills `first` with what only `second` says. Of two complete descriptions, as from before and
/// after a change, the first holds.
pub(super) fn fill(first: &mut FunctionReading, mut second: FunctionReading) {
    if second.capabilities > first.capabilities {
        std::mem::swap(first, &mut second);
    }
    macro_rules! fill {
        ($($field:ident)*) => { $( first.$field = first.$field.take().or(second.$field); )* };
    }
    fill! { ids subsystem class class_name name header multifunction buses express }
    fill! { sriov physical_function driver kernel_group ats pri pasid }
    if let (Some(acs), Some(other)) = (&mut first.acs, second.acs) {
        acs.implemented = acs.implemented.or(other.implemented);
        acs.enabled = acs.enabled.or(other.enabled);
        acs.dwords = acs.dwords.or(other.dwords);
    }
    first.acs = first.acs.or(second.acs);
    if first.windows.is_empty() {
        first.windows = second.windows;
    }
    if first.bars.is_empty() {
        first.bars = second.bars;
    }
    first.extended = first.extended.max(second.extended);
}
