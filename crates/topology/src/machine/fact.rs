//! Values that say how they are known.

use std::fmt;

/// A value, and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// How it is known.
    pub source: Source,
}

impl<T> Fact<T> {
    /// A value that stands in what was read.
    pub const fn read(value: T) -> Self {
        Self { value, source: Source::Read }
    }

    /// A value that follows from others that were read.
    pub const fn inferred(value: T, from: Basis) -> Self {
        Self { value, source: Source::Inferred(from) }
    }

    /// A value that is usual, while nothing that was read speaks for or against it.
    pub const fn assumed(value: T, because: Basis) -> Self {
        Self { value, source: Source::Assumed(because) }
    }

    /// Another value, known in the same way.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        Fact { value: change(self.value), source: self.source }
    }

    /// The same, by reference.
    pub const fn as_ref(&self) -> Fact<&T> {
        Fact { value: &self.value, source: self.source }
    }
}

/// How a value is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// It was read.
    Read,
    /// It follows from others that were read.
    Inferred(Basis),
    /// It is usual; nothing that was read speaks for or against it.
    Assumed(Basis),
}

impl Source {
    /// The weaker of two: what rests on both is known no better than this.
    pub fn weaker(self, other: Self) -> Self {
        let rank = |source: &Self| match source {
            Self::Read => 0,
            Self::Inferred(_) => 1,
            Self::Assumed(_) => 2,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// `read`, `inferred` or `assumed`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Inferred(_) => "inferred",
            Self::Assumed(_) => "assumed",
        }
    }

    /// What it rests on, where it was not read.
    pub const fn basis(self) -> Option<Basis> {
        match self {
            Self::Read => None,
            Self::Inferred(basis) | Self::Assumed(basis) => Some(basis),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.basis() {
            None => f.write_str(self.word()),
            Some(basis) => write!(f, "{}: {basis}", self.word()),
        }
    }
}

/// What a value rests on that was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Basis {
    /// Linux switches on every isolating ACS service that a function implements when it uses an
    /// IOMMU.
    LinuxEnablesAcs,
    /// Linux' quirk for this model switches on what stands for ACS when it uses an IOMMU.
    LinuxEnablesQuirk,
    /// The function's number: only a device with several functions has it.
    FunctionNumber,
    /// Other functions were found in the same slot.
    Siblings,
    /// No other functions were found in the same slot.
    NoSiblings,
    /// Its address is that of a virtual function of an SR-IOV capability.
    VirtualFunction,
    /// The kernel has made IOMMU groups.
    KernelGroups,
    /// The numbers that its name has in the PCI ID database.
    Name,
    /// The vendor that its name has in the PCI ID database, which does not tell the model.
    VendorName,
    /// The class of the function.
    Class,
    /// Where in the hierarchy it sits.
    Position,
    /// What was read has a complete list of capabilities, without this one.
    CompleteList,
    /// The capabilities were not readable, or not printed.
    CapabilitiesHidden,
    /// The text ends, or is damaged, before it would have been said.
    Truncated,
    /// The text has no such field at this verbosity.
    NotPrinted,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinuxEnablesAcs => {
                "Linux enables the ACS services that are implemented where it uses an IOMMU"
            }
            Self::LinuxEnablesQuirk => {
                "Linux' quirk for this model enables its equivalent of ACS where it uses an IOMMU"
            }
            Self::FunctionNumber => "only a device with several functions has this function number",
            Self::Siblings => "other functions were found in the same slot",
            Self::NoSiblings => "no other functions were found in the same slot",
            Self::VirtualFunction => {
                "its address is that of a virtual function of an SR-IOV capability"
            }
            Self::KernelGroups => "the kernel has made IOMMU groups",
            Self::Name => "by its name in the PCI ID database",
            Self::VendorName => {
                "by its name in the PCI ID database, which tells the vendor and not which model"
            }
            Self::Class => "by its class",
            Self::Position => "by its place in the hierarchy",
            Self::CompleteList => "the list of capabilities is complete and has none",
            Self::CapabilitiesHidden => "the capabilities could not be read",
            Self::Truncated => "the text ends before it is said",
            Self::NotPrinted => "the text does not print it at this verbosity",
        })
    }
}
