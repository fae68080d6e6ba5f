//! An unbind while the device works.

use std::sync::Arc;

use sva_core::{AddressSpace, Bind, Bond};
use sva_devices::{
    Aborted, DataMover, DataMoverConfig, Descriptor, JobTracker, ListError, ListWalk, TransferCause,
};
use sva_sync::Mutex;
use sva_testkit::{MemorySpace, PAGE, Protection, RecordingSpace};

use crate::rig::{BASE, Rig};

/// Has the bond unbound from inside of the resolution of one page, as a handler would.
fn unbind_at(rig: &mut Rig, page: u64) -> Arc<Mutex<Option<Bond<()>>>> {
    let bond = Arc::new(Mutex::new(rig.bond.take()));
    let taken = bond.clone();
    rig.space.absent(page, PAGE);
    rig.space.on_resolve(move |_| {
        let bond = taken.lock().take();
        assert!(
            bond.expect("one page, one resolution").unbind().deferred,
            "from inside of the access nothing waits"
        );
        true
    });
    bond
}

// shows U1, U3
#[test]
fn an_unbind_from_inside_a_move_ends_it_at_the_next_step() {
    let mut rig = Rig::new(16);
    let source = rig.scribble(0, 6 * PAGE as usize, 1);
    unbind_at(&mut rig, BASE + 2 * PAGE);
    let descriptor =
        Descriptor::memory_move(BASE, BASE + 8 * PAGE, 6 * PAGE as u32).block_on_fault();
    let aborted = rig.mover.execute(rig.pasid, &descriptor).expect_err("the PASID is gone");
    assert_eq!(aborted, Aborted { done: 2 * PAGE as u32 });
    let moved = [&source[..2 * PAGE as usize], &vec![0; 4 * PAGE as usize]].concat();
    assert!(rig.space.peek(BASE + 8 * PAGE, 6 * PAGE as usize) == moved);
    assert_eq!(rig.jobs.count(), 0);
}

// shows U1, U3
#[test]
fn an_unbind_from_inside_a_batch_ends_it_with_the_descriptors_done() {
    let mut rig = Rig::new(16);
    let fill =
        |page: u64| Descriptor::fill([1; 8], BASE + page * PAGE, PAGE as u32).block_on_fault();
    let list = rig.list(15 * PAGE, &[fill(0), fill(1), fill(2), fill(3)]);
    unbind_at(&mut rig, BASE + PAGE);
    let aborted =
        rig.mover.execute(rig.pasid, &Descriptor::batch(list, 4)).expect_err("the PASID is gone");
    assert_eq!(aborted, Aborted { done: 2 });
    assert_eq!(rig.space.peek(BASE + 2 * PAGE, 8), [0; 8]);
}

// shows U1, U3
#[test]
fn an_unbind_from_inside_a_walk_ends_it() {
    let mut rig = Rig::new(4);
    for node in 0..40 {
        rig.space.poke(BASE + node * 256, &(BASE + (node + 1) * 256).to_le_bytes());
    }
    unbind_at(&mut rig, BASE + PAGE);
    let walk =
        ListWalk { head: BASE, next_offset: 0, payload_offset: 0, payload_len: 0, max_nodes: 40 };
    let error = rig.walker.walk_list(rig.pasid, &walk, |_, _| ()).expect_err("the PASID is gone");
    assert!(matches!(error, ListError::Stopped { nodes: 17 }), "{error}");
}

/// Unbinds the rig's space after the first step of a long transfer, gives its PASID to another
/// space, and looks what the transfer does then.
fn transfer_across_owners(mut rig: Rig, mover: &DataMover) -> TransferCause {
    let other = MemorySpace::new();
    other.map(BASE, 1024 * PAGE, Protection::READ_WRITE);
    let log = RecordingSpace::new(other.handle());
    let handle: Arc<dyn AddressSpace> = log.clone();
    let mut next = None;
    let (pasid, mut first) = (rig.pasid, rig.bond.take());
    let error = mover
        .import(pasid, BASE, &vec![1; 1024 * PAGE as usize], &mut |_| {
            first.take().expect("one step").unbind();
            next = Some(
                rig.iommu
                    .bind_device(&rig.device, &handle, Bind::new(()))
                    .expect("the PASID is free again"),
            );
        })
        .expect_err("its owner is gone");
    assert_eq!(next.map(|bond| bond.pasid()), pasid, "the device has one PASID bit");
    assert_eq!(error.done, 512 * PAGE);
    assert!(log.take().is_empty(), "the next owner of the PASID was reached");
    error.cause
}

// shows U1, U5
#[test]
fn a_transfer_stops_when_its_pasid_is_unbound() {
    let rig = Rig::new(1024);
    let mover = DataMover::new(rig.device.port(), rig.jobs.clone(), DataMoverConfig::default());
    assert!(matches!(transfer_across_owners(rig, &mover), TransferCause::Stopped));
}

// shows U5, U6: also a device that does not hear of the unbind
#[test]
fn a_transfer_that_was_not_stopped_reaches_no_later_owner_of_its_pasid() {
    let rig = Rig::new(1024);
    let iommu = rig.iommu.clone();
    let mover = DataMover::new(rig.device.port(), JobTracker::new(), DataMoverConfig::default());
    assert!(matches!(transfer_across_owners(rig, &mover), TransferCause::Dma(_)));
    assert_eq!(iommu.stale_dropped(), 1);
}

// shows U2: however many threads submit
#[test]
fn when_unbind_returns_no_submission_of_any_thread_changes_the_space() {
    let mut rig = Rig::new(64);
    let bond = rig.bond.take().expect("bound");
    let rig = &rig;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3u64)
            .map(|worker| {
                scope.spawn(move || {
                    let fill = |round: u64| {
                        Descriptor::fill(
                            round.to_le_bytes(),
                            BASE + worker * 16 * PAGE,
                            16 * PAGE as u32,
                        )
                    };
                    let rounds = 1..200_000u64;
                    rounds
                        .take_while(|round| {
                            rig.mover
                                .execute(rig.pasid, &fill(*round))
                                .is_ok_and(|done| done.is_success())
                        })
                        .count()
                })
            })
            .collect();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while rig.space.peek(BASE + 32 * PAGE, 1) == [0] && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        bond.unbind();
        let memory = rig.space.peek(BASE, 64 * PAGE as usize);
        let rounds: usize =
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum();
        assert!(
            rig.space.peek(BASE, 64 * PAGE as usize) == memory,
            "written after unbind, {rounds} rounds"
        );
    });
    assert_eq!(rig.jobs.count(), 0);
}
