//! Time-outs of invalidations and page request responses.

use std::sync::Arc;
use std::time::Duration;

use sva_sync::atomic::Ordering;

use super::iommu::Iommu;
#[cfg(not(loom))]
use super::iommu::TICK_INTERVAL;
use super::records::DeviceRecord;
use crate::api::event::Event;

impl Iommu {
    /// Repeats overdue invalidations, and cuts off a device that has not completed one after all
    /// tries. Reports page request groups whose response is overdue. Without a clock nothing is
    /// overdue. Does not block, except for accesses through cached translations of a device that is
    /// cut off.
    ///
    /// A thread that waits for a device calls this by itself. Call it also where no thread waits,
    /// such as between the steps of an event loop.
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

    /// Repeats overdue invalidations of a device. If one of them has no try left, the device is cut
    /// off: none of its transactions passes until it is reset.
    ///
    /// The check and the cut-off are one step under the lock of the invalidations: a completion or
    /// a reset between them would have ended the time-out.
    fn tick_device(&self, device: &Arc<DeviceRecord>, now: Duration) {
        let (overdue, is_cut_off) = self.with_invalidations(device, |queue, _, actions| {
            let before = queue.counts.timed_out;
            let is_exhausted = queue.tick(now, actions);
            if is_exhausted {
                let _accesses = device.gate.pause();
                let is_drained = device.services.translated_gate.pause() == 0;
                queue.cut_off(is_drained, actions);
            }
            (queue.counts.timed_out - before, is_exhausted)
        });
        if overdue > 0 {
            tracing::debug!(
                device = %device.bdf(), overdue, "invalidations were not completed in time"
            );
            self.log(Event::InvalidationsOverdue { device: device.bdf(), invalidations: overdue });
        }
        if is_cut_off {
            device.await_readers_and_count_pins();
            tracing::warn!(device = %device.bdf(), "cut off: it does not answer invalidations");
            self.log(Event::CutOff { device: device.bdf() });
        }
    }

    /// Whether a tick is due, for a wait that was woken before its limit. If threads are woken
    /// often enough, no wait reaches its limit.
    #[cfg(not(loom))]
    pub(crate) fn is_tick_due(&self) -> bool {
        let limit = TICK_INTERVAL.as_nanos() as u64;
        self.now().is_some_and(|now| {
            (now.as_nanos() as u64).saturating_sub(self.0.last_tick.load(Ordering::Relaxed))
                >= limit
        })
    }
}
