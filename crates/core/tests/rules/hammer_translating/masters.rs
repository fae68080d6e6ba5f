//! What devices do in the hammer: accesses by bonds that live, and by bonds that are gone.

use std::time::Duration;

use sva_core::ats::TranslationGuard;
use sva_core::{Access, AtsPort, Device, DmaError, FaultReason, PasidTag};

use super::marked::{DATA, Marked, address_of, written_at};
use super::{System, count};

impl System {
    /// Uses bonds, recent ones and those that are gone.
    pub(super) fn master(&self, random: &mut fastrand::Rng) {
        while self.running() {
            let owner = random.choice(self.owners.lock().iter()).cloned();
            let Some((number, tag, space)) = owner else {
                std::thread::yield_now();
                continue;
            };
            self.access(&self.device(number), tag, &space, false, random);
        }
    }

    /// One access of a device. With `bound` the bond lives meanwhile, so that nobody else's memory
    /// can be behind the PASID.
    pub(super) fn access(
        &self,
        device: &Device,
        tag: PasidTag,
        space: &Marked,
        bound: bool,
        random: &mut fastrand::Rng,
    ) {
        let (number, page) = (device.bdf().device(), random.u64(..DATA));
        let (port, pasid) = (device.ats_port(), Some(tag.pasid));
        match random.u32(..8) {
            0..=2 => {
                let (since, mut found) = (space.since(page), [0; 24]);
                let read = port.read(pasid, address_of(page), &mut found);
                if read.is_ok() {
                    count(&self.counts.reads);
                    assert!(
                        Marked::is_canary(page, &found),
                        "{number} read {found:?} at page {page}"
                    );
                }
                match read {
                    Ok(()) if bound => space.check(since, &found, "a read"),
                    Err(error) if bound => frames_are_there(&error, space),
                    _ => {}
                }
            }
            3 | 4 => match port.write(pasid, written_at(page, number), &[number; 32]) {
                Ok(()) => count(&self.counts.writes),
                Err(error) if bound => frames_are_there(&error, space),
                Err(_) => {}
            },
            5 => {
                if let Ok(request) =
                    port.request_translation(pasid, address_of(page), Access::WRITE)
                    && port.translation(request).is_none()
                {
                    port.abandon_translation(request);
                }
            }
            _ => self.use_translation(device, &port, tag, page, space, random),
        }
    }

    /// Uses a cached translation: where the space says that it is stale, it has to be
    /// refused.
    fn use_translation(
        &self,
        device: &Device,
        port: &AtsPort,
        tag: PasidTag,
        page: u64,
        space: &Marked,
        random: &mut fastrand::Rng,
    ) {
        let (access, since) =
            (if random.bool() { Access::READ } else { Access::WRITE }, space.since(page));
        let number = device.bdf().device();
        let address =
            if access == Access::WRITE { written_at(page, number) } else { address_of(page) };
        let Some(guard) = port.use_translation(Some(tag.pasid), address, access) else { return };
        // Who has it now had it when the translation was found, or the translation is void: an
        // unbind waits for this access.
        let is_owner = device.port().owner_of(tag.pasid) == Some(tag);
        let audit = space.memory.audit(address, access, guard.frame());
        if random.u32(..4) == 0 {
            std::thread::sleep(Duration::from_micros(random.u64(..2000)));
        }
        let mut found = [0; 24];
        let used = if access == Access::WRITE {
            guard.write(&[number; 32])
        } else {
            guard.read(&mut found)
        };
        if !is_owner {
            return;
        }
        count(if audit.is_ok() { &self.counts.used } else { &self.counts.stale });
        match (audit, used) {
            (Err(stale), Ok(_)) => panic!("device {number} used a stale translation: {stale}"),
            (Ok(()), Ok(_)) if access == Access::READ => {
                space.check(since, &found, "a translation in use")
            }
            _ => {}
        }
        drop::<TranslationGuard>(guard);
    }
}

/// A frame that a translation leads to is there as long as the translation is used, and until the
/// space ends.
fn frames_are_there(error: &DmaError, space: &Marked) {
    let freed = error.fault().is_some_and(|fault| fault.reason == FaultReason::NoSuchFrame);
    assert!(
        !freed || space.memory.handle().ended().is_some(),
        "a frame was freed while a device used it: {error}"
    );
}
