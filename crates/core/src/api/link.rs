//! Links, which carry the messages of ATS and PRI between a device and the IOMMU.

use std::fmt;
use std::sync::Arc;

use crate::api::ats::{
    InvalidationCompletion, InvalidationRequest, TranslationCompletion, TranslationRequest,
};
use crate::api::pri::{PageRequest, PageResponse, StopMarker};
use crate::types::ids::Bdf;

/// A message from a device to the IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToIommu {
    /// A translation request (PCIe 6.0, section 10.2.2).
    Translate(TranslationRequest),
    /// The completion of an invalidation (PCIe 6.0, section 10.3.2).
    Invalidated(InvalidationCompletion),
    /// A page request (PCIe 6.0, section 10.4.1).
    Page(PageRequest),
    /// A stop marker: the device has stopped using a PASID (PCIe 6.0, section 10.4.1.2.1).
    Stop(StopMarker),
}

/// A message from the IOMMU to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToDevice {
    /// The completion of a translation request (PCIe 6.0, section 10.2.3).
    Translated(TranslationCompletion),
    /// An invalidation request (PCIe 6.0, section 10.3.1).
    Invalidate(InvalidationRequest),
    /// The response to a page request group (PCIe 6.0, section 10.4.2).
    Response(PageResponse),
}

/// Carries the messages of one device in both directions.
///
/// The methods are called from any thread, with no lock of the core held. They must not block,
/// since other messages of the device may wait for the call to return.
///
/// An implementation delivers the page requests and stop markers of a device in the order in which
/// they were sent. It may deliver any other message late, twice, in another order, or not at all;
/// the receiver refuses and counts messages that are not valid. A message that is delivered after
/// its time limit has the effect of a lost message.
pub trait Link: Send + Sync {
    /// Takes a message that the device has sent. The link delivers it with
    /// [`LinkEnds::to_iommu`], now or later.
    fn upstream(&self, ends: &LinkEnds, message: ToIommu);

    /// Takes a message that the IOMMU has sent. The link delivers it with
    /// [`LinkEnds::to_device`], now or later.
    fn downstream(&self, ends: &LinkEnds, message: ToDevice);
}

/// A link that delivers each message at once, on the thread that sends it.
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

/// The receiver of the messages of one device; see [`LinkEnds`].
pub(crate) trait MessageReceiver: Send + Sync {
    /// Handles a message of the device at the IOMMU.
    fn receive_at_iommu(&self, message: ToIommu);

    /// Handles a message of the IOMMU at the device.
    fn receive_at_device(&self, message: ToDevice);
}

/// The two ends of a link, to which the messages of one device are delivered.
///
/// It keeps neither the IOMMU nor the device alive. A message that is delivered after they are
/// gone is dropped.
#[derive(Clone)]
pub struct LinkEnds {
    device: Bdf,
    receiver: Arc<dyn MessageReceiver>,
}

impl LinkEnds {
    pub(crate) fn new(device: Bdf, receiver: Arc<dyn MessageReceiver>) -> Self {
        Self { device, receiver }
    }

    /// The device.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// Delivers a message of the device to the IOMMU, which handles it on this thread. Does not
    /// block.
    pub fn to_iommu(&self, message: ToIommu) {
        self.receiver.receive_at_iommu(message);
    }

    /// Delivers a message of the IOMMU to the device, which handles it on this thread. Does not
    /// block.
    pub fn to_device(&self, message: ToDevice) {
        self.receiver.receive_at_device(message);
    }
}

impl fmt::Debug for LinkEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkEnds").field("device", &self.device).finish_non_exhaustive()
    }
}
