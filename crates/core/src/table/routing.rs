//! The routing of a device's requests, as the bus last told it.

use std::sync::Arc;

use crate::api::event::Overlap;
use crate::api::topology::{ChangeCounter, PathDefect, PathPolicy, PeerWindow, Topology};
use crate::types::ids::Bdf;
use crate::types::range::AddrRange;

/// What [`Topology`] says about one device. The lists are shared, and `None` if empty, so that a
/// clone for most devices copies a few words and touches no other memory.
#[derive(Clone)]
pub(crate) struct Routing {
    /// The number of changes of the bus at the query.
    changes: u64,
    policy: PathPolicy,
    defect: Option<PathDefect>,
    windows: Option<Arc<[PeerWindow]>>,
    /// The windows for translated requests.
    translated: Option<Arc<[PeerWindow]>>,
    /// The port that blocks translated requests and translation requests (ACS Translation
    /// Blocking).
    pub(crate) translation_blocker: Option<Bdf>,
    reserved: Option<Arc<[AddrRange]>>,
}

/// The route of the leading bytes of a request.
#[derive(Clone, Copy)]
pub(crate) enum Route {
    ToIommu,
    ToPeer(PeerWindow),
}

impl Routing {
    pub(crate) fn query(topology: &dyn Topology, device: Bdf) -> Self {
        // The number is read first: after a change during the query, the routing counts as older
        // than it is, and is queried again.
        Self {
            changes: topology.changes().count(),
            policy: topology.policy(),
            defect: topology.path_defect(device),
            windows: shared(topology.windows(device)),
            translated: shared(topology.translated_windows(device)),
            translation_blocker: topology.translation_blocker(device),
            reserved: shared(topology.reserved(device)),
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether the bus has not changed since the query.
    #[inline]
    pub(crate) fn is_current(&self, bus: &ChangeCounter) -> bool {
        self.changes == bus.count()
    }

    /// The windows of peers that decode untranslated requests of the device, in ascending order.
    #[inline]
    pub(crate) fn windows(&self) -> &[PeerWindow] {
        self.windows.as_deref().unwrap_or_default()
    }

    /// The windows of peers that decode translated requests of the device, in ascending order.
    pub(crate) fn translated_windows(&self) -> &[PeerWindow] {
        self.translated.as_deref().unwrap_or_default()
    }

    pub(crate) fn reserved(&self) -> &[AddrRange] {
        self.reserved.as_deref().unwrap_or_default()
    }

    /// The defect of the path, if the policy refuses paths with defects.
    pub(crate) fn refused_path(&self) -> Option<PathDefect> {
        self.defect.filter(|_| self.policy == PathPolicy::Strict)
    }

    /// The parts of `range` that peers of `device` decode.
    pub(crate) fn overlaps(&self, device: Bdf, range: AddrRange) -> impl Iterator<Item = Overlap> {
        self.windows().iter().filter_map(move |window| {
            let range = window.range.intersection(range)?;
            Some(Overlap { device, range, decoder: window.decoder })
        })
    }

    /// The largest range around `address` that no peer decodes; `None` if a peer decodes the
    /// address.
    #[inline]
    pub(crate) fn undecoded_around(&self, address: u64) -> Option<AddrRange> {
        if self.windows().is_empty() { Some(AddrRange::ALL) } else { self.between_windows(address) }
    }

    #[cold]
    fn between_windows(&self, address: u64) -> Option<AddrRange> {
        let windows = self.windows();
        let at = windows.partition_point(|window| window.range.last() < address);
        let first = at.checked_sub(1).map_or(0, |before| windows[before].range.last() + 1);
        let last = match windows.get(at) {
            Some(window) => window.range.first().checked_sub(1)?,
            None => u64::MAX,
        };
        AddrRange::inclusive(first, last).filter(|gap| gap.contains(address))
    }

    /// The route of the leading bytes of `range`, and how many bytes take it (at least 1).
    pub(crate) fn route(&self, range: AddrRange) -> (Route, u64) {
        let at = self.windows().partition_point(|window| window.range.last() < range.first());
        match self.windows().get(at) {
            Some(window) if window.range.contains(range.first()) => {
                let len = window.range.last().min(range.last()) - range.first() + 1;
                (Route::ToPeer(*window), len)
            }
            Some(window) if window.range.overlaps(range) => {
                (Route::ToIommu, window.range.first() - range.first())
            }
            _ => (Route::ToIommu, range.len()),
        }
    }
}

fn shared<T>(list: Vec<T>) -> Option<Arc<[T]>> {
    (!list.is_empty()).then(|| list.into())
}
