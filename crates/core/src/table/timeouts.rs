//! What devices do not answer in time.

use std::sync::Arc;
use std::time::Duration;

use sva_sync::atomic::Ordering;

use super::iommu::Iommu;
#[cfg(not(loom))]
use super::iommu::TICK_INTERVAL;
use super::records::DeviceRecord;
use crate::api::event::Event;

impl Iommu {
    /// Repeats invalidations that are overdue, and cuts a device off that has not answered often
    /// enough. Nothing is overdue without a clock. Does not block.
    ///
    /// Whoever waits for a device calls this by itself; call it as well where nobody waits, such as
    /// between the steps of an event loop.
    pub fn tick(&self) {
        let Some(now) = self.now() else { return };
        self.0.last_tick.store(now.as_nanos() as u64, Ordering::Relaxed);
        let devices: Vec<_> = self
            .lock()
            .devices
            .values()
            .filter(|device| device.spec.capabilities.ats)
            .cloned()
            .collect();
        for device in devices {
            self.tick_device(&device, now);
            let limit = self.config().response_limit;
            let expired = device.services.endpoint.lock().interface.expire(now, limit);
            if expired > 0 {
                self.log(Event::ResponseOverdue { device: device.bdf(), groups: expired });
                device.services.endpoint_changed.notify_all();
            }
        }
    }

    /// Looks for invalidations of a device that are overdue. Where one has been tried often enough,
    /// nothing of the device gets through until it is reset: the last resort.
    ///
    /// Both in one step: a reset or a completion that came in between would have been answer
    /// enough.
    fn tick_device(&self, device: &Arc<DeviceRecord>, now: Duration) {
        let (overdue, is_cut_off) = self.with_invalidations(device, |queue, _, actions| {
            let before = queue.counts.timed_out;
            let is_hopeless = queue.tick(now, actions);
            if is_hopeless {
                let _inside = device.gate.pause();
                let is_drained = device.services.translated.pause() == 0;
                queue.cut_off(is_drained, actions);
            }
            (queue.counts.timed_out - before, is_hopeless)
        });
        if overdue > 0 {
            tracing::debug!(
                device = %device.bdf(), overdue, "invalidations were not completed in time"
            );
            self.log(Event::InvalidationsOverdue { device: device.bdf(), invalidations: overdue });
        }
        if is_cut_off {
            device.await_cached_accesses();
            tracing::warn!(device = %device.bdf(), "cut off: it does not answer invalidations");
            self.log(Event::CutOff { device: device.bdf() });
        }
    }

    /// Whether it is time to look for what is overdue, in a wait that was woken before its limit.
    /// Where waiters are woken all the time, no wait ever reaches its limit.
    #[cfg(not(loom))]
    pub(crate) fn is_tick_due(&self) -> bool {
        let limit = TICK_INTERVAL.as_nanos() as u64;
        self.now().is_some_and(|now| {
            (now.as_nanos() as u64).saturating_sub(self.0.last_tick.load(Ordering::Relaxed))
                >= limit
        })
    }
}
