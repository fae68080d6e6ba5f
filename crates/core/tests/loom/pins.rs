//! Work on pinned memory, against what takes that away.
//!
//! A port is *warm* where it has pinned the page before: then it pins a cached translation, under a
//! read guard. Else it goes through the gates. Each model has to see the work both done and
//! refused: one in which it always ends the same way shows nothing.

use std::sync::Arc;

use loom::thread;
use sva_core::ats::PAGE;
use sva_core::*;

use crate::in_place::InPlace;
use crate::iotlb::{Bound, bind_in_place, both_ways, bound};
use crate::support::*;

/// Works on a page; whether it could.
fn work(port: &DmaPort, pasid: Pasid, space: &InPlace, page: usize) -> bool {
    let piece = Segment { address: page as u64 * PAGE, len: 8 };
    port.with_memory(Some(pasid), piece, Access::READ, |_| space.touch(page)).is_ok()
}

/// A port that has pinned the first page before.
fn warm(device: &Device, pasid: Pasid, space: &InPlace) -> DmaPort {
    let port = device.port();
    assert!((0..2).all(|_| work(&port, pasid, space, 0)));
    port
}

/// Work on the first page against `end`, which has made an end of it when it returns. What that
/// answers is dropped last. Answers whether the work was done.
fn work_against<K>(
    is_warm: bool,
    end: impl FnOnce(&Iommu, &Device, &Arc<InPlace>, Bond<()>) -> K,
) -> usize {
    let Bound { iommu, device, space, bond, pasid } = bound();
    let port = if is_warm { warm(&device, pasid, &space) } else { device.port() };
    let user = thread::spawn({
        let space = Arc::clone(&space);
        move || (work(&port, pasid, &space, 0), port)
    });
    let last = end(&iommu, &device, &space, bond);
    let used = space.uses(0);
    let (worked, port) = user.join().expect("ends");
    assert_eq!(space.uses(0), used, "the page was taken away from under the work");
    drop((port, last));
    usize::from(worked)
}

// shows T2
// Two threads: change; work on memory that is not cached. Up to 3 forced switches.
#[test]
fn concurrent_pin_and_space_change() {
    both_ways(Some(3), || {
        work_against(false, |_, _, space, bond| {
            space.unmap(0);
            bond
        })
    });
}

// shows T2
// Two threads: change; work on memory that is cached. Up to 3 forced switches.
#[test]
fn concurrent_pin_of_what_is_cached_and_space_change() {
    both_ways(Some(3), || {
        work_against(true, |_, _, space, bond| {
            space.unmap(0);
            bond
        })
    });
}

// shows T2
// Two threads: a change that is asked again and again whether it is over; work on memory that is
// cached. Up to 3 forced switches.
#[test]
fn concurrent_pin_of_what_is_cached_and_a_change_that_is_not_waited_for() {
    both_ways(Some(3), || {
        work_against(true, |_, _, space, bond| {
            let change = space.begin_unmap(0);
            while !change.is_over() {
                thread::yield_now();
            }
            bond
        })
    });
}

// shows T2
// Two threads: change of one page, then of the other; work on that one, which is cached. The first
// change has the space forget the port, and not what it has pinned. Up to 2 forced switches.
#[test]
#[ignore = "takes a minute or more: cargo xtask full"]
fn concurrent_pin_of_what_is_cached_and_two_changes() {
    both_ways(Some(2), || {
        work_against(true, |_, _, space, bond| {
            space.unmap(1);
            space.unmap(0);
            bond
        })
    });
}

// shows U1, U2
// Two threads: unbind; work on memory that is not cached, or is. Up to 3 forced switches for
// either.
#[test]
fn concurrent_pin_and_unbind() {
    for is_warm in [false, true] {
        both_ways(Some(3), move || {
            work_against(is_warm, |_, _, _, bond| {
                bond.unbind();
            })
        });
    }
}

// shows G5, U2
// Two threads: removal; work on memory that is not cached, or is. Up to 3 forced switches for
// either.
#[test]
fn concurrent_pin_and_surprise_removal() {
    for is_warm in [false, true] {
        both_ways(Some(3), move || {
            work_against(is_warm, |iommu, device, _, bond| {
                iommu.remove(device, Removal::Surprise).expect("there");
                bond
            })
        });
    }
}

// shows U1
// Two threads: reset; work on memory that is not cached, or is. Up to 3 forced switches for
// either.
#[test]
fn concurrent_pin_and_reset() {
    for is_warm in [false, true] {
        both_ways(Some(3), move || {
            work_against(is_warm, |_, device, _, bond| {
                let reset = device.reset().expect("there");
                (reset, bond)
            })
        });
    }
}

// shows G5, U2
// Two threads: removal of one of two devices with one requester ID, whose bond stays for the other;
// work by its port on memory that is cached. Up to 3 forced switches.
#[test]
fn concurrent_pin_of_what_is_cached_and_removal_from_behind_an_alias() {
    both_ways(Some(3), || {
        let (iommu, space) = (aliased(), InPlace::new());
        let devices = [plug(&iommu, 0), plug(&iommu, 1)];
        let bond = iommu
            .bind_group(devices[0].group(), &space, Bind::new(()))
            .expect("nothing is in the way");
        let pasid = bond.pasid();
        let port = warm(&devices[1], pasid, &space);
        let user = thread::spawn({
            let space = Arc::clone(&space);
            move || (work(&port, pasid, &space, 0), port)
        });
        iommu.remove(&devices[1], Removal::Surprise).expect("there");
        let used = space.uses(0);
        let (worked, port) = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "the removal did not wait for the work");
        drop(port);
        assert!(work(&devices[0].port(), pasid, &space, 0), "the bond stays for the other");
        drop(bond);
        usize::from(worked)
    });
}

// shows U5, U6
// Two threads: unbind and bind of another space; work on memory of the first that is cached, twice.
// Up to 2 forced switches. One PASID.
#[test]
fn concurrent_pin_of_what_is_cached_and_pasid_reuse() {
    both_ways(Some(2), || {
        let Bound { iommu, device, space: old, bond, pasid } = bound();
        let (port, new) = (warm(&device, pasid, &old), InPlace::with_frames(2));
        let before = old.in_place();
        let user = thread::spawn(move || {
            let piece = Segment { address: 0, len: 8 };
            (0..2).for_each(|_| {
                port.with_memory(Some(pasid), piece, Access::READ, |_| ()).unwrap_or_default()
            });
            port
        });
        bond.unbind();
        let used = old.uses(0);
        let next = bind_in_place(&iommu, &device, &new);
        let port = user.join().expect("ends");
        assert_eq!(old.uses(0), used, "work on the old owner's memory after the unbind");
        // That nothing of the old one's is used there its own memory says.
        assert!((0..2).all(|_| work(&port, next.pasid(), &new, 0)));
        drop((port, next));
        old.in_place() - before
    });
}
