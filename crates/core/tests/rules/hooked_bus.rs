//! A scripted bus that runs a hook of the test's at a certain moment, once.

use std::sync::Arc;

use sva_core::Topology;
use sva_core::topology::RequesterId;
use sva_core::topology::{
    ChangeCounter, GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause,
};
use sva_core::{Access, AddrRange, Bdf};
use sva_testkit::FlatTopology;

use crate::support::{Later, later};

type Hook = Box<dyn FnOnce() + Send>;

/// Passes everything on to the script, after the hook for it has run.
pub(crate) struct HookedBus {
    pub(crate) script: FlatTopology,
    /// Runs when the core asks for the reserved regions of the first device.
    pub(crate) on_reserved: (Bdf, Later<Hook>),
    /// Runs when a window is written to: a device model behind it.
    pub(crate) on_write: Later<Hook>,
}

impl HookedBus {
    pub(crate) fn new(device: Bdf) -> Arc<Self> {
        Arc::new(Self {
            script: FlatTopology::new(),
            on_reserved: (device, later()),
            on_write: later(),
        })
    }

    /// The script's answers; its setters have the same names.
    fn bus(&self) -> &dyn Topology {
        &self.script
    }
}

fn run(hook: &Later<Hook>) {
    let taken = hook.lock().take();
    if let Some(hook) = taken {
        hook();
    }
}

impl Topology for HookedBus {
    fn changes(&self) -> &ChangeCounter {
        self.bus().changes()
    }

    fn policy(&self) -> PathPolicy {
        self.bus().policy()
    }

    fn requester(&self, device: Bdf) -> RequesterId {
        self.bus().requester(device)
    }

    fn group(&self, device: Bdf) -> GroupKey {
        self.bus().group(device)
    }

    fn why_shared(&self, a: Bdf, b: Bdf) -> SharedBecause {
        self.bus().why_shared(a, b)
    }

    fn path_defect(&self, device: Bdf) -> Option<PathDefect> {
        self.bus().path_defect(device)
    }

    fn windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.bus().windows(device)
    }

    fn read_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), PeerAborted> {
        self.bus().read_peer(from, window, address, buf, access)
    }

    fn write_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        data: &[u8],
    ) -> Result<(), PeerAborted> {
        run(&self.on_write);
        self.bus().write_peer(from, window, address, data)
    }

    fn reserved(&self, device: Bdf) -> Vec<AddrRange> {
        if device == self.on_reserved.0 {
            run(&self.on_reserved.1);
        }
        self.bus().reserved(device)
    }
}
