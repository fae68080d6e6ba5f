//! Invalidations: the IOTLB and the devices invalidate translations that have changed.
//!
//! The [`InvalidationQueue`](crate::protocol::ats::invalidation) of a device decides, under its
//! lock, what an invalidation leads to. Requests are sent, and steps of waiters made, with no lock
//! held.

use std::sync::Arc;

use sva_sync::atomic::Ordering;

use super::iommu::Iommu;
use super::records::DeviceRecord;
use crate::api::ats::{AlignedRange, InvalidationCompletion};
use crate::api::invalidation::{Invalidation, PinSearch};
use crate::api::link::ToDevice;
use crate::protocol::ats::invalidation::{
    InvalidationActions, InvalidationQueue, PendingInvalidation,
};
use crate::quiesce::{GracePeriod, InvalidationWait, WeakWaiter, step_all};
use crate::types::ids::{Pasid, SpaceId};
use crate::types::range::AddrRange;

impl Iommu {
    /// Sends the requests, and makes the steps of waiters, that a call of the queue left to do. The
    /// caller holds no lock.
    fn carry_out(&self, device: &Arc<DeviceRecord>, actions: InvalidationActions) {
        for request in actions.send {
            tracing::trace!(
                device = %device.bdf(), pasid = request.pasid.map(Pasid::get),
                address = request.range.first(), bits = request.range.bits(), "invalidate"
            );
            device.services.send_to_device(ToDevice::Invalidate(request));
        }
        step_all(actions.completed);
    }

    /// Changes the invalidation queue of a device under its lock, then performs the resulting
    /// actions without it. The flag that `change` gets tells whether no translated request is in
    /// flight and none can start.
    pub(crate) fn with_invalidations<R>(
        &self,
        device: &Arc<DeviceRecord>,
        change: impl FnOnce(&mut InvalidationQueue, bool, &mut InvalidationActions) -> R,
    ) -> R {
        let mut actions = InvalidationActions::default();
        let result = {
            let mut queue = device.services.invalidations.lock();
            change(&mut queue, device.services.translated_gate.is_drained(), &mut actions)
        };
        self.carry_out(device, actions);
        result
    }

    /// Makes a device invalidate a range; a step of `waiter` is made when it has.
    pub(super) fn start_invalidation(
        &self,
        device: &Arc<DeviceRecord>,
        pasid: Option<Pasid>,
        range: AlignedRange,
        waiter: WeakWaiter,
    ) {
        let now = self.now();
        self.with_invalidations(device, |queue, is_drained, actions| {
            let pending = PendingInvalidation::new(pasid, range, waiter);
            queue.start(pending, is_drained, now, actions)
        });
    }

    /// Handles an invalidation completion of a device.
    pub(crate) fn invalidation_completed(
        &self,
        device: &Arc<DeviceRecord>,
        completion: InvalidationCompletion,
    ) {
        let has_more = self.with_invalidations(device, |queue, _, actions| {
            queue.complete(completion, actions);
            queue.begin_sending()
        });
        if has_more {
            self.send_backlog(device);
        }
    }

    /// Sends the invalidations that wait for a tag, after a completion has freed one. One thread at
    /// a time does, in a loop: a link may deliver a message, and the device's completion, inside
    /// the call that sends it. If each completion sent the next message, the stack would grow with
    /// the backlog.
    fn send_backlog(&self, device: &Arc<DeviceRecord>) {
        let sending = SendingGuard(Some(device));
        let now = self.now();
        while self.with_invalidations(device, |queue, _, actions| {
            queue.send_backlog(now, actions);
            if actions.send.is_empty() {
                queue.end_sending();
            }
            !actions.send.is_empty()
        }) {}
        sending.finish();
    }

    /// Invalidates a range of a space that has changed, in the IOTLB and in every device that may
    /// cache translations of it.
    pub(crate) fn invalidate_space(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        let (iotlb, devices) = {
            let mut state = self.lock();
            let has_ats_devices = self.0.ats_devices.load(Ordering::Acquire) > 0;
            let devices = if has_ats_devices { state.ats_devices_of(space) } else { Vec::new() };
            (state.iotlb_of(space), devices)
        };
        // The IOTLB before the devices, as VT-d orders IOTLB and device TLB invalidations: a device
        // that has completed its invalidation must not get a stale translation again.
        let accesses =
            iotlb.as_ref().map_or_else(GracePeriod::default, |iotlb| iotlb.invalidate(range));
        let pins = iotlb.filter(|iotlb| !iotlb.users().pins.is_empty()).map(|iotlb| PinSearch {
            wait_queue: self.wait_queue(),
            users: Arc::clone(iotlb.users()),
            range,
        });
        if devices.is_empty() {
            return Invalidation::new(accesses, pins, None);
        }
        let wait = InvalidationWait::new(self.wait_queue());
        for (device, pasid) in &devices {
            let range = AlignedRange::covering(range);
            self.start_invalidation(device, Some(*pasid), range, wait.waiter());
        }
        wait.seal();
        Invalidation::new(accesses, pins, Some(wait))
    }

    /// Handles the drain of translated requests: the last one has left their gate, which is shut.
    pub(crate) fn translated_requests_drained(&self, device: &Arc<DeviceRecord>) {
        self.with_invalidations(device, |queue, _, actions| {
            self.complete_translated_drain(device, queue, actions)
        });
        self.wake_threads();
    }

    /// If the gate of the translated requests is shut and drained, completes the invalidations that
    /// waited for them. Then it unregisters the device if the gate is closed, or resumes the gate
    /// if the device is not blocked. The caller holds the lock of the invalidations.
    ///
    /// Every thread that finds the gate drained completes the invalidations first and then resumes
    /// or unregisters: if a thread resumed the gate without completing the invalidations, their
    /// waiters would never be completed. If requests are in flight, the last of them comes here, so
    /// that no new request starts before the completions are made.
    pub(crate) fn complete_translated_drain(
        &self,
        device: &Arc<DeviceRecord>,
        queue: &mut InvalidationQueue,
        actions: &mut InvalidationActions,
    ) {
        let gate = &device.services.translated_gate;
        if !gate.is_drained() {
            return;
        }
        queue.translated_requests_drained(actions);
        if gate.is_closed() {
            self.remove_ats_device(device);
        } else if !queue.is_blocked() {
            gate.resume();
        }
    }

    /// Registers a device, so that invalidations are sent to it.
    pub(crate) fn add_ats_device(&self, device: &Arc<DeviceRecord>) {
        if device.requester.ats_device.write().replace(Arc::downgrade(device)).is_none() {
            self.0.ats_devices.fetch_add(1, Ordering::Release);
        }
    }

    /// Unregisters a removed device, so that no invalidation is sent to it any more. Must not
    /// precede the end of its translated requests: a change of a space must find the device while
    /// it may use translations.
    fn remove_ats_device(&self, device: &Arc<DeviceRecord>) {
        let mut known = device.requester.ats_device.write();
        // Another device may have this requester ID by now.
        if known.take_if(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(device))).is_some() {
            self.0.ats_devices.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Ends the sending of a backlog if a link panics, so that the next completion begins it again.
struct SendingGuard<'a>(Option<&'a DeviceRecord>);

impl SendingGuard<'_> {
    /// Disarms the guard after the sending has been ended under the lock under which the backlog
    /// was found empty.
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for SendingGuard<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.0 {
            device.services.invalidations.lock().end_sending();
        }
    }
}
