//! In what a mirror differs from the machine.

use std::fmt;

use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::fabric::PortKind;

/// One thing in which the fabric differs from the machine, or that it takes as assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Host bridges, IOMMUs and event collectors, which are part of the fabric's root complex.
    RootComplex {
        /// The functions, in the order of their addresses.
        functions: Vec<Bdf>,
    },
    /// A function that cannot be where it is, left out with everything below.
    LeftOut {
        /// The function.
        bdf: Bdf,
        /// Why.
        why: FunctionUnsupported,
        /// How many functions below it went with it.
        below: usize,
    },
    /// A root port that the machine as read does not have: it begins with a switch.
    RootPortAdded {
        /// Where it was put.
        bdf: Bdf,
    },
    /// A BAR that was left out.
    Bar {
        /// The function.
        bdf: Bdf,
        /// Which BAR.
        index: u8,
        /// Where it is programmed.
        address: u64,
        /// Why.
        why: RangeUnsupported,
    },
    /// BARs of a bridge, which bridges of the fabric do not have.
    BridgeBars {
        /// The bridge.
        bdf: Bdf,
        /// How many.
        count: usize,
    },
    /// A window of a bridge that was left out.
    Window {
        /// The bridge.
        bdf: Bdf,
        /// The window.
        window: AddrRange,
        /// Why.
        why: RangeUnsupported,
    },
    /// ACS services that Linux counts as given, while they are not enabled: the bridge does not
    /// implement them, or a quirk vouches for it. They are enabled in the fabric.
    AcsCounted {
        /// The port or function.
        bdf: Bdf,
        /// The services.
        bits: AcsBits,
    },
    /// ACS services that Linux does not count as given though they are enabled; they are off in the
    /// fabric.
    AcsNotCounted {
        /// The port or function.
        bdf: Bdf,
        /// The services.
        bits: AcsBits,
    },
    /// ACS egress control is enabled; the fabric has no egress vectors, so it is off there.
    EgressControl {
        /// The port or function.
        bdf: Bdf,
    },
    /// Some functions of a device isolate and others do not, which the fabric takes of none: ACS
    /// CR, which only groups rest on, is off in all. Their groups are declared.
    MixedFunctionAcs {
        /// Function 0 of the slot.
        slot: Bdf,
    },
    /// ACS of so many ports and functions was assumed, for it could not be read.
    AcsAssumed {
        /// The ports and functions, in the order of their addresses.
        functions: Vec<Bdf>,
    },
    /// A PASID capability whose width is not known or 0: left out.
    PasidWidth {
        /// The function.
        bdf: Bdf,
    },
    /// Page requests without address translation services, which cannot be: left out.
    PriWithoutAts {
        /// The function.
        bdf: Bdf,
    },
    /// A function with PASIDs and without page requests: the data mover that plays it waits for
    /// page faults all the same.
    PageFaults {
        /// The function.
        bdf: Bdf,
    },
    /// The IOMMU of the machine sees other requester IDs for these functions than that of the
    /// fabric.
    Requester {
        /// The functions, in the order of their addresses.
        functions: Vec<Bdf>,
    },
    /// No IOMMU of the machine translates these functions; in the fabric one does.
    Untranslated {
        /// The functions, in the order of their addresses.
        functions: Vec<Bdf>,
    },
    /// The fabric's rules would group these otherwise than the machine's kernel; the kernel's group
    /// is declared.
    Declared {
        /// The functions of the group, in the order of their addresses.
        functions: Vec<Bdf>,
    },
}

/// Why a function is not in the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FunctionUnsupported {
    /// A bridge with no bus below it: nobody has configured it, or its bus numbers cannot be.
    NoBusBelow,
    /// The fabric has no such bridge below this one: nested conventional bridges, switch ports in
    /// an unusual order.
    Below {
        /// The bridge above.
        above: Bdf,
        /// What that is.
        kind: PortKind,
    },
    /// A device number other than 0 on a link: a virtual function, or an alternative routing ID.
    NotDeviceZero,
    /// It shares its device with a bridge.
    SharesDevice {
        /// The bridge.
        with: Bdf,
    },
    /// It is on a bus of SR-IOV's, which has no bridge of its own.
    VirtualBus,
}

/// Why a BAR or window is not in the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeUnsupported {
    /// Its size is not known.
    NoSize,
    /// It is not assigned.
    Unassigned,
    /// The size is none that a BAR has, or the address is not a multiple of it.
    Misaligned,
    /// It wraps, or lies on both sides of 4 GiB.
    Crosses,
    /// No window of the bridge above leads there.
    Outside,
    /// The MSI doorbells are there.
    Doorbells,
    /// Something else on the bus, or below another host bridge, decodes these addresses.
    Overlaps(AddrRange),
    /// There are more than a fabric takes of one.
    TooMany,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RootComplex { functions } => {
                write!(
                    f,
                    "{} left out: host bridges, IOMMUs and event collectors are the fabric's root \
                     complex",
                    list(functions)
                )
            }
            Self::LeftOut { bdf, why, below: 0 } => write!(f, "{bdf} left out: {why}"),
            Self::LeftOut { bdf, why, below } => {
                write!(f, "{bdf} left out with {below} functions below it: {why}")
            }
            Self::RootPortAdded { bdf } => {
                write!(
                    f,
                    "root port {bdf} added, with ACS and TLP prefixes: what was read begins with a \
                     switch"
                )
            }
            Self::Bar { bdf, index, address, why } => {
                write!(f, "BAR {index} of {bdf} at {address:#x} left out: {why}")
            }
            Self::BridgeBars { bdf, count } => {
                write!(f, "{count} BARs of bridge {bdf} left out: bridges of a fabric have none")
            }
            Self::Window { bdf, window, why } => {
                write!(f, "window {window} of bridge {bdf} left out: {why}")
            }
            Self::AcsCounted { bdf, bits } => {
                write!(
                    f,
                    "ACS {bits} of {bdf} is on: not enabled on the machine, but Linux counts it as \
                     given"
                )
            }
            Self::AcsNotCounted { bdf, bits } => {
                write!(
                    f,
                    "ACS {bits} of {bdf} is off: enabled on the machine, but Linux does not count \
                     it"
                )
            }
            Self::EgressControl { bdf } => {
                write!(f, "ACS EC of {bdf} is off: a fabric has no egress vectors")
            }
            Self::MixedFunctionAcs { slot } => {
                write!(
                    f,
                    "ACS CR is off in the functions of {slot}: on the machine some isolate and \
                     some do not, which a fabric cannot have"
                )
            }
            Self::AcsAssumed { functions } => {
                write!(f, "ACS of {} could not be read and is assumed", list(functions))
            }
            Self::PasidWidth { bdf } => {
                write!(f, "PASID capability of {bdf} left out: its width is not known")
            }
            Self::PriWithoutAts { bdf } => {
                write!(f, "page requests of {bdf} left out: it has no ATS")
            }
            Self::PageFaults { bdf } => {
                write!(
                    f,
                    "{bdf} waits for page faults, as its data mover can; on the machine it has no \
                     page requests"
                )
            }
            Self::Requester { functions } => {
                write!(
                    f,
                    "{} issue requests under another requester ID on the machine than in the \
                     fabric",
                    list(functions)
                )
            }
            Self::Untranslated { functions } => write!(
                f,
                "{} are translated in the fabric; on the machine no IOMMU does",
                list(functions)
            ),
            Self::Declared { functions } => {
                write!(
                    f,
                    "group of {} declared: the fabric's own rules would group otherwise",
                    list(functions)
                )
            }
        }
    }
}

/// Addresses in a sentence: the first few, and how many more.
fn list(functions: &[Bdf]) -> String {
    const MOST: usize = 8;
    let shown: Vec<String> = functions.iter().take(MOST).map(Bdf::to_string).collect();
    match functions.len().saturating_sub(MOST) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

impl fmt::Display for FunctionUnsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBusBelow => f.write_str("it is a bridge without a bus below it"),
            Self::Below { above, kind } => {
                write!(f, "a fabric has no such function below {above}, a {kind}")
            }
            Self::NotDeviceZero => f.write_str(
                "a link of a fabric has device 00 only, without virtual functions and alternative \
                 routing IDs",
            ),
            Self::SharesDevice { with } => {
                write!(f, "it shares its device with bridge {with}, which a fabric cannot have")
            }
            Self::VirtualBus => {
                f.write_str("it is on a bus that SR-IOV made, which a fabric does not have")
            }
        }
    }
}

impl fmt::Display for RangeUnsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize => f.write_str("its size is not known"),
            Self::Unassigned => f.write_str("it is not assigned"),
            Self::Misaligned => {
                f.write_str("its size is none that it can have, or its address no multiple of it")
            }
            Self::Crosses => f.write_str("it wraps or crosses 4 GiB"),
            Self::Outside => f.write_str("no window of the bridge above leads there"),
            Self::Doorbells => f.write_str("the MSI doorbells are there"),
            Self::Overlaps(range) => write!(f, "something else decodes {range}"),
            Self::TooMany => f.write_str("there are more than a fabric takes"),
        }
    }
}
