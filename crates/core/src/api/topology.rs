//! The topology trait, which the bus of the devices implements.

use std::sync::Arc;

use std::fmt;

use crate::types::access::Access;
use crate::types::ids::{Bdf, RequesterId};
use crate::types::range::AddrRange;
use sva_sync::atomic::Ordering;

/// What a bind requires of the path from the device to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathPolicy {
    /// Every port on the path redirects peer requests (ACS P2P Request Redirect), forwards
    /// redirected requests upstream (ACS Upstream Forwarding), and carries end-to-end TLP prefixes.
    #[default]
    Strict,
    /// Nothing. Peers may decode transactions, and overlaps of memory with peer windows are
    /// reported.
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

/// Identifies a group on the bus: function 0 of the slot of a multifunction device, or the bridge
/// at which the paths of the members become isolated.
///
/// It does not change while devices are plugged in and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(pub Bdf);

/// Why two devices cannot be isolated from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SharedBecause {
    /// Their transactions carry the same requester ID.
    RequesterId(RequesterId),
    /// A port on the path can forward requests from one to the other.
    NoAcs {
        /// The port without sufficient ACS.
        port: Bdf,
    },
    /// They are functions of one device, which can forward requests between them.
    Multifunction {
        /// Function 0 of the slot.
        slot: Bdf,
    },
    /// The description of the bus declares them one group.
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

/// A property that the path to the root lacks, with the first function on the path that lacks it:
/// the device itself, or a port above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathDefect {
    /// ACS P2P Request Redirect is off: a peer can decode requests.
    NoRequestRedirect(Bdf),
    /// ACS Upstream Forwarding is off: redirected requests can be sent back down.
    NoUpstreamForwarding(Bdf),
    /// It does not carry end-to-end TLP prefixes, so the PASID would be lost.
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

/// Addresses at which transactions of a given device do not reach the IOMMU, because a peer decodes
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerWindow {
    /// The addresses.
    pub range: AddrRange,
    /// The device whose BAR decodes them, or the bridge in whose window no BAR does.
    pub decoder: Bdf,
    /// Whether a BAR decodes them. If not, the request is lost in the window of the bridge.
    pub claimed: bool,
}

/// The decoder of a window aborted the request: Unsupported Request, Completer Abort, or no
/// completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{0} aborted the request")]
pub struct PeerAborted(pub Bdf);

/// A counter of the changes of a bus. Clones share one counter.
///
/// It is std's atomic and not the one of `sva-sync`: each transaction reads it, and no model of
/// races changes its bus.
#[derive(Debug, Clone, Default)]
#[expect(clippy::disallowed_types, reason = "it would double the schedules of every model")]
pub struct ChangeCounter(Arc<std::sync::atomic::AtomicU64>);

impl ChangeCounter {
    /// The number of changes. The load acquires the changes that are counted.
    #[inline]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Counts a change, with release ordering. Call it after the change.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// The bus: requester IDs, isolation, and the addresses that a peer decodes before the IOMMU.
///
/// The results depend on the bus only, not on a PASID. The core calls the methods with no lock
/// held. They do not call the core, except for [`read_peer`](Self::read_peer) and
/// [`write_peer`](Self::write_peer), which run device models.
pub trait Topology: Send + Sync {
    /// The counter of changes. When its number changes, the core calls the other methods again.
    /// Each call returns the same counter, which each transaction reads.
    fn changes(&self) -> &ChangeCounter;

    /// What a bind requires of the path.
    fn policy(&self) -> PathPolicy;

    /// The requester ID that the transactions of `device` carry when they reach the IOMMU.
    fn requester(&self, device: Bdf) -> RequesterId;

    /// The group of `device`.
    fn group(&self, device: Bdf) -> GroupKey;

    /// Why `a` and `b`, which are in one group, cannot be isolated from each other.
    fn why_shared(&self, a: Bdf, b: Bdf) -> SharedBecause;

    /// The first defect of the path from `device` to the root; `None` if there is none.
    fn path_defect(&self, device: Bdf) -> Option<PathDefect>;

    /// The windows that decode transactions of `device` before the IOMMU, sorted, without overlap.
    fn windows(&self, device: Bdf) -> Vec<PeerWindow>;

    /// The first port or function on the path from `device` to the root that blocks requests with a
    /// translated address and translation requests (ACS Translation Blocking); `None` if there is
    /// none. A request that [`translated_windows`](Self::translated_windows) decode does not reach
    /// it.
    fn translation_blocker(&self, device: Bdf) -> Option<Bdf> {
        let _ = device;
        None
    }

    /// The windows that decode *translated* requests of `device`, sorted, without overlap: those of
    /// [`windows`](Self::windows), and those to which a port forwards translated requests although
    /// it redirects other requests (ACS Direct Translated P2P).
    fn translated_windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.windows(device)
    }

    /// Delivers a read to the decoder of `window`. `address` and all of `buf` are inside the
    /// window. May run a device model and block.
    ///
    /// # Errors
    /// The decoder aborted the request.
    fn read_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), PeerAborted>;

    /// Delivers a write to the decoder of `window`. `address` and all of `data` are inside the
    /// window. May run a device model and block.
    ///
    /// # Errors
    /// The decoder aborted the request. A posted write that no BAR decodes is lost without an
    /// error.
    fn write_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        data: &[u8],
    ) -> Result<(), PeerAborted>;

    /// The addresses that no domain of `device` may map, such as MSI doorbells. Sorted.
    fn reserved(&self, device: Bdf) -> Vec<AddrRange>;
}
