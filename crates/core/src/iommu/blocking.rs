//! The blocked state, which ends all invalidations of a device: ATS off, reset, cut off, removed.
//!
//! A blocked device gets no translated request through and forgets its translations before it is
//! let in again, so nothing has to be awaited from it; that is where an invalidation goes that is
//! never answered. Being blocked is decided under the lock of the device's
//! [`Invalidator`](crate::ats::invalidate), with its gates: there is no moment at which an
//! invalidation finds it unblocked and its translated requests go on.

use std::sync::Arc;

use super::Iommu;
use super::parts::DeviceInner;
use crate::ats::invalidate::{Invalidator, Job, Todo, Waiter};
use crate::ats::message::AlignedRange;
use crate::callback;
use crate::error::{ResetError, Service, ServiceError};
use crate::invalidation::Countdown;
use crate::mutation;
use crate::port::Device;
use crate::pri::queue::{Drained, Outbox};
use crate::sync::atomic::Ordering;

impl Iommu {
    /// No translated request of the device is under way, and none starts.
    pub(crate) fn device_is_quiet(&self, device: &Arc<DeviceInner>) {
        self.with_invalidator(device, |invalidator, _, todo| {
            self.settle(device, invalidator, todo)
        });
        self.gate_drained();
    }

    /// Where no translated request is under way and none starts: finishes what waited for that, and
    /// brings their gate in line with what holds now. Under the lock of the invalidator.
    ///
    /// Whoever comes here first after the last request has left does both: a gate that were opened
    /// without the other would leave somebody waiting. Where some are under way, the
    /// last of them comes here: new ones must not overtake what waits for their end.
    fn settle(&self, device: &Arc<DeviceInner>, invalidator: &mut Invalidator, todo: &mut Todo) {
        let gate = &device.services.translated;
        if !gate.is_drained() {
            return;
        }
        invalidator.is_quiet_now(todo);
        if gate.is_closed() {
            self.forget_translating(device);
        } else if !invalidator.is_blocked() {
            gate.resume();
        }
    }

    /// Takes a removed device out of where invalidations find it. Only once it is quiet: a change
    /// of a space has to find the device as long as it may be using translations.
    fn forget_translating(&self, device: &Arc<DeviceInner>) {
        let mut translating = device.requester.translating.write();
        // Another device may have the requester ID that this one shared.
        if translating.take_if(|held| std::ptr::eq(held.as_ptr(), Arc::as_ptr(device))).is_some() {
            self.0.translating.fetch_sub(1, Ordering::Release);
        }
    }

    /// A device has been taken out: nothing is sent to it any more, and nothing awaited from it.
    /// Answers how many groups of page requests were answered.
    pub(super) fn end_services(&self, device: &Arc<DeviceInner>, orderly: bool) -> usize {
        let mut answered = 0;
        self.0.pages.lock().stop_reception(device.services.key);
        if orderly {
            answered = self.drain_pages(device, Drained::Device);
        }
        self.with_invalidator(device, |invalidator, _, todo| {
            let quiet = device.services.translated.close().is_none_or(|inside| inside == 0);
            invalidator.remove(quiet, todo);
            self.settle(device, invalidator, todo);
            let mut side = device.services.side.lock();
            side.resetting = true;
            side.reset();
        });
        device.services.news.notify_all();
        answered
    }

    /// Lets go of the last of a removed device's page requests.
    pub(super) fn forget_pages(&self, device: &Arc<DeviceInner>) {
        self.with_pages(|pages, out| pages.forget(device.services.key, true, out));
    }

    /// Drains what a device has pending for `what`, and sends the answers.
    pub(super) fn drain_pages(&self, device: &Arc<DeviceInner>, what: Drained<'_>) -> usize {
        let (mut out, now) = (Outbox::default(), self.now());
        let answered = self.0.pages.lock().drain(device.services.key, what, now, &mut out);
        self.send_answers(out);
        answered
    }
}

impl Device {
    /// Switches address translation services on: translation requests are answered, and translated
    /// requests pass.
    ///
    /// # Errors
    /// See [`ServiceError`]; nothing has changed then.
    pub fn enable_ats(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.inner());
        let bdf = device.bdf();
        if !device.spec.capabilities.ats {
            return Err(ServiceError::NoAts { device: bdf });
        }
        if device.requester.id.0 != bdf {
            return Err(ServiceError::SharedRequesterId {
                device: bdf,
                requester: device.requester.id,
            });
        }
        iommu.with_invalidator(device, |invalidator, _, todo| {
            if invalidator.stands_still() {
                return Err(ServiceError::StandsStill { device: bdf });
            }
            if invalidator.is_enabled() && !mutation::is_on(25) {
                return Err(ServiceError::AlreadyOn { device: bdf, service: Service::Ats });
            }
            if device.requester.translating.write().replace(Arc::downgrade(device)).is_none() {
                iommu.0.translating.fetch_add(1, Ordering::Release);
            }
            invalidator.enable();
            iommu.settle(device, invalidator, todo);
            Ok(())
        })
    }

    /// Switches address translation services off: stops translated requests, waits for those under
    /// way (unless called from inside a callback), and forgets all translations. Invalidations
    /// that are under way are over with that.
    ///
    /// # Errors
    /// The device uses page requests, which rest on it; or it was off.
    pub fn disable_ats(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.inner());
        let bdf = device.bdf();
        let left = Arc::new(Countdown::new(1));
        iommu.with_invalidator(device, |invalidator, _, todo| {
            if !invalidator.is_enabled() {
                return Err(ServiceError::NotOn { device: bdf, service: Service::Ats });
            }
            if device.services.side.lock().interface.is_enabled() {
                return Err(ServiceError::PriOn { device: bdf });
            }
            let quiet = device.services.translated.pause() == 0;
            invalidator.disable(quiet, todo);
            // What is on its way is not kept: its request is forgotten.
            if !mutation::is_on(11) {
                device.services.side.lock().atc.reset();
            }
            let waiter = Waiter::Change(Arc::downgrade(&left));
            invalidator.start(Job::new(None, AlignedRange::ALL, waiter), quiet, None, todo);
            Ok(())
        })?;
        device.services.news.notify_all();
        if !callback::inside() {
            iommu.wait_until(|_| left.is_over());
        }
        Ok(())
    }

    /// Switches page requests on. That does not end a response failure, nor does switching them off
    /// before: only a [reset](Self::reset) of the device does (rule F2). In PCIe, too, Response
    /// Failure is a status that Enable leaves as it is (PCIe 6.0, section 10.5.2.3).
    ///
    /// # Errors
    /// See [`ServiceError`]; nothing has changed then.
    pub fn enable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.inner());
        let bdf = device.bdf();
        let Some(capacity) = device.spec.capabilities.pri else {
            return Err(ServiceError::NoPri { device: bdf });
        };
        let allocation = capacity.min(iommu.config().page_requests_each);
        // Both sides under the first lock: one that switches ATS off meanwhile comes before or
        // after.
        let invalidator = device.services.invalidator.lock();
        if !invalidator.is_enabled() {
            return Err(ServiceError::AtsOff { device: bdf });
        }
        if invalidator.stands_still() {
            return Err(ServiceError::StandsStill { device: bdf });
        }
        let mut side = device.services.side.lock();
        if side.interface.is_enabled() {
            return Err(ServiceError::AlreadyOn { device: bdf, service: Service::Pri });
        }
        iommu.0.pages.lock().admit(device, device.services.key, allocation);
        side.interface.set_enabled(true);
        Ok(())
    }

    /// Switches page requests off: none is taken any more, and what is pending is answered as
    /// invalid, but for what is being resolved right now.
    ///
    /// # Errors
    /// It was off.
    pub fn disable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.inner());
        {
            // As it is switched on: of several at once one succeeds, and both sides agree.
            let _invalidator = device.services.invalidator.lock();
            let mut side = device.services.side.lock();
            if !side.interface.is_enabled() {
                return Err(ServiceError::NotOn { device: device.bdf(), service: Service::Pri });
            }
            iommu.0.pages.lock().stop_reception(device.services.key);
            side.interface.set_enabled(false);
        }
        iommu.drain_pages(device, Drained::Everything);
        device.services.news.notify_all();
        Ok(())
    }

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
        let (iommu, device) = (self.iommu(), self.inner());
        if device.gate.is_closed() {
            return Err(ResetError::Gone { device: device.bdf() });
        }
        if mutation::is_on(20) && device.services.invalidator.lock().is_in_reset() {
            return Err(ResetError::Gone { device: device.bdf() });
        }
        iommu.with_invalidator(device, |invalidator, _, todo| {
            let _inside = device.gate.pause();
            let quiet = device.services.translated.pause() == 0;
            invalidator.begin_reset(quiet, todo);
            let mut side = device.services.side.lock();
            side.resetting = true;
            side.reset();
        });
        device.await_hits();
        device.services.news.notify_all();
        iommu.with_pages(|pages, out| pages.forget(device.services.key, false, out));
        tracing::debug!(device = %device.bdf(), "reset begun");
        Ok(Reset { device: self.clone() })
    }

    /// Whether the device was cut off because it did not answer; a reset ends that.
    pub fn is_cut_off(&self) -> bool {
        self.inner().services.invalidator.lock().is_cut_off()
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
        let device = self.device.inner();
        device.gate.is_drained() && device.services.translated.is_drained()
    }

    /// Ends it, as a drop does.
    pub fn done(self) {}
}

impl Drop for Reset {
    fn drop(&mut self) {
        let device = self.device.inner();
        // What a device sent before it noticed the reset.
        self.device.iommu().with_pages(|pages, out| pages.forget(device.services.key, false, out));
        self.device.iommu().with_invalidator(device, |invalidator, _, todo| {
            if !invalidator.end_reset() {
                return;
            }
            let mut side = device.services.side.lock();
            side.reset();
            side.resetting = false;
            drop(side);
            self.device.iommu().settle(device, invalidator, todo);
            device.gate.resume();
        });
    }
}
