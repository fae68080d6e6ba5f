//! Function resets.

use crate::api::error::ResetError;
use crate::quiesce::callback;
use crate::table::Device;

impl Device {
    /// Begins a function reset: nothing of the device gets through until the answer is dropped, and
    /// with it any other reset of the device that was begun meanwhile.
    ///
    /// All invalidations to it are over, its page requests are forgotten on both sides, it forgets
    /// its translations. Its bonds, and whether ATS and page requests are on, stay. Blocks
    /// until its transactions under way are over, unless called from inside a callback.
    ///
    /// # Errors
    /// The device has been removed.
    pub fn reset(&self) -> Result<Reset, ResetError> {
        let reset = self.begin_reset()?;
        if !callback::inside() {
            self.iommu().wait_until(|_| reset.is_quiet());
        }
        Ok(reset)
    }

    /// Begins a function reset as [`reset`](Self::reset) does, and does not wait for the
    /// transactions under way: [`Reset::is_quiet`] tells when they are over. For event loops and
    /// schedulers.
    ///
    /// # Errors
    /// The device has been removed.
    pub fn begin_reset(&self) -> Result<Reset, ResetError> {
        let (iommu, device) = (self.iommu(), self.record());
        if device.gate.is_closed() {
            return Err(ResetError::Gone { device: device.bdf() });
        }
        iommu.with_invalidations(device, |queue, _, actions| {
            let _inside = device.gate.pause();
            let is_drained = device.services.translated.pause() == 0;
            queue.begin_reset(is_drained, actions);
            let mut endpoint = device.services.endpoint.lock();
            endpoint.is_in_reset = true;
            endpoint.reset();
        });
        device.await_cached_accesses();
        device.services.endpoint_changed.notify_all();
        iommu.with_pages(|pages, actions| pages.forget(device.services.key, false, actions));
        tracing::debug!(device = %device.bdf(), "reset begun");
        Ok(Reset { device: self.clone() })
    }

    /// Whether the device was cut off because it did not answer; a reset ends that.
    pub fn is_cut_off(&self) -> bool {
        self.record().services.invalidations.lock().is_cut_off()
    }
}

/// A function reset that is under way. Dropping it ends it; the last of those that were begun lets
/// the device in again.
#[must_use = "dropping it ends the reset"]
#[derive(Debug)]
pub struct Reset {
    device: Device,
}

impl Reset {
    /// Whether no transaction of the device is under way. Does not block.
    pub fn is_quiet(&self) -> bool {
        let device = self.device.record();
        device.gate.is_drained() && device.services.translated.is_drained()
    }

    /// Ends it, as a drop does.
    pub fn done(self) {}
}

impl Drop for Reset {
    fn drop(&mut self) {
        let device = self.device.record();
        // What a device sent before it noticed the reset.
        let key = device.services.key;
        self.device.iommu().with_pages(|pages, actions| pages.forget(key, false, actions));
        self.device.iommu().with_invalidations(device, |queue, _, actions| {
            if !queue.end_reset() {
                return;
            }
            let mut endpoint = device.services.endpoint.lock();
            endpoint.reset();
            endpoint.is_in_reset = false;
            drop(endpoint);
            self.device.iommu().complete_translated_drain(device, queue, actions);
            device.gate.resume();
        });
    }
}
