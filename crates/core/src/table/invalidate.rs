//! Invalidations: devices, and the IOTLB, drop the translations that have changed.
//!
//! What comes of one is decided by the device's
//! [`InvalidationQueue`](crate::protocol::ats::invalidation), under its lock. Messages are sent, and
//! completions made, with none held.

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
use crate::quiesce::{Change, GracePeriod, Waiter, complete};
use crate::types::ids::{Pasid, SpaceId};
use crate::types::range::AddrRange;

impl Iommu {
    /// Does what a step of a device's invalidations left to do. With no lock held.
    fn carry_out(&self, device: &Arc<DeviceRecord>, actions: InvalidationActions) {
        for request in actions.send {
            tracing::trace!(
                device = %device.bdf(), pasid = request.pasid.map(Pasid::get),
                address = request.range.first(), bits = request.range.bits(), "invalidate"
            );
            device.services.to_device(ToDevice::Invalidate(request));
        }
        complete(actions.completed);
    }

    /// Changes a device's invalidations under their lock and does the rest without it. The flag
    /// says whether no translated request is in flight.
    pub(crate) fn with_invalidations<R>(
        &self,
        device: &Arc<DeviceRecord>,
        change: impl FnOnce(&mut InvalidationQueue, bool, &mut InvalidationActions) -> R,
    ) -> R {
        let mut actions = InvalidationActions::default();
        let result = {
            let mut queue = device.services.invalidations.lock();
            change(&mut queue, device.services.translated.is_drained(), &mut actions)
        };
        self.carry_out(device, actions);
        result
    }

    /// Has a device invalidate a range; `waiter` waits for it.
    pub(super) fn start_invalidation(
        &self,
        device: &Arc<DeviceRecord>,
        pasid: Option<Pasid>,
        range: AlignedRange,
        waiter: Waiter,
    ) {
        let now = self.now();
        self.with_invalidations(device, |queue, is_drained, actions| {
            let pending = PendingInvalidation::new(pasid, range, waiter);
            queue.start(pending, is_drained, now, actions)
        });
    }

    /// A device has completed an invalidation.
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

    /// Sends what waits for a tag. One thread at a time and in a loop: a link may deliver a
    /// message, and what the device answers, inside the call that sends it. If each completion sent
    /// the next message, the stack would grow with the length of the backlog.
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

    /// A space has changed: takes the range out of the IOTLB, and has every device that may cache a
    /// translation of it invalidate it.
    pub(crate) fn invalidate_space(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        let (iotlb, users) = {
            let mut state = self.lock();
            let any = self.0.ats_devices.load(Ordering::Acquire) > 0;
            (state.iotlb_of(space), if any { state.ats_users(space) } else { Vec::new() })
        };
        // Before the devices invalidate: none is to be told again what the IOTLB is about to lose.
        let accesses =
            iotlb.as_ref().map_or_else(GracePeriod::default, |iotlb| iotlb.invalidate(range));
        let pins = iotlb.filter(|iotlb| !iotlb.users().pins.is_empty()).map(|iotlb| PinSearch {
            host: self.host(),
            users: Arc::clone(iotlb.users()),
            range,
        });
        if users.is_empty() {
            return Invalidation::new(accesses, pins, None);
        }
        let change = Change::new(self.host());
        for (device, pasid) in &users {
            let range = AlignedRange::covering(range);
            self.start_invalidation(device, Some(*pasid), range, change.waiter());
        }
        change.seal();
        Invalidation::new(accesses, pins, Some(change))
    }

    /// The last translated request of a device has left its gate, which is shut.
    pub(crate) fn translated_requests_drained(&self, device: &Arc<DeviceRecord>) {
        self.with_invalidations(device, |queue, _, actions| {
            self.complete_translated_drain(device, queue, actions)
        });
        self.wake_waiters();
    }

    /// Where no translated request is in flight and none starts: completes what waited for that,
    /// and brings their gate in line with what holds now. Under the lock of the invalidations.
    ///
    /// Whoever comes here first after the last request has left does both: a gate that were opened
    /// without the other would leave somebody waiting. Where some are in flight, the last of them
    /// comes here: new ones must not overtake what waits for their end.
    pub(crate) fn complete_translated_drain(
        &self,
        device: &Arc<DeviceRecord>,
        queue: &mut InvalidationQueue,
        actions: &mut InvalidationActions,
    ) {
        let gate = &device.services.translated;
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

    /// Has invalidations find a device from now on.
    pub(crate) fn add_ats_device(&self, device: &Arc<DeviceRecord>) {
        if device.requester.ats_device.write().replace(Arc::downgrade(device)).is_none() {
            self.0.ats_devices.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes a removed device out of where invalidations find it. Only once its translated requests
    /// are over: a change of a space has to find the device as long as it may use translations.
    fn remove_ats_device(&self, device: &Arc<DeviceRecord>) {
        let mut known = device.requester.ats_device.write();
        // Another device may have the requester ID that this one shared.
        if known.take_if(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(device))).is_some() {
            self.0.ats_devices.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Ends the sending of a backlog where a link panics: the next completion begins it again.
struct SendingGuard<'a>(Option<&'a DeviceRecord>);

impl SendingGuard<'_> {
    /// It has been ended, under the lock under which there was no more to send.
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
