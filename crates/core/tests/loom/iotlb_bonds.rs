//! Hits of a port that has several bonds, or whose bond or PASID was given anew.

use std::sync::Arc;

use loom::thread;
use sva_core::*;

use crate::in_place::InPlace;
use crate::iotlb::{Bound, bind_in_place, both_ways, bound, read, reading, warm};
use crate::support::*;

/// One device that is bound to two spaces, and a port that caches the first page of both.
fn bound_to_two() -> (Iommu, [Arc<InPlace>; 2], [Bond<()>; 2], DmaPort) {
    let (iommu, spaces) = (system(false, 2), [1, 2].map(InPlace::with_frames));
    let device = plug(&iommu, 0);
    let bonds = spaces.each_ref().map(|space| bind_in_place(&iommu, &device, space));
    let port = device.port();
    assert!(bonds.iter().all(|bond| (0..2).all(|_| read(&port, bond.pasid(), 0))));
    (iommu, spaces, bonds, port)
}

// shows T2
// Two threads: change of a space; two reads of it by what the port caches, which has revocations
// of another space to catch up with. Up to 2 forced switches, some 149,000, 55 s.
#[test]
#[ignore = "takes a minute or more: cargo xtask full"]
fn concurrent_revocation_of_another_space_and_space_change() {
    both_ways(Some(2), || {
        let (_iommu, [space, other], [bond, beside], port) = bound_to_two();
        other.unmap(1);
        let (before, pasid) = (space.in_place(), bond.pasid());
        let user = thread::spawn(move || (read(&port, pasid, 0), read(&port, pasid, 0), port));
        let used = space.unmap(0);
        let port = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((port, bond, beside, other));
        space.in_place() - before
    });
}

// shows T2
// Two threads: change; one read by what the port caches of a bond that was unbound and bound
// again, while the space had another bond. Every schedule, some 4,100, 0.4 s.
#[test]
fn concurrent_hit_after_a_second_bind_and_space_change() {
    both_ways(None, || {
        let Bound { iommu, device, space, bond, pasid } = bound();
        let other = bind_in_place(&iommu, &plug(&iommu, 1), &space);
        let port = warm(&device, pasid, 0, 2);
        drop(bond);
        let bond = bind_in_place(&iommu, &device, &space);
        assert!((0..2).all(|_| read(&port, bond.pasid(), 0)));
        let before = space.in_place();
        let user = thread::spawn(move || reading(port, pasid, 0));
        let used = space.unmap(0);
        let port = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((port, bond, other));
        space.in_place() - before
    });
}

// shows U5, U6
// Two threads: unbind and bind of another space; two reads by a port that caches the first. Up
// to 3 forced switches, some 3,600, 0.3 s. One PASID.
#[test]
fn concurrent_hit_and_pasid_reuse() {
    both_ways(Some(3), || {
        let Bound { iommu, device, space: old, bond, pasid } = bound();
        let (port, new) = (warm(&device, pasid, 0, 2), InPlace::with_frames(2));
        let before = old.in_place();
        let user = thread::spawn(move || (read(&port, pasid, 0), read(&port, pasid, 0), port));
        bond.unbind();
        let used = old.uses(0);
        let next = bind_in_place(&iommu, &device, &new);
        assert_eq!(next.pasid(), pasid);
        let (.., port) = user.join().expect("ends");
        assert_eq!(old.uses(0), used, "an access was under way, or began, after the unbind");
        // The device is the next owner's as well. That nothing of the old one's is used there its
        // own memory says.
        assert!((0..2).all(|_| read(&port, pasid, 0)));
        drop((port, next));
        old.in_place() - before
    });
}

// shows U5, U6
// Two threads: unbind and bind of another space; two reads for the first owner by what the port
// caches. Up to 3 forced switches, some 2,900, 0.2 s. One PASID.
#[test]
fn concurrent_hit_for_an_owner_and_pasid_reuse() {
    both_ways(Some(3), || {
        let Bound { iommu, device, space: old, bond, pasid } = bound();
        let (port, new) = (device.port().for_owner(bond.tag()), InPlace::with_frames(2));
        assert!((0..2).all(|_| read(&port, pasid, 0)));
        let before = old.in_place();
        let user = thread::spawn(move || (read(&port, pasid, 0), read(&port, pasid, 0), port));
        bond.unbind();
        let used = old.uses(0);
        let next = bind_in_place(&iommu, &device, &new);
        let reached = user.join().expect("ends");
        assert_eq!(
            (old.uses(0), new.uses(0)),
            (used, 0),
            "a late access, or one that reached the next owner"
        );
        drop((reached, next));
        old.in_place() - before
    });
}
