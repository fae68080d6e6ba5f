//! What carries messages between a device and the IOMMU.

use std::fmt;
use std::sync::Arc;

use crate::api::ats::{
    InvalidationCompletion, InvalidationRequest, TranslationCompletion, TranslationRequest,
};
use crate::api::pri::{PageRequest, PageResponse, StopMarker};
use crate::types::ids::Bdf;

/// What a device says to the IOMMU, beside its memory requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToIommu {
    /// It asks what an address means.
    Translate(TranslationRequest),
    /// It has forgotten what it was told to.
    Invalidated(InvalidationCompletion),
    /// It asks for a page.
    Page(PageRequest),
    /// It has stopped to use a PASID.
    Stop(StopMarker),
}

/// What the IOMMU says to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToDevice {
    /// What an address means.
    Translated(TranslationCompletion),
    /// Forget translations.
    Invalidate(InvalidationRequest),
    /// What came of a group of page requests.
    Response(PageResponse),
}

/// Carries the messages of one device, both ways. Called with no lock of the core held, from any
/// thread; it is not to block, since other messages of the device may wait behind the call.
///
/// Page requests and stop markers of a device arrive in the order in which they were sent;
/// everything else may come late, never, twice or in another order, and what is wrong in it
/// is refused and counted by whoever gets it. Holding a message back longer than its limit ends as
/// losing it does.
pub trait Link: Send + Sync {
    /// The device has sent `message`, which is to come to [`LinkEnds::to_iommu`], now or later.
    fn upstream(&self, ends: &LinkEnds, message: ToIommu);

    /// The IOMMU has sent `message`, which is to come to [`LinkEnds::to_device`], now or later.
    fn downstream(&self, ends: &LinkEnds, message: ToDevice);
}

/// Hands every message over at once, on the thread that sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectLink;

impl Link for DirectLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        ends.to_device(message);
    }
}

/// Takes the messages of one device and acts on them; see [`LinkEnds`].
pub(crate) trait MessageEndpoint: Send + Sync {
    /// A message of the device has come to the IOMMU.
    fn upstream(&self, message: ToIommu);

    /// A message of the IOMMU has come to the device.
    fn downstream(&self, message: ToDevice);
}

/// Where the messages of one device are delivered. It keeps neither the system nor the device
/// alive; a message that comes too late for them is dropped.
#[derive(Clone)]
pub struct LinkEnds {
    device: Bdf,
    endpoint: Arc<dyn MessageEndpoint>,
}

impl LinkEnds {
    pub(crate) fn new(device: Bdf, endpoint: Arc<dyn MessageEndpoint>) -> Self {
        Self { device, endpoint }
    }

    /// The device.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// Delivers a message of the device to the IOMMU, which acts on it on this thread. Does not
    /// block.
    pub fn to_iommu(&self, message: ToIommu) {
        self.endpoint.upstream(message);
    }

    /// Delivers a message of the IOMMU to the device, which acts on it on this thread. Does not
    /// block.
    pub fn to_device(&self, message: ToDevice) {
        self.endpoint.downstream(message);
    }
}

impl fmt::Debug for LinkEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkEnds").field("device", &self.device).finish_non_exhaustive()
    }
}
