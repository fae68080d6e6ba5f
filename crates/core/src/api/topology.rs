//! The topology trait: what the core asks of the bus that its devices sit on.

use std::sync::Arc;

use std::fmt;

use crate::types::access::Access;
use crate::types::ids::{Bdf, RequesterId};
use crate::types::range::AddrRange;
use sva_sync::atomic::Ordering;

/// What a bind demands of the path to the root (rule B1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathPolicy {
    /// Every port on the path redirects peer requests, forwards upstream and carries the TLP
    /// prefix.
    #[default]
    Strict,
    /// Nothing: peers may catch transactions, and overlaps are only reported (rule B7).
    Permissive,
}

impl fmt::Display for PathPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        })
    }
}

/// What stands for a group on the bus: the point of the hierarchy up to which its members cannot be
/// told apart.
///
/// Stable while devices come and go: function 0 of the slot of a multifunction device, or the
/// bridge at which the members' paths become isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(pub Bdf);

/// Why two devices cannot be isolated from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SharedBecause {
    /// Their transactions carry one requester ID.
    RequesterId(RequesterId),
    /// A port on the way can forward requests from one to the other.
    NoAcs {
        /// The port whose ACS falls short.
        port: Bdf,
    },
    /// They are functions of one device that can reach one another inside it.
    Multifunction {
        /// Function 0 of the slot.
        slot: Bdf,
    },
    /// Whoever described the bus says so, beyond what its ports and functions tell.
    Declared,
}

impl fmt::Display for SharedBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequesterId(rid) => write!(f, "they issue requests as {rid}"),
            Self::NoAcs { port } => write!(f, "port {port} on the way has no sufficient ACS"),
            Self::Multifunction { slot } => {
                write!(f, "they are functions of {slot}, which has no ACS between functions")
            }
            Self::Declared => f.write_str("the description of the bus declares them one group"),
        }
    }
}

/// What a path to the root lacks, with the first on it that lacks it: the device itself, or a port
/// above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathDefect {
    /// ACS P2P Request Redirect is off: a peer can catch requests.
    NoRequestRedirect(Bdf),
    /// ACS Upstream Forwarding is off: redirected requests can be sent back down.
    NoUpstreamForwarding(Bdf),
    /// It does not carry end-to-end TLP prefixes: the PASID would be lost.
    NoTlpPrefix(Bdf),
}

impl fmt::Display for PathDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRequestRedirect(at) => {
                write!(f, "{at} does not redirect peer requests (ACS RR)")
            }
            Self::NoUpstreamForwarding(at) => {
                write!(f, "{at} does not forward redirected requests upstream (ACS UF)")
            }
            Self::NoTlpPrefix(at) => write!(f, "{at} does not carry the PASID TLP prefix"),
        }
    }
}

/// Addresses that never reach the IOMMU when a given device uses them (rule B7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerWindow {
    /// The addresses.
    pub range: AddrRange,
    /// Who decodes them: the device with the BAR, or the bridge in whose window no BAR answers.
    pub decoder: Bdf,
    /// Whether a BAR answers; without one the request is lost in a bridge's window.
    pub claimed: bool,
}

/// The decoder of a window aborted the request (unsupported request, completer abort, or nobody
/// there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{0} aborted the request")]
pub struct PeerAborted(pub Bdf);

/// A counter of changes. Clones are one counter.
///
/// Not from the shim: each transaction looks at it, and no model changes its bus.
#[derive(Debug, Clone, Default)]
#[expect(clippy::disallowed_types, reason = "it would double the schedules of every model")]
pub struct Version(Arc<std::sync::atomic::AtomicU64>);

impl Version {
    /// What it stands at: another number than before means that something has changed.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Something has changed, and is to be seen by whoever looks from now on.
    pub fn changed(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// The bus: who shares what with whom, and which addresses a peer decodes before the IOMMU sees
/// them.
///
/// All answers depend on the bus alone and never on a PASID. No method is called with a lock of the
/// core held; none calls back into the core, but for [`read_peer`](Self::read_peer) and
/// [`write_peer`](Self::write_peer), which run device models.
pub trait Topology: Send + Sync {
    /// Counts the changes of the bus: another number means that every other answer may be another.
    /// The same counter each time: each transaction looks at it.
    fn version(&self) -> &Version;

    /// What a bind demands of the path.
    fn policy(&self) -> PathPolicy;

    /// The requester ID that `device`'s transactions carry when they reach the IOMMU.
    fn requester(&self, device: Bdf) -> RequesterId;

    /// The group of `device`.
    fn group(&self, device: Bdf) -> GroupKey;

    /// Why `a` and `b`, which are in one group, cannot be isolated.
    fn why_shared(&self, a: Bdf, b: Bdf) -> SharedBecause;

    /// The first thing that the path from `device` to the root lacks.
    fn path_defect(&self, device: Bdf) -> Option<PathDefect>;

    /// The windows that catch transactions of `device`, sorted, without overlap.
    fn windows(&self, device: Bdf) -> Vec<PeerWindow>;

    /// The port or function on the way from `device` to the root that stops requests with a
    /// translated address, and requests for translations (ACS Translation Blocking), where there
    /// is one. What [`translated_windows`](Self::translated_windows) catches is caught before it.
    fn translation_blocked(&self, device: Bdf) -> Option<Bdf> {
        let _ = device;
        None
    }

    /// The windows that catch *translated* requests of `device`, sorted, without overlap: those of
    /// [`windows`](Self::windows), and the ones to which a port that redirects other
    /// requests lets translated ones through (ACS Direct Translated P2P).
    fn translated_windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.windows(device)
    }

    /// Delivers a read that `window` caught; `address` and all of `buf` lie inside the window. May
    /// run a device model and block.
    ///
    /// # Errors
    /// The decoder aborted.
    fn read_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), PeerAborted>;

    /// Delivers a write that `window` caught. May run a device model and block.
    ///
    /// # Errors
    /// The decoder aborted; a posted write that nobody takes is lost without one.
    fn write_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        data: &[u8],
    ) -> Result<(), PeerAborted>;

    /// Addresses that no domain of `device` may map, such as the MSI doorbells. Sorted.
    fn reserved(&self, device: Bdf) -> Vec<AddrRange>;
}
