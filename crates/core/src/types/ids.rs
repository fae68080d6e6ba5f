//! Identifiers: each number with a meaning has a type of its own.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The address of a PCI function: segment, bus, device (5 bits), function (3 bits).
///
/// It is written as `ssss:bb:dd.f` in lower-case hexadecimal, as lspci writes it. The segment may
/// have more than four digits (VMD child domains).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    segment: u32,
    bus: u8,
    devfn: u8,
}

impl Bdf {
    /// Makes an address of its four parts; `None` if `device` is above 31 or `function` is above 7.
    pub const fn new(segment: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self { segment, bus, devfn: device << 3 | function })
    }

    /// The PCI segment, which Linux calls the domain.
    pub const fn segment(self) -> u32 {
        self.segment
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device number, 0..=31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function number, 0..=7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }

    /// Function 0 of the same device.
    pub const fn slot(self) -> Self {
        Self { devfn: self.devfn & !7, ..self }
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a PCI address; write segment:bus:device.function in hexadecimal, such as \
     0000:01:00.0 or 01:00.0"
)]
pub struct BadBdf {
    /// The text that was given.
    pub text: String,
}

impl FromStr for Bdf {
    type Err = BadBdf;

    /// Parses `ssss:bb:dd.f` or `bb:dd.f` (segment 0).
    ///
    /// # Errors
    /// Any other text, and numbers out of range.
    fn from_str(text: &str) -> Result<Self, BadBdf> {
        fn parse(text: &str) -> Option<Bdf> {
            let hex = |part: &str, max_digits: usize| {
                let is_hex = !part.is_empty()
                    && part.len() <= max_digits
                    && part.bytes().all(|b| b.is_ascii_hexdigit());
                is_hex.then(|| u32::from_str_radix(part, 16).ok()).flatten()
            };
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            let byte = |part, max_digits| hex(part, max_digits).and_then(|n| u8::try_from(n).ok());
            Bdf::new(hex(segment, 8)?, byte(bus, 2)?, byte(device, 2)?, byte(function, 1)?)
        }
        parse(text).ok_or_else(|| BadBdf { text: text.to_owned() })
    }
}

/// The requester ID that the transactions of a device carry: what the IOMMU knows the device by.
///
/// It is the device's own [`Bdf`], unless a bridge above the device takes ownership of its
/// requests: then it is the address of that bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequesterId(pub Bdf);

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A process address space ID: 1..=0xf_ffff (PCIe 6.0, section 6.20). 0 is reserved and has no
/// value of this type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pasid(std::num::NonZeroU32);

impl Pasid {
    /// The largest PASID: 20 bits (PCIe 6.0, section 6.20).
    pub const LAST: u32 = (1 << 20) - 1;

    /// Makes a PASID; `None` if `value` is not in 1..=[`Pasid::LAST`].
    pub const fn new(value: u32) -> Option<Self> {
        match std::num::NonZeroU32::new(value) {
            Some(n) if value <= Self::LAST => Some(Self(n)),
            _ => None,
        }
    }

    /// The number on the wire.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Whether a device whose PASIDs have `width` bits can issue this one.
    pub const fn fits(self, width: PasidWidth) -> bool {
        self.get() <= width.last()
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Debug for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pasid({})", self.get())
    }
}

/// The number of PASID bits that a device implements: 1..=20 (Max PASID Width, PCIe 6.0, section
/// 7.8.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PasidWidth(u8);

impl PasidWidth {
    /// The widest: 20 bits.
    pub const MAX: Self = Self(20);

    /// Makes a width; `None` if `bits` is not in 1..=20.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits >= 1 && bits <= 20 { Some(Self(bits)) } else { None }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The largest PASID of this width (inclusive).
    pub const fn last(self) -> u32 {
        (1 << self.0) - 1
    }
}

/// Identifies one owner of a PASID: each allocation of a PASID has a new generation. All bonds of a
/// space share its PASID and generation.
///
/// A PASID is given to another owner after it has been released. A generation is never used again,
/// so a transaction or an answer that was meant for an earlier owner cannot reach a later one.
/// Generations count up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

/// A PASID together with the generation of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PasidTag {
    /// The number that transactions carry.
    pub pasid: Pasid,
    /// The owner of that number.
    pub generation: Generation,
}

/// The identity of an address space: two handles with the same identity are the same space, so
/// they share one PASID.
///
/// A provider makes one for each space that it can tell apart, and gives it to no other space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(NonZeroU64);

impl SpaceId {
    /// Makes an identity that no other space of this process has or will have.
    #[expect(clippy::disallowed_types, reason = "a counter that orders nothing")]
    pub fn unique() -> Self {
        // std's type and not the shim's: identities synchronise nothing, and a model checker must
        // not branch on them.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MAX))
    }

    /// The identity as a number, for logs.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space {}", self.0)
    }
}

/// Identifies a plugged device. Unlike its address this number is never used again.
pub(crate) type DeviceKey = u64;

/// Identifies an IOMMU group: devices that cannot be isolated from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub(crate) u32);

impl GroupId {
    /// The number of the group, counted from 0 in the order in which groups were formed.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// Identifies a container of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub(crate) u32);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {}", self.0)
    }
}
