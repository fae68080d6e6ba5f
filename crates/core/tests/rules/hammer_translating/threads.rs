//! The threads that take things from the devices and give them back: pages, spaces, the devices
//! themselves, services, workers.

use std::time::Duration;

use sva_core::pri::WorkerConfig;
use sva_core::{EndReason, FaultReason, Removal, Workers};
use sva_sync::atomic::Ordering;

use super::marked::Marked;
use super::{DEVICES, SPACES, System, count, plug};
use crate::support::*;

impl System {
    pub(super) fn changer(&self, random: &mut fastrand::Rng) {
        while self.running() {
            self.any_space(random).change(random);
            count(&self.counts.changes);
            std::thread::yield_now();
        }
    }

    /// Ends spaces and puts others in their place.
    pub(super) fn reaper(&self, random: &mut fastrand::Rng) {
        while self.running() {
            std::thread::sleep(Duration::from_millis(random.u64(..40)));
            let fresh = Marked::new(self.marks.fetch_add(1, Ordering::Relaxed) + 1);
            let old = std::mem::replace(&mut *self.spaces[random.usize(..SPACES)].lock(), fresh);
            old.memory.end(EndReason::Exited);
        }
    }

    /// Removes devices and plugs others in at their addresses.
    pub(super) fn plugger(&self, random: &mut fastrand::Rng) {
        while self.running() {
            std::thread::sleep(Duration::from_millis(random.u64(..30)));
            let number = random.u8(1..=DEVICES);
            let removal = if random.bool() { Removal::Surprise } else { Removal::Orderly };
            // Not under the slot's lock: the others go on with a device that is leaving.
            let old = self.device(number);
            self.iommu.remove(&old, removal).expect("plugged, and by nobody else removed");
            assert_eq!(
                reason(old.port().read(None, 0, &mut [0])),
                Some(FaultReason::DeviceRemoved)
            );
            *self.devices[usize::from(number) - 1].lock() =
                plug(&self.iommu, number, &self.courier, self.seed ^ random.u64(..));
        }
    }

    /// Resets devices, also inside a reset; also those that were cut off.
    pub(super) fn resetter(&self, random: &mut fastrand::Rng) {
        while self.running() {
            std::thread::sleep(Duration::from_millis(random.u64(..10)));
            let device = self.device(random.u8(1..=DEVICES));
            let Ok(outer) = device.reset() else { continue };
            count(&self.counts.resets);
            let _inner = random.bool().then(|| device.begin_reset());
            std::thread::sleep(Duration::from_micros(random.u64(..500)));
            outer.end();
        }
    }

    /// Switches services off and on; another thread may do the same.
    pub(super) fn switcher(&self, random: &mut fastrand::Rng) {
        while self.running() {
            std::thread::sleep(Duration::from_millis(random.u64(..10)));
            let device = self.device(random.u8(1..=DEVICES));
            let _ = device.disable_pri();
            if device.disable_ats().is_ok() {
                count(&self.counts.switches);
            }
            std::thread::sleep(Duration::from_micros(random.u64(..500)));
            let _ = device.enable_ats();
            let _ = device.enable_pri();
        }
    }

    /// Page requests are resolved by few threads, by many, and for moments by none.
    pub(super) fn foreman(&self, random: &mut fastrand::Rng) {
        while self.running() {
            let threads = random.usize(1..=4);
            let workers = Workers::start(
                &self.iommu,
                WorkerConfig::default().threads(threads).max_threads(threads + random.usize(..3)),
            )
            .expect("threads");
            std::thread::sleep(Duration::from_millis(random.u64(5..200)));
            drop(workers);
        }
    }
}
