//! Accesses through translations that the IOMMU caches, against what takes those away.
//!
//! A port is *warm* where its reads hit: the IOTLB after the first one, the port's own TLB after
//! the second. Each model has to see its access both hit and miss: one in which it always goes the
//! same way shows nothing.

use std::sync::Arc;

use loom::thread;
use sva_core::ats::PAGE;
use sva_core::*;

use crate::in_place::InPlace;
use crate::support::*;

/// Tries the schedules with at most so many forced switches, or every one. The model answers how
/// many accesses went by what is cached.
pub(crate) fn both_ways(switches: Option<usize>, run: impl Fn() -> usize + Send + Sync + 'static) {
    let (hits, misses) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let counted = (Arc::clone(&hits), Arc::clone(&misses));
    let run = move || if run() > 0 { counted.0.up() } else { counted.1.up() };
    match switches {
        Some(switches) => bounded(switches, run),
        None => model(run),
    }
    assert!(
        hits.get() > 0 && misses.get() > 0,
        "{} schedules in which it hit, {} in which it did not",
        hits.get(),
        misses.get()
    );
}

pub(crate) fn bind_in_place(iommu: &Iommu, device: &Device, space: &Arc<InPlace>) -> Bond<()> {
    iommu.bind_device(device, space, Bind::new(())).expect("nothing is in the way")
}

pub(crate) fn read(port: &DmaPort, pasid: Pasid, page: usize) -> bool {
    port.read(Some(pasid), page as u64 * PAGE, &mut [0]).is_ok()
}

/// A read whose port is dropped with the answer, when there is but one thread.
pub(crate) fn reading(port: DmaPort, pasid: Pasid, page: usize) -> (bool, DmaPort) {
    (read(&port, pasid, page), port)
}

/// A port of a device that has read a page so often.
pub(crate) fn warm(device: &Device, pasid: Pasid, page: usize, reads: usize) -> DmaPort {
    let port = device.port();
    assert!((0..reads).all(|_| read(&port, pasid, page)));
    port
}

/// One device that is bound to one space.
pub(crate) struct Bound {
    pub(crate) iommu: Iommu,
    pub(crate) device: Device,
    pub(crate) space: Arc<InPlace>,
    pub(crate) bond: Bond<()>,
    pub(crate) pasid: Pasid,
}

pub(crate) fn bound() -> Bound {
    let (iommu, space) = (system(false, 1), InPlace::new());
    let device = plug(&iommu, 0);
    let bond = bind_in_place(&iommu, &device, &space);
    let pasid = bond.pasid();
    Bound { iommu, device, space, bond, pasid }
}

/// A read of the first page by a port that has read it so often, against `end`, which has made an
/// end of its access when it returns. What that answers is dropped last. Answers how many reads
/// hit.
fn read_against<K>(
    reads: usize,
    end: impl FnOnce(&Iommu, &Device, &Arc<InPlace>, Bond<()>) -> K,
) -> usize {
    let Bound { iommu, device, space, bond, pasid } = bound();
    let port = warm(&device, pasid, 0, reads);
    let before = space.in_place();
    let user = thread::spawn(move || reading(port, pasid, 0));
    let last = end(&iommu, &device, &space, bond);
    let used = space.uses(0);
    user.join().expect("ends");
    assert_eq!(
        space.uses(0),
        used,
        "an access was under way, or began, when there were to be none"
    );
    drop(last);
    space.in_place() - before
}

// shows T2
// Two threads: change; one read by what the port caches. Every schedule, some 4,100, 0.3 s.
#[test]
fn concurrent_hit_and_space_change() {
    both_ways(None, || {
        read_against(2, |_, _, space, bond| {
            space.unmap(0);
            bond
        })
    });
}

// shows T2
// Two threads: change; two reads, the first by an entry of the table, the second by what the port
// caches of that. Up to 1 forced switch, some 144,000, 10 s.
#[test]
fn concurrent_look_up_and_space_change() {
    both_ways(Some(1), || {
        let Bound { iommu: _iommu, device, space, bond, pasid } = bound();
        let port = warm(&device, pasid, 0, 1);
        let user = thread::spawn(move || (read(&port, pasid, 0), read(&port, pasid, 0), port));
        let used = space.unmap(0);
        let (.., port) = user.join().expect("ends");
        assert!(!read(&port, pasid, 0), "the port caches what is gone");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((port, bond));
        space.in_place()
    });
}

// shows U1, U2
// Two threads: unbind; one read by what the port caches. Every schedule, some 1,500, 0.1 s.
#[test]
fn concurrent_hit_and_unbind() {
    both_ways(None, || {
        read_against(2, |_, _, _, bond| {
            bond.unbind();
        })
    });
}

// shows U4
// Two threads: end of the space; one read by what the port caches. Every schedule, some 12,000,
// 1.2 s.
#[test]
fn concurrent_hit_and_exit() {
    both_ways(None, || {
        read_against(2, |_, _, space, bond| {
            space.end();
            bond
        })
    });
}

// shows G5, U2
// Two threads: removal; one read by what the port caches. Up to 3 forced switches, some 2,200,
// 0.1 s; every schedule would be 310,000.
#[test]
fn concurrent_hit_and_surprise_removal() {
    both_ways(Some(3), || {
        read_against(2, |iommu, device, _, bond| {
            iommu.remove(device, Removal::Surprise).expect("there");
            bond
        })
    });
}

// shows G5, U2
// Two threads: removal of one of two devices with one requester ID, whose bond stays for the other;
// one read by what its port caches. Every schedule, some 620, below 0.1 s.
#[test]
fn concurrent_hit_and_removal_from_behind_an_alias() {
    both_ways(None, || {
        let (iommu, space) = (aliased(), InPlace::new());
        let devices = [plug(&iommu, 0), plug(&iommu, 1)];
        let bond = iommu
            .bind_group(devices[0].group(), &space, Bind::new(()))
            .expect("nothing is in the way");
        let pasid = bond.pasid();
        let port = warm(&devices[1], pasid, 0, 2);
        let before = space.in_place();
        let user = thread::spawn(move || reading(port, pasid, 0));
        iommu.remove(&devices[1], Removal::Surprise).expect("there");
        let used = space.uses(0);
        let port = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the removal");
        drop(port);
        let hits = space.in_place() - before;
        assert!(read(&devices[0].port(), pasid, 0), "the bond stays for the other");
        drop(bond);
        hits
    });
}

// shows U1
// Two threads: reset; one read by what the port caches. Every schedule, some 620, below 0.1 s.
#[test]
fn concurrent_hit_and_reset() {
    both_ways(None, || {
        read_against(2, |_, device, _, bond| {
            let reset = device.begin_reset().expect("there");
            (reset, bond)
        })
    });
}

// shows T3
// Two threads: change; two reads by a port that caches nothing, the first of which
// fills it. Up to 3 forced switches, some 87,000, 12 s.
#[test]
fn concurrent_iotlb_fill_and_space_change() {
    both_ways(Some(3), || {
        let Bound { iommu, device, space, bond, pasid } = bound();
        let port = device.port();
        let user = thread::spawn(move || (read(&port, pasid, 0), read(&port, pasid, 0), port));
        let used = space.unmap(0);
        let (.., port) = user.join().expect("ends");
        assert_eq!(iommu.iotlb_usage().entries, 0, "an entry outlived its page");
        assert!(!read(&port, pasid, 0) && !read(&port.clone(), pasid, 0));
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop(bond);
        space.in_place()
    });
}

// shows T2
// Two threads: fills of another space, until one evicts the entry of the read from the two slots of
// the table; one read by that entry. Up to 2 forced switches, some 25,000, 4 s.
#[test]
fn concurrent_look_up_and_eviction() {
    both_ways(Some(2), || {
        let (iommu, spaces) = (system(false, 2), [1, 2].map(InPlace::with_frames));
        let device = plug(&iommu, 0);
        let bonds = spaces.each_ref().map(|space| bind_in_place(&iommu, &device, space));
        let pasids = bonds.each_ref().map(Bond::pasid);
        let port = warm(&device, pasids[0], 0, 1);
        let user = thread::spawn(move || reading(port, pasids[0], 0));
        let other = device.port();
        assert!([0, 1, 0].into_iter().all(|page| read(&other, pasids[1], page)));
        let (reached, _) = user.join().expect("ends");
        // That it reached this space, and nothing of the other's, its own memory says.
        assert!(reached);
        spaces[0].in_place()
    });
}

// shows T2
// Three threads: change; a read each of two ports by what they cache. Up to 1 forced switch,
// some 2,800, 0.3 s.
#[test]
fn concurrent_hits_of_two_ports_and_space_change() {
    both_ways(Some(1), || {
        let Bound { iommu: _iommu, device, space, bond, pasid } = bound();
        let ports = [0; 2].map(|_| warm(&device, pasid, 0, 2));
        let before = space.in_place();
        let users = ports.map(|port| thread::spawn(move || reading(port, pasid, 0)));
        let used = space.unmap(0);
        let ports = users.map(|user| user.join().expect("ends"));
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((ports, bond));
        space.in_place() - before
    });
}

// shows T2
// Two threads: a change of each of two spaces, joined into one; one read of either by what the port
// caches. Every schedule, some 4,100 for either, 0.5 s.
#[test]
fn concurrent_hit_and_joined_changes() {
    (0..2).for_each(|read| both_ways(None, move || hit_against_joined_changes(read)));
}

/// The read is of the space that comes first, or second.
fn hit_against_joined_changes(which: usize) -> usize {
    let (iommu, spaces) = (system(false, 2), [1, 2].map(InPlace::with_frames));
    let device = plug(&iommu, 0);
    let bonds = spaces.each_ref().map(|space| bind_in_place(&iommu, &device, space));
    let pasid = bonds[which].pasid();
    let port = warm(&device, pasid, 0, 2);
    let before = spaces[which].in_place();
    let user = thread::spawn(move || reading(port, pasid, 0));
    spaces[0].begin_unmap(0).and(spaces[1].begin_unmap(0)).wait();
    let used = spaces[which].uses(0);
    let port = user.join().expect("ends");
    assert_eq!(spaces[which].uses(0), used, "an access was under way, or began, after the change");
    drop((port, bonds));
    spaces[which].in_place() - before
}

// shows T2
// Two threads: change of one page, then of the other; one read of that by an entry of the table.
// The first change has the space forget the port, which comes back. Up to 1 forced switch, some
// 30,000, 1 s.
#[test]
fn concurrent_return_of_a_port_and_space_change() {
    both_ways(Some(1), || {
        let Bound { iommu: _iommu, device, space, bond, pasid } = bound();
        let port = warm(&device, pasid, 0, 1);
        let user = thread::spawn(move || reading(port, pasid, 0));
        space.unmap(1);
        let used = space.unmap(0);
        let port = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((port, bond));
        space.in_place()
    });
}

// shows T2
// Two threads: change of one page, then of the other; a look and a read of that by a port that has
// yet to come back from a change before. It may come back while the first of the two is made, which
// then must not have the space forget it. Up to 2 forced switches, some 632,000, 170 s.
#[test]
#[ignore = "takes a minute or more: cargo xtask full"]
fn concurrent_late_return_of_a_port_and_space_changes() {
    both_ways(Some(2), || {
        let Bound { iommu: _iommu, device, space, bond, pasid } = bound();
        let port = warm(&device, pasid, 0, 1);
        space.unmap(1);
        let before = space.in_place();
        let user = thread::spawn(move || {
            (port.cached_translation(pasid, 0, Access::READ), read(&port, pasid, 0), port)
        });
        space.unmap(1);
        let used = space.unmap(0);
        let port = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        drop((port, bond));
        space.in_place() - before
    });
}

// shows T2, T6
// Two threads: change; one atomic operation by what the port caches. Every schedule, some
// 10,000, 2 s.
#[test]
fn concurrent_atomic_operation_and_space_change() {
    both_ways(None, || {
        let Bound { iommu: _iommu, device, space, bond, pasid } = bound();
        let port = warm(&device, pasid, 0, 2);
        let user = thread::spawn(move || (port.fetch_add(Some(pasid), 0, 1u64).is_ok(), port));
        let used = space.unmap(0);
        let (added, port) = user.join().expect("ends");
        assert_eq!(space.uses(0), used, "an access was under way, or began, after the change");
        assert_eq!(space.word(0), u64::from(added));
        drop((port, bond));
        usize::from(added)
    });
}
