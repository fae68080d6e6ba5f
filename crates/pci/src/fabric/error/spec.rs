//! Why a description is no fabric.

use std::fmt;

use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::fabric::limit;
use crate::fabric::spec::PortKind;

/// What decodes a range of addresses, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// A BAR of a function.
    Bar {
        /// The function.
        device: Bdf,
        /// Which BAR.
        index: u8,
    },
    /// The window of a port or bridge.
    Port(Bdf),
    /// A window of a host bridge.
    HostBridge(Bdf),
    /// A reserved range of a host bridge.
    Reserved(Bdf),
}

impl fmt::Display for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar { device, index } => write!(f, "BAR {index} of {device}"),
            Self::Port(bdf) => write!(f, "the window of port {bdf}"),
            Self::HostBridge(bdf) => write!(f, "a window of host bridge {bdf}"),
            Self::Reserved(bdf) => write!(f, "a reserved range of host bridge {bdf}"),
        }
    }
}

/// Why a description is no fabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No host bridge at all.
    #[error("there is no host bridge; add a [[host_bridge]]")]
    NoHostBridge,
    /// More elements of one kind than are taken.
    #[error("{count} {what} are more than the {limit} that a fabric may have")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// An id or model name is empty, too long, or has other characters than letters, digits, `.`,
    /// `_` and `-`.
    #[error(
        "`{}` is no name; use 1 to {} of the characters A-Z a-z 0-9 . _ -",
        name.escape_debug(),
        limit::NAME
    )]
    BadName {
        /// The start of it.
        name: String,
    },
    /// Two elements have one id.
    #[error("two elements are called `{id}`; give one of them another id")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// Two elements sit at one PCI address. A host bridge may share its own, 00.0 of its root bus,
    /// with a port or function.
    #[error("two devices are at {bdf}; move one of them")]
    DuplicateAddress {
        /// The address.
        bdf: Bdf,
    },
    /// A declared group without members.
    #[error("declared group {number} (from 0) has no members; name them or drop it")]
    EmptyGroup {
        /// Which one, in the order of the description.
        number: usize,
    },
    /// Something in two declared groups.
    #[error("{bdf} is named twice in the declared groups; leave it in one of them")]
    InTwoGroups {
        /// The member.
        bdf: Bdf,
    },
    /// A member of a declared group that is not there.
    #[error(
        "{bdf} is in a declared group, but nothing is there; add it or leave it out of the group"
    )]
    UnknownMember {
        /// The member.
        bdf: Bdf,
    },
    /// A parent that does not exist.
    #[error("{bdf} is below `{parent}`, which does not exist")]
    UnknownParent {
        /// The child.
        bdf: Bdf,
        /// The name that it gives.
        parent: String,
    },
    /// A port that no host bridge is above of: it is below itself.
    #[error("port `{id}` is below itself; follow its parents up to find the cycle")]
    Cycle {
        /// One port of the cycle, or below it.
        id: String,
    },
    /// More bridges above one another than are taken.
    #[error("port `{id}` is more than {} bridges below its host bridge", limit::DEPTH)]
    TooDeep {
        /// The port.
        id: String,
    },
    /// A port below something that such a port cannot be below.
    #[error("a {kind} such as {bdf} cannot be below `{parent}`, which is a {parent_kind}")]
    PortMisplaced {
        /// The port.
        bdf: Bdf,
        /// What it is.
        kind: PortKind,
        /// The name of the element above.
        parent: String,
        /// What that is.
        parent_kind: &'static str,
    },
    /// An endpoint below an upstream port.
    #[error(
        "{bdf} cannot be below `{parent}`, the upstream port of a switch; put it below one of its \
         downstream ports"
    )]
    FunctionMisplaced {
        /// The endpoint.
        bdf: Bdf,
        /// The name of the upstream port.
        parent: String,
    },
    /// The address is not on the bus below the parent.
    #[error("{bdf} is below `{parent}`, whose bus is {segment:04x}:{bus:02x}; change one of them")]
    WrongBus {
        /// The child.
        bdf: Bdf,
        /// The parent's name.
        parent: String,
        /// The segment of the bus below the parent.
        segment: u32,
        /// The bus below the parent.
        bus: u8,
    },
    /// A device number other than 0 below a port: a link has one device.
    #[error("{bdf} is below port {port}, whose link has device 00 only")]
    NotDeviceZero {
        /// The child.
        bdf: Bdf,
        /// The port.
        port: Bdf,
    },
    /// Bus numbers do not nest: a secondary bus not above its port's own, or two ranges that
    /// overlap.
    #[error(
        "the buses {first:02x}-{last:02x} below {port} conflict with bus \
         {other_first:02x}-{other_last:02x} of {other}"
    )]
    BusConflict {
        /// A port or host bridge.
        port: Bdf,
        /// First bus below it.
        first: u8,
        /// Last bus below it.
        last: u8,
        /// The other one.
        other: Bdf,
        /// First bus of the other.
        other_first: u8,
        /// Last bus of the other.
        other_last: u8,
    },
    /// One device consists of things that do not go together.
    #[error("{a} and {b} are functions of one device, but {a} is a {kind}; move one of them")]
    MixedSlot {
        /// A port.
        a: Bdf,
        /// What it is.
        kind: PortKind,
        /// Another function of the same device.
        b: Bdf,
    },
    /// Some functions of a device isolate and others do not, so that its groups would change with
    /// what is plugged.
    #[error(
        "{with} enables ACS RR and CR between functions, but {without} of the same device does \
         not; give both the same"
    )]
    MixedFunctionAcs {
        /// A function that isolates.
        with: Bdf,
        /// One that does not.
        without: Bdf,
    },
    /// ACS where it does not belong: an upstream port or a PCIe-to-PCI bridge.
    #[error(
        "{bdf} is a {kind}, which has no ACS here; put it on root ports, downstream ports and \
         functions"
    )]
    AcsMisplaced {
        /// The port.
        bdf: Bdf,
        /// What it is.
        kind: PortKind,
    },
    /// A port that is no upstream port is said to be one of several functions.
    #[error(
        "{bdf} is a {kind}; only upstream ports are said to be multifunction, for only they have \
         endpoints beside them"
    )]
    MultifunctionMisplaced {
        /// The port.
        bdf: Bdf,
        /// What it is.
        kind: PortKind,
    },
    /// ACS services enabled that are not implemented.
    #[error("{bdf} enables ACS {bits}, which it does not implement")]
    AcsNotImplemented {
        /// The port or function.
        bdf: Bdf,
        /// The services.
        bits: AcsBits,
    },
    /// ACS services in a function that only ports have (SV, TB, UF).
    #[error("{bdf} is an endpoint and cannot implement ACS {bits}, which ports have")]
    AcsNotForFunctions {
        /// The function.
        bdf: Bdf,
        /// The services.
        bits: AcsBits,
    },
    /// ACS egress control is enabled, which is not modelled.
    #[error(
        "{bdf} enables ACS EC; it can be implemented but not enabled, for no egress vector is \
         modelled"
    )]
    EgressControl {
        /// The port or function.
        bdf: Bdf,
    },
    /// A PCIe-to-PCI bridge that claims to carry TLP prefixes.
    #[error("{bdf} leads to a conventional bus, which has no TLP prefixes; drop `tlp_prefix`")]
    PrefixOnPci {
        /// The bridge.
        bdf: Bdf,
    },
    /// A PASID width outside 1..=20.
    #[error("{bdf} has PASIDs of {width} bits; a width is 1 to 20")]
    PasidWidth {
        /// The function.
        bdf: Bdf,
        /// Bits.
        width: u64,
    },
    /// Page requests without address translation services.
    #[error("{bdf} has PRI but no ATS; page requests need it")]
    PriWithoutAts {
        /// The function.
        bdf: Bdf,
    },
    /// A BAR number above 5.
    #[error("{bdf} has a BAR {index}; BARs are 0 to 5")]
    BarIndex {
        /// The function.
        bdf: Bdf,
        /// The number.
        index: u8,
    },
    /// One BAR twice.
    #[error("{bdf} has BAR {index} twice")]
    DuplicateBar {
        /// The function.
        bdf: Bdf,
        /// The number.
        index: u8,
    },
    /// A range without bytes.
    #[error("{decoder} at {address:#x} has no bytes")]
    Empty {
        /// What decodes the range.
        decoder: Decoder,
        /// Where.
        address: u64,
    },
    /// A range that wraps past the last address.
    #[error("{decoder} at {address:#x} with {size:#x} bytes wraps past the last address")]
    Wraps {
        /// What decodes the range.
        decoder: Decoder,
        /// Where.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// A BAR whose size is no power of two, or below 16.
    #[error("BAR {index} of {bdf} has {size:#x} bytes; a size is a power of two from 16 on")]
    BarSize {
        /// The function.
        bdf: Bdf,
        /// The number.
        index: u8,
        /// Bytes.
        size: u64,
    },
    /// A range that is not aligned: a BAR to its size, a window to 1 MiB at both ends.
    #[error("{decoder} at {range} is not aligned to {to:#x} bytes")]
    Misaligned {
        /// What decodes the range.
        decoder: Decoder,
        /// The range.
        range: AddrRange,
        /// The unit, bytes.
        to: u64,
    },
    /// A range on both sides of 4 GiB, where a bridge has one window for each side.
    #[error("{decoder} at {range} crosses 4 GiB; keep it on one side")]
    CrossesFourGib {
        /// What decodes the range.
        decoder: Decoder,
        /// The range.
        range: AddrRange,
    },
    /// Two ranges on one bus share addresses.
    #[error("{a} at {a_range} overlaps {b} at {b_range}; move one of them")]
    Overlap {
        /// The first decoder.
        a: Decoder,
        /// Its range.
        a_range: AddrRange,
        /// The second decoder.
        b: Decoder,
        /// Its range.
        b_range: AddrRange,
    },
    /// A range outside the windows of what is above.
    #[error("{decoder} at {range} lies outside the windows of {above}; move it or widen them")]
    OutsideWindow {
        /// What decodes the range.
        decoder: Decoder,
        /// The range.
        range: AddrRange,
        /// The port or host bridge above.
        above: Bdf,
    },
    /// A window of a host bridge covers addresses that it reserves.
    #[error("the window {window} of host bridge {host} covers the reserved range {reserved}")]
    WindowReserved {
        /// The host bridge.
        host: Bdf,
        /// The window.
        window: AddrRange,
        /// The reserved range.
        reserved: AddrRange,
    },
}
