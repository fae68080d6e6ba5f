//! Function resets: the device is halted, its translations and page requests are forgotten, its
//! invalidations complete.
//!
//! Resets of one device are counted, and can overlap. The last one that ends lets the device in
//! again.

use crate::api::error::ResetError;
use crate::quiesce::callback;
use crate::table::Device;

impl Device {
    /// Begins a function reset. No transaction of the device passes until the returned value is
    /// dropped, and every other reset of the device that has begun meanwhile.
    ///
    /// The reset completes all invalidations of the device, forgets its page requests on both sides
    /// and clears its ATC. Bonds stay, and ATS and page requests stay enabled. Blocks until the
    /// transactions in flight are over, unless called from inside a callback.
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
    /// transactions in flight: [`Reset::is_quiet`] returns whether they are over. For event loops
    /// and schedulers.
    ///
    /// # Errors
    /// The device has been removed.
    pub fn begin_reset(&self) -> Result<Reset, ResetError> {
        let (iommu, device) = (self.iommu(), self.record());
        if device.gate.is_closed() {
            return Err(ResetError::Gone { device: device.bdf() });
        }
        iommu.with_invalidations(device, |queue, _, actions| {
            // The number of accesses inside is not needed: `Reset::is_quiet` reads the gate.
            let _accesses = device.gate.pause();
            let is_drained = device.services.translated_gate.pause() == 0;
            queue.begin_reset(is_drained, actions);
            let mut endpoint = device.services.endpoint.lock();
            endpoint.is_in_reset = true;
            endpoint.reset();
        });
        device.await_readers_and_count_pins();
        device.services.endpoint_changed.notify_all();
        iommu.with_pages(|pages, actions| pages.forget(device.services.key, false, actions));
        tracing::debug!(device = %device.bdf(), "reset begun");
        Ok(Reset { device: self.clone() })
    }

    /// Returns whether the device was cut off because it did not complete invalidations. A reset
    /// ends that.
    pub fn is_cut_off(&self) -> bool {
        self.record().services.invalidations.lock().is_cut_off()
    }
}

/// A function reset that has begun. Its drop ends it. If resets of the device overlap, the drop
/// of the last one resumes the device.
#[must_use = "its drop ends the reset"]
#[derive(Debug)]
pub struct Reset {
    device: Device,
}

impl Reset {
    /// Returns whether no transaction of the device is in flight. Does not block.
    pub fn is_quiet(&self) -> bool {
        let device = self.device.record();
        device.gate.is_drained() && device.services.translated_gate.is_drained()
    }

    /// Ends the reset, as the drop does.
    pub fn end(self) {}
}

impl Drop for Reset {
    fn drop(&mut self) {
        let device = self.device.record();
        // Page requests can have arrived that the device sent before the reset reached it.
        let key = device.services.key;
        let iommu = self.device.iommu();
        iommu.with_pages(|pages, actions| pages.forget(key, false, actions));
        iommu.with_invalidations(device, |queue, _, actions| {
            if !queue.end_reset() {
                return;
            }
            let mut endpoint = device.services.endpoint.lock();
            endpoint.reset();
            endpoint.is_in_reset = false;
            drop(endpoint);
            iommu.complete_translated_drain(device, queue, actions);
            device.gate.resume();
        });
    }
}
