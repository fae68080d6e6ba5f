//! The fabric as the bus of an IOMMU: its answers about devices, paths and peers.

use std::sync::Arc;

use sva_core::Topology;
use sva_core::topology::RequesterId;
use sva_core::topology::{
    ChangeCounter, GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause,
};
use sva_core::{Access, AddrRange, Bdf};

use super::{BarBackend, Fabric};
use crate::fabric::bar::BarModel;
use crate::fabric::grouping;
use crate::fabric::path;
use crate::fabric::route::AddressType;
use crate::fabric::windows;

impl Fabric {
    fn windows_of(&self, address_type: AddressType, device: Bdf) -> Vec<PeerWindow> {
        let tree = self.tree();
        match tree.function(device) {
            Some(function) => windows::windows(&tree, function, address_type),
            None => AddrRange::inclusive(0, u64::MAX)
                .map(|range| PeerWindow { range, decoder: device, claimed: false })
                .into_iter()
                .collect(),
        }
    }

    /// The model behind `window`, and the offset of `address` in its BAR; `None` where no BAR (any
    /// more) has all of the request.
    fn backend(
        &self,
        window: &PeerWindow,
        address: u64,
        len: usize,
    ) -> Option<(Arc<dyn BarModel>, u64)> {
        let request = AddrRange::new(address, (len as u64).max(1))?;
        let state = self.state.read();
        let function = state.tree.function(window.decoder).filter(|_| window.claimed)?;
        let bar = function.bars.iter().find(|bar| bar.range.covers(request))?;
        let model: Arc<dyn BarModel> = match state.models.get(&(window.decoder, bar.index))? {
            BarBackend::Ram(ram) => Arc::clone(ram) as Arc<dyn BarModel>,
            BarBackend::Model(model) => Arc::clone(model),
        };
        Some((model, address - bar.range.first()))
    }
}

impl Topology for Fabric {
    fn changes(&self) -> &ChangeCounter {
        &self.changes
    }

    fn policy(&self) -> PathPolicy {
        self.policy
    }

    fn requester(&self, device: Bdf) -> RequesterId {
        path::requester(&self.tree(), device)
    }

    fn group(&self, device: Bdf) -> GroupKey {
        grouping::key(&self.tree(), device)
    }

    fn why_shared(&self, a: Bdf, b: Bdf) -> SharedBecause {
        grouping::why(&self.tree(), a, b)
    }

    fn path_defect(&self, device: Bdf) -> Option<PathDefect> {
        let tree = self.tree();
        match tree.function(device) {
            Some(function) => path::defect(&tree, function),
            // Nothing is known of the path: not safe.
            None => Some(PathDefect::NoRequestRedirect(device)),
        }
    }

    fn windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.windows_of(AddressType::Untranslated, device)
    }

    fn translation_blocker(&self, device: Bdf) -> Option<Bdf> {
        let tree = self.tree();
        match tree.function(device) {
            Some(function) => path::translation_blocker(&tree, function),
            None => Some(device),
        }
    }

    fn translated_windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.windows_of(AddressType::Translated, device)
    }

    fn read_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        buf: &mut [u8],
        _: Access,
    ) -> Result<(), PeerAborted> {
        if self.tree().function(from).is_none() {
            return Err(PeerAborted(from));
        }
        let (model, offset) =
            self.backend(window, address, buf.len()).ok_or(PeerAborted(window.decoder))?;
        model.read(offset, buf).map_err(|_| PeerAborted(window.decoder))
    }

    fn write_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        data: &[u8],
    ) -> Result<(), PeerAborted> {
        if self.tree().function(from).is_none() {
            return Err(PeerAborted(from));
        }
        match self.backend(window, address, data.len()) {
            Some((model, offset)) => {
                model.write(offset, data).map_err(|_| PeerAborted(window.decoder))
            }
            // A memory write is posted: nobody tells its sender that it was lost.
            None => Ok(()),
        }
    }

    fn reserved(&self, device: Bdf) -> Vec<AddrRange> {
        path::reserved(&self.tree(), device)
    }
}
