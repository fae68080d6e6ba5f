//! A space in place that runs a hook of the test's when it is next asked for an extent: in the
//! middle of an access that goes through the gates.

use std::sync::Arc;

use sva_core::Extent;
use sva_core::{AddressSpace, StopCause};
use sva_testkit::{ArenaSpace, Forwarding, ForwardingSpace};

use crate::support::{Later, later};

type Hook = Box<dyn FnOnce() + Send>;

/// A space that runs a hook when it is next asked for an extent.
pub(crate) struct HookedSpace {
    inner: Arc<dyn AddressSpace>,
    hook: Later<Hook>,
}

impl HookedSpace {
    pub(crate) fn new(space: &ArenaSpace) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self { inner: space.handle(), hook: later() }))
    }

    /// Runs `hook` once, before the next extent is answered.
    pub(crate) fn at_next_extent(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }
}

impl ForwardingSpace for HookedSpace {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        self.inner.extent(address, privileged)
    }
}
