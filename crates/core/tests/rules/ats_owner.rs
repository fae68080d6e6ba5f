//! Ports of devices with ATS that are for one owner of a PASID (rule U6): a job of an owner that is
//! gone reaches nothing of the next owner of the same PASID, and each try is counted.

use sva_core::ats::TranslationRequestError;
use sva_core::pri::{GroupOutcome, PageRequestError};
use sva_core::{Access, AtsPort, Bond, DmaError, Event, FaultReason, PasidTag, Segment};
use sva_testkit::{MemorySpace, PAGE};

use crate::support::*;
use crate::translating::*;

/// A device whose only PASID has had an owner.
struct Reused {
    rig: Rig,
    /// The owner that is gone.
    old: PasidTag,
    /// The port of a job of that owner.
    stale: AtsPort,
}

impl Reused {
    /// The first owner has had a translation cached, and has unbound.
    fn new() -> Self {
        let mut rig = Rig::with(config().pasid_width(width(1)));
        let old = rig.bond().tag();
        let stale = rig.port.for_owner(old);
        assert_eq!((stale.owner(), stale.device()), (Some(old), rig.device.bdf()));
        stale.write(Some(old.pasid), BASE, b"own").expect("it is the owner");
        assert_eq!((rig.space.peek(BASE, 3), rig.world.iommu.stale_dropped()), (b"own".into(), 0));
        drop(rig.take_bond());
        Self { rig, old, stale }
    }

    /// Binds the next owner, whose first page reads `next`.
    fn bind_next(&self) -> (MemorySpace, Bond<()>) {
        let (space, bond) = self.rig.bind_another();
        space.largest_translation(12);
        space.poke(BASE, b"next");
        assert_eq!(bond.pasid(), self.old.pasid, "there is only one");
        assert_ne!(bond.tag(), self.old);
        (space, bond)
    }

    /// What has been dropped since the log was last looked at, by the counter and by the log.
    fn assert_dropped(&self, before: u64, dropped: u64, when: &str) {
        assert_eq!(self.rig.world.iommu.stale_dropped() - before, dropped, "{when}");
        let logged = Event::StaleDropped { device: self.rig.device.bdf(), tag: self.old };
        let events = self.rig.world.events();
        let count = events.iter().filter(|event| **event == logged).count();
        assert_eq!(count as u64, dropped, "{when}: {events:?}");
    }

    /// Every kind of whole transfer by the stale port is aborted, moves nothing and is counted.
    fn assert_transfers_are_dropped(&self, when: &str) {
        let before = self.rig.world.iommu.stale_dropped();
        self.rig.world.events();
        let (port, pasid) = (&self.stale, Some(self.old.pasid));
        let pieces = [Segment { address: BASE, len: 2 }, Segment { address: BASE + PAGE, len: 2 }];
        let mut buf = [0; 4];
        let assert_aborted = |outcome: Result<(), DmaError>| {
            let (done, fault) = stop(outcome);
            assert_eq!((done, fault.reason), (0, FaultReason::NotBound), "{when}");
        };
        assert_aborted(port.read(pasid, BASE, &mut buf));
        assert_aborted(port.gather(pasid, &pieces, &mut buf, Access::READ));
        assert_aborted(port.write(pasid, BASE, b"late"));
        assert_aborted(port.scatter(pasid, &pieces, b"late", Access::WRITE));
        assert_eq!(buf, [0; 4], "{when}");
        self.assert_dropped(before, 4, when);
    }
}

// shows U6
#[test]
fn a_stale_transfer_with_ats_reaches_nothing_of_the_next_owner_and_is_counted() {
    let reused = Reused::new();
    reused.assert_transfers_are_dropped("nobody is bound");
    let (space, bond) = reused.bind_next();
    reused.assert_transfers_are_dropped("nothing is cached for the next owner");
    assert_eq!(reused.rig.device.atc_len(), 0, "no translation is requested for a stale job");
    let next = reused.rig.port.for_owner(bond.tag());
    for address in [BASE, BASE + PAGE] {
        next.read(Some(bond.pasid()), address, &mut [0; 4]).expect("it is the owner");
    }
    assert_eq!(reused.rig.device.atc_len(), 2);
    reused.assert_transfers_are_dropped("the translations of the next owner are cached");
    reused.rig.device.disable_ats().expect("it is on");
    reused.assert_transfers_are_dropped("the IOMMU translates");
    assert_eq!((space.peek(BASE, 4), space.peek(BASE + PAGE, 4)), (b"next".into(), vec![0; 4]));
    let before = reused.rig.world.iommu.stale_dropped();
    next.write(Some(bond.pasid()), BASE, b"mine").expect("it is the owner");
    reused.rig.port.write(Some(bond.pasid()), BASE + PAGE, b"any").expect("it is for any owner");
    assert_eq!((space.peek(BASE, 4), space.peek(BASE + PAGE, 3)), (b"mine".into(), b"any".into()));
    assert_eq!(reused.rig.world.iommu.stale_dropped(), before);
    drop(bond);
    reused.rig.take_down();
}

// shows U6
#[test]
fn a_stale_job_that_goes_step_by_step_reaches_nothing_of_the_next_owner_and_is_counted() {
    let reused = Reused::new();
    let (space, bond) = reused.bind_next();
    let (port, pasid, tag) = (&reused.stale, Some(reused.old.pasid), reused.old);
    let device = reused.rig.device.bdf();
    let dropped = || reused.rig.world.iommu.stale_dropped();
    assert_eq!(
        port.request_translation(pasid, BASE, Access::WRITE),
        Err(TranslationRequestError::NotOwner { device, tag })
    );
    assert_eq!(dropped(), 1);
    // Nothing is cached: there is nothing that the job could reach.
    let mut buf = [0; 4];
    assert_eq!(port.try_read(pasid, BASE, &mut buf, Access::READ).expect("no access"), None);
    assert!(port.use_translation(pasid, BASE, Access::READ).is_none());
    assert_eq!((dropped(), reused.rig.device.atc_len()), (2, 0));

    // What the device caches is the next owner's.
    reused.rig.fill(BASE);
    let before = dropped();
    reused.rig.world.events();
    assert!(port.use_translation(pasid, BASE, Access::WRITE).is_none());
    let read = port.try_read(pasid, BASE, &mut buf, Access::READ).map(drop);
    assert_eq!(reason(read), Some(FaultReason::NotBound));
    let written = port.try_write(pasid, BASE, b"late", Access::WRITE).map(drop);
    assert_eq!(reason(written), Some(FaultReason::NotBound));
    assert_eq!((buf, space.peek(BASE, 4)), ([0; 4], b"next".into()));
    reused.assert_dropped(before, 3, "by the cached translation");
    let own = reused.rig.port.for_owner(bond.tag());
    let guard = own.use_translation(pasid, BASE, Access::WRITE).expect("it is the owner's");
    assert_eq!(guard.write(b"mine").expect("it is the owner's"), 4);
    drop(guard);
    assert_eq!(space.peek(BASE, 4), b"mine");
    drop(bond);
    reused.rig.take_down();
}

// shows U6, U1
#[test]
fn a_translation_in_use_when_its_owner_unbinds_reaches_nothing_any_more() {
    let mut rig = Rig::with(config().pasid_width(width(1)));
    let old = rig.bond().tag();
    let port = rig.port.for_owner(old);
    rig.fill(BASE);
    let guard = port.use_translation(Some(old.pasid), BASE, Access::WRITE).expect("it is cached");
    let unbinding = rig.take_bond().begin_unbind();
    assert!(!unbinding.is_over(), "the device uses a translation");
    assert_eq!(reason(guard.write(b"late").map(drop)), Some(FaultReason::NotBound));
    assert_eq!((rig.world.iommu.stale_dropped(), rig.space.peek(BASE, 4)), (1, vec![0; 4]));
    drop(guard);
    assert!(unbinding.is_over());
    rig.take_down();
}

// shows U6
#[test]
fn a_stale_job_requests_no_page_of_the_next_owner() {
    let mut rig = Rig::with(config().pasid_width(width(1)));
    rig.device.enable_pri().expect("it has page requests");
    let old = rig.bond().tag();
    let (port, pasid) = (rig.port.for_owner(old), Some(old.pasid));
    // The model forgets to send a stop marker, so that the group stays open.
    let open = port.open_group(pasid).expect("it is the owner");
    drop(rig.take_bond());
    let (space, bond) = rig.bind_another();
    space.absent(BASE, PAGES * PAGE);
    assert_eq!(bond.pasid(), old.pasid);
    assert_eq!(port.open_group(pasid), Err(PageRequestError::NotOwner));
    assert_eq!(port.request_page(open, BASE, Access::WRITE, true), Err(PageRequestError::NotOwner));
    assert_eq!(reason(port.write(pasid, BASE, b"late")), Some(FaultReason::NotBound));
    assert_eq!(rig.world.iommu.stale_dropped(), 3);
    assert_eq!((rig.world.iommu.page_queue_counts().requests, space.resolved()), (0, 0));
    // The group is the device's, not the owner's: a port without an owner sends what it will.
    rig.port.request_page(open, BASE, Access::READ, true).expect("it is open");
    while rig.world.iommu.sort_page_request() {}
    rig.world.iommu.next_page_request_job().expect("a group waits").run();
    assert_eq!(
        rig.port.outcome(open),
        Some(GroupOutcome::Response(sva_core::pri::ResponseCode::Success))
    );
    drop(bond);
    rig.take_down();
}

// shows U6
#[test]
fn a_stale_stop_marker_discards_no_group_of_the_next_owner() {
    let mut rig = Rig::with(config().pasid_width(width(1)));
    rig.device.enable_pri().expect("it has page requests");
    let port = rig.port.for_owner(rig.bond().tag());
    let pasid = rig.bond().pasid();
    drop(rig.take_bond());
    let stop_markers = |rig: &Rig| rig.world.iommu.page_queue_counts().stop_markers;
    // An owner that is gone may still say that it has sent everything.
    port.send_stop_marker(pasid);
    while rig.world.iommu.sort_page_request() {}
    assert_eq!(stop_markers(&rig), 1);
    let (space, bond) = rig.bind_another();
    space.absent(BASE, PAGES * PAGE);
    let open = rig.port.open_group(Some(pasid)).expect("page requests are on");
    rig.port.request_page(open, BASE, Access::READ, false).expect("it is open");
    port.send_stop_marker(pasid);
    while rig.world.iommu.sort_page_request() {}
    assert_eq!((stop_markers(&rig), rig.world.iommu.stale_dropped()), (1, 1));
    rig.port.request_page(open, BASE + PAGE, Access::READ, true).expect("it is open still");
    while rig.world.iommu.sort_page_request() {}
    rig.world.iommu.next_page_request_job().expect("a group waits").run();
    assert_eq!(space.resolved(), 2);
    drop(bond);
    rig.take_down();
}
