//! Invalidations: a change of a space, and an unbind, have the devices forget what they keep.
//!
//! What comes of one is decided by the device's [`Invalidator`](crate::ats::invalidate), under its
//! lock. Messages are sent, and those that wait are told, with none held.

use std::sync::Arc;
use std::time::Duration;

use super::Iommu;
use super::parts::{Attachment, DeviceInner};
use crate::ats::invalidate::{Invalidator, Job, Todo, Waiter};
use crate::ats::message::{AlignedRange, InvalidationCompletion};
use crate::event::Event;
use crate::ids::{Pasid, SpaceId};
use crate::invalidation::{Countdown, Invalidation, Unseen};
use crate::iotlb::UnderWay;
use crate::link::ToDevice;
use crate::pri::queue::Drained;
use crate::range::AddrRange;
use crate::sync::atomic::Ordering;

impl Iommu {
    /// Does what a step of a device's invalidations left to do. With no lock held.
    fn carry_out(&self, device: &Arc<DeviceInner>, todo: Todo) {
        for request in todo.send {
            tracing::trace!(device = %device.bdf(), pasid = request.pasid.map(Pasid::get), address = request.range.first(), bits = request.range.bits(), "invalidate");
            device.services.to_device(ToDevice::Invalidate(request));
        }
        for waiter in todo.finished {
            self.finish(waiter);
        }
    }

    fn finish(&self, waiter: Waiter) {
        match waiter {
            Waiter::Change(left) => {
                if left.upgrade().is_some_and(|left| left.step()) {
                    self.gate_drained();
                }
            }
            Waiter::Unbind(attachment) => self.attachment_step(&attachment),
        }
    }

    /// Changes a device's invalidations under their lock and does the rest without it. The flag
    /// says whether no translated request is under way.
    pub(super) fn with_invalidator<R>(
        &self,
        device: &Arc<DeviceInner>,
        change: impl FnOnce(&mut Invalidator, bool, &mut Todo) -> R,
    ) -> R {
        let mut todo = Todo::default();
        let result = {
            let mut invalidator = device.services.invalidator.lock();
            change(&mut invalidator, device.services.translated.is_drained(), &mut todo)
        };
        self.carry_out(device, todo);
        result
    }

    /// Has a device forget; `waiter` waits for it.
    fn start_invalidation(
        &self,
        device: &Arc<DeviceInner>,
        pasid: Option<Pasid>,
        range: AlignedRange,
        waiter: Waiter,
    ) {
        let now = self.now();
        self.with_invalidator(device, |invalidator, quiet, todo| {
            invalidator.start(Job::new(pasid, range, waiter), quiet, now, todo)
        });
    }

    /// The device says that it has forgotten.
    pub(super) fn invalidation_completed(
        &self,
        device: &Arc<DeviceInner>,
        completion: InvalidationCompletion,
    ) {
        let more = self.with_invalidator(device, |invalidator, _, todo| {
            invalidator.complete(completion, todo);
            invalidator.begin_sending()
        });
        if more {
            self.send_waiting(device);
        }
    }

    /// Sends what waits for a tag. One thread at a time and in a loop: a link may deliver a
    /// message, and what the device answers, inside the call that sends it. If each answer sent
    /// the next message, the stack would grow with the number of those that wait.
    fn send_waiting(&self, device: &Arc<DeviceInner>) {
        let sending = Sending(Some(device));
        let now = self.now();
        while self.with_invalidator(device, |invalidator, _, todo| {
            invalidator.send_waiting(now, todo);
            if todo.send.is_empty() {
                invalidator.end_sending();
            }
            !todo.send.is_empty()
        }) {}
        sending.finish();
    }

    /// A space has changed: has every device that may keep a translation of it forget.
    pub(super) fn invalidate_space(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        let (kept, users) = {
            let mut state = self.lock();
            let any = self.0.translating.load(Ordering::Acquire) > 0;
            (state.kept_of(space), if any { state.translating_users(space) } else { Vec::new() })
        };
        // Before the devices forget: none is to be told again what the IOMMU is about to forget.
        let under_way = kept.as_ref().map_or_else(UnderWay::default, |kept| kept.invalidate(range));
        let pins = kept.filter(|kept| !kept.pins().is_empty()).map(|kept| Unseen {
            iommu: self.clone(),
            kept,
            range,
        });
        if users.is_empty() {
            return Invalidation::new(under_way, pins, None);
        }
        let left = Arc::new(Countdown::new(users.len() as u32 + 1));
        for (device, pasid) in &users {
            self.start_invalidation(
                device,
                Some(*pasid),
                AlignedRange::covering(range),
                Waiter::Change(Arc::downgrade(&left)),
            );
        }
        // Ours, so that it is not over before all have been started.
        let _ = left.step();
        Invalidation::new(under_way, pins, Some((self.clone(), left)))
    }

    /// What follows when an entry has been made non-present (rule U1): its device forgets, its page
    /// requests are drained. Answers how many groups were answered.
    pub(super) fn flush(&self, attachment: &Arc<Attachment>) -> usize {
        let Some(device) = attachment.requester.translating() else {
            // No device of it has ever sent a page request or kept a translation.
            self.attachment_step(attachment);
            self.attachment_step(attachment);
            return 0;
        };
        self.start_invalidation(
            &device,
            Some(attachment.record.tag.pasid),
            AlignedRange::ALL,
            Waiter::Unbind(Arc::clone(attachment)),
        );
        let answered = self.drain_pages(&device, Drained::Space(attachment));
        // A step of its own: the device may have forgotten before, and the number is not given back
        // with requests for it in the queue.
        self.attachment_step(attachment);
        answered
    }

    /// One of the steps to the end of an attachment has been made.
    pub(crate) fn attachment_step(&self, attachment: &Arc<Attachment>) {
        if attachment.left.step() {
            self.retire(attachment);
        }
    }

    /// Repeats invalidations that are overdue, and cuts a device off that has not answered often
    /// enough. Nothing is overdue without a clock. Does not block.
    ///
    /// Whoever waits for a device calls this by itself; call it as well where nobody waits, such as
    /// between the steps of an event loop.
    pub fn tick(&self) {
        let Some(now) = self.now() else { return };
        self.0.ticked.store(now.as_nanos() as u64, Ordering::Relaxed);
        let devices: Vec<_> = self
            .lock()
            .devices
            .values()
            .filter(|device| device.spec.capabilities.ats)
            .cloned()
            .collect();
        for device in devices {
            self.tick_device(&device, now);
            let expired =
                device.services.side.lock().interface.expire(now, self.config().response_limit);
            if expired > 0 {
                self.log(Event::ResponseOverdue { device: device.bdf(), groups: expired });
                device.services.news.notify_all();
            }
        }
    }

    /// Looks for invalidations of a device that are overdue. Where one has been tried often enough,
    /// nothing of the device gets through until it is reset: the last resort.
    ///
    /// Both in one step: a reset or a completion that came in between would have been answer
    /// enough.
    fn tick_device(&self, device: &Arc<DeviceInner>, now: Duration) {
        let (overdue, cut_off) = self.with_invalidator(device, |invalidator, _, todo| {
            let before = invalidator.counts.timed_out;
            let hopeless = invalidator.tick(now, todo);
            if hopeless {
                let _inside = device.gate.pause();
                let quiet = device.services.translated.pause() == 0;
                invalidator.cut_off(quiet, todo);
            }
            (invalidator.counts.timed_out - before, hopeless)
        });
        if overdue > 0 {
            tracing::debug!(device = %device.bdf(), overdue, "invalidations were not completed in time");
            self.log(Event::InvalidationsOverdue { device: device.bdf(), invalidations: overdue });
        }
        if cut_off {
            device.await_hits();
            tracing::warn!(device = %device.bdf(), "cut off: it does not answer invalidations");
            self.log(Event::CutOff { device: device.bdf() });
        }
    }
}

/// Ends the sending of those that wait where a link panics: the next completion begins it again.
struct Sending<'a>(Option<&'a DeviceInner>);

impl Sending<'_> {
    /// It has been ended, under the lock under which there was no more to send.
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.0 {
            device.services.invalidator.lock().end_sending();
        }
    }
}
