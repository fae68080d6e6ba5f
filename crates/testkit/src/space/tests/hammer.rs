//! A device that keeps translations, in its own thread, against a space that changes all the time.

use std::collections::BTreeMap;

use sva_core::Access;
use sva_core::ats::Translation;
use sva_core::space::{ExitWork, Invalidation};

use super::*;

const PAGES: u64 = 8;
/// The device goes on until it has written so often and as many changes have been made.
const ENOUGH: u64 = 2000;
/// Neither of the two tries more often.
const BOUND: u64 = 2_000_000;

/// A cache that keeps each translation until it is told otherwise; its lock is held over each
/// access, so that an invalidation waits for the access.
struct CachingDevice {
    space: Arc<MemorySpace>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Counts invalidations: a fill that began before one is dropped (rule T3).
    changes: u64,
    kept: BTreeMap<u64, Translation>,
}

impl SpaceWatcher for CachingDevice {
    fn space_ended(&self, _: SpaceId, _: EndReason) -> ExitWork {
        ExitWork::none()
    }

    fn invalidate(&self, _: SpaceId, range: AddrRange) -> Invalidation {
        let mut cache = self.cache.lock();
        cache.changes += 1;
        cache.kept.retain(|_, translation| !translation.range.range().overlaps(range));
        // All is done: nothing is under way, since that would hold the lock.
        Invalidation::none()
    }
}

impl CachingDevice {
    /// One write through the cache; false where there is no translation that permits it.
    fn write(&self, address: u64) -> Result<bool, String> {
        let before = self.cache.lock().changes;
        let fresh = self.space.handle().translate(address, false).ok();
        let mut cache = self.cache.lock();
        if let Some(translation) = fresh.filter(|_| cache.changes == before) {
            cache.kept.entry(address / PAGE).or_insert(translation);
        }
        let Some(kept) = cache
            .kept
            .get(&(address / PAGE))
            .copied()
            .filter(|kept| kept.permissions.permit(Access::WRITE))
        else {
            return Ok(false);
        };
        let frame =
            kept.frame.and_then(|frame| frame.offset(address - kept.range.first())).expect("named");
        self.space.audit(address, Access::WRITE, frame).map_err(|stale| stale.to_string())?;
        self.space.handle().write_frame(frame, &[1]).map_err(|missing| missing.to_string())?;
        Ok(true)
    }
}

fn change(space: &MemorySpace, round: u64) {
    let page = BASE + round % PAGES * PAGE;
    match round % 5 {
        0 => space.unmap(page, PAGE),
        1 => space.protect(page, PAGE, Protection::READ),
        2 => space.replace(BASE, PAGES * PAGE),
        3 => space.absent(page, PAGE),
        _ => space.remap(page, PAGE, BASE + 2 * PAGES * PAGE),
    }
    space.map(BASE + (round + 3) % PAGES * PAGE, PAGE, Protection::READ_WRITE);
}

// shows T2, T3
#[test]
fn no_kept_translation_is_used_after_a_change_has_returned() {
    bounded(write_while_the_space_changes);
}

fn write_while_the_space_changes() {
    let space = Arc::new(MemorySpace::new());
    space.map(BASE, PAGES * PAGE, Protection::READ_WRITE);
    let device = Arc::new(CachingDevice { space: space.clone(), cache: Mutex::default() });
    space.handle().watch(device.clone()).expect("alive");
    let changed = AtomicU64::new(0);
    let writes = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = 0;
            for turn in 0..BOUND {
                if writes >= ENOUGH && changed.load(Ordering::Relaxed) >= ENOUGH {
                    break;
                }
                writes += u64::from(device.write(BASE + turn % PAGES * PAGE)?);
            }
            Ok::<_, String>(writes)
        });
        for round in 0..BOUND {
            if writer.is_finished() {
                break;
            }
            change(&space, round);
            changed.fetch_add(1, Ordering::Relaxed);
        }
        writer.join().expect("no panic")
    });
    assert!(
        writes.expect("no stale access") >= ENOUGH,
        "the device got through while the space changed"
    );
    assert_eq!(space.changes_under_way(), 0);
    space.unmap(BASE, 3 * PAGES * PAGE);
    assert_eq!(space.frames(), 0);
    device.space.end(EndReason::Closed);
}
