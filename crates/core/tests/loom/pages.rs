//! Page requests: sorting, resolving and answering against what ends it. A worker is a thread that
//! makes the same steps.

use std::sync::Arc;

use loom::thread;
use sva_core::link::DirectLink;
use sva_core::pri::{AnswerError, GroupOutcome, PageRequestGroup, ResponseCode};
use sva_core::*;
use sva_sync::Mutex;

use crate::support::*;

/// The device has taken this many responses, and each fits a group that waits for it.
fn assert_answered(device: &Device, responses: u64) {
    let counts = device.page_request_counts();
    assert_eq!((counts.responses, counts.unexpected), (responses, 0));
}

/// Every group is decided (rule U2). A response that is on its way to its device may get there
/// later, as on any link.
fn assert_nothing_pends(iommu: &Iommu) {
    let counts = iommu.object_counts();
    assert_eq!((counts.page_requests, counts.page_groups), (0, 0));
}

// shows U1, U2, F1
// Two threads: unbind; worker. Every schedule, some 31,000, 0.6 s.
#[test]
fn concurrent_unbind_and_page_response() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true));
        let worker = thread::spawn({
            let iommu = iommu.clone();
            move || work(&iommu)
        });
        bond.unbind();
        assert_nothing_pends(&iommu);
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        worker.join().expect("ends");
        assert_eq!(probe.hits(), hits);
        assert!(matches!(port.outcome(group), Some(GroupOutcome::Response(_))));
        assert_answered(&device, 1);
        assert_clean(&iommu, 1);
    });
}

// shows U1, U3
// Two threads: begun unbind; resolution of one group. Every schedule, some 4,200, 0.1 s.
#[test]
fn concurrent_begin_unbind_and_the_last_page_request_job() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true) && iommu.sort_page_request());
        let work = iommu.next_page_request_job().expect("the group is complete");
        let worker = thread::spawn(move || work.run());
        let unbinding = bond.begin_unbind();
        worker.join().expect("ends");
        // Whoever came last has finished it, once.
        assert!(unbinding.is_over());
        assert_answered(&device, 1);
        assert!(matches!(port.outcome(group), Some(GroupOutcome::Response(_))));
        assert_clean(&iommu, 1);
    });
}

// shows F3, U1, U2
// Three threads: unbind; a group of two requests; sorting. Up to 5 forced switches, some 117,000,
// 11 s. A queue for one request.
#[test]
fn concurrent_queue_overflow_and_drain() {
    bounded(5, || {
        let iommu = system_with(tiny(1).page_queue(1));
        let device = plug_translating(&iommu, 3, Arc::new(DirectLink));
        let port = device.ats_port();
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let groups = [0; 2].map(|_| port.open_group(Some(bond.pasid())).expect("it has credit"));
        // The queue is full with this one.
        assert!(request_page(&port, groups[0], 0, true));
        let asker = thread::spawn({
            let port = port.clone();
            move || {
                request_page(&port, groups[1], 1, false);
                request_page(&port, groups[1], 2, true);
            }
        });
        let sorter = thread::spawn({
            let iommu = iommu.clone();
            move || while iommu.sort_page_request() {}
        });
        bond.unbind();
        // What was in the queue before has been decided, and in its order: no other group was
        // refused before it.
        assert!(iommu.page_queue_counts().invalid > 0);
        assert_eq!(iommu.object_counts().page_groups, 0);
        asker.join().expect("ends");
        sorter.join().expect("ends");
        while iommu.sort_page_request() {}
        assert_eq!(
            port.outcome(groups[0]),
            Some(GroupOutcome::Response(ResponseCode::InvalidRequest))
        );
        // Lost and told to try again, or refused: answered, once.
        assert!(matches!(port.outcome(groups[1]), Some(GroupOutcome::Response(_))));
        assert_answered(&device, 2);
        assert!(iommu.next_page_request_job().is_none());
        assert_clean(&iommu, 1);
    });
}

// shows U1, U2, U6
// Two threads: unbind; answer. Every schedule, 90, below 0.1 s.
#[test]
fn concurrent_owners_late_answer_and_drain() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let (held, handler) = owner();
        let bind = Bind::new(()).on_page_requests(handler);
        let bond = iommu.bind_device(&device, &probe, bind).expect("nothing is in the way");
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true));
        work(&iommu);
        let asked = held.lock().take().expect("the owner has it");
        let answerer = thread::spawn(move || asked.answer(ResponseCode::Success));
        bond.unbind();
        assert_nothing_pends(&iommu);
        let answer = answerer.join().expect("ends");
        let Some(GroupOutcome::Response(code)) = port.outcome(group) else {
            panic!("not answered")
        };
        // An answer that is taken while the bond is closed says that it is.
        match answer {
            Ok(()) => assert_eq!(iommu.page_queue_counts().late_answers, 0),
            Err(AnswerError::NotPending { .. }) => assert_eq!(
                (code, iommu.page_queue_counts().late_answers),
                (ResponseCode::InvalidRequest, 1)
            ),
            Err(other) => panic!("{other}"),
        }
        assert_answered(&device, 1);
        assert_clean(&iommu, 1);
    });
}

// shows U1, U2
// Two threads: unbind; worker. Every schedule, some 36,000, 0.7 s.
#[test]
fn concurrent_unbind_and_a_group_on_its_way_to_its_owner() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let (held, handler) = owner();
        let bind = Bind::new(()).on_page_requests(handler);
        let bond = iommu.bind_device(&device, &probe, bind).expect("nothing is in the way");
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true));
        let worker = thread::spawn({
            let iommu = iommu.clone();
            move || work(&iommu)
        });
        bond.unbind();
        // The owner may have it, and did not answer it: the unbind did.
        assert_nothing_pends(&iommu);
        worker.join().expect("ends");
        assert_eq!(port.outcome(group), Some(GroupOutcome::Response(ResponseCode::InvalidRequest)));
        let left = held.lock().take();
        drop(left);
        assert_answered(&device, 1);
        assert_clean(&iommu, 1);
    });
}

// shows F1, F4
// Two threads: a read that faults; another one. Up to 2 forced switches, some 15,000, 1 s. One page
// request at a time.
#[test]
fn concurrent_faults_that_share_one_credit() {
    bounded(2, || {
        let iommu = system(false, 1);
        let link = Arc::new(SelfService::default());
        let device = plug_translating(&iommu, 1, Arc::clone(&link) as _);
        *link.0.lock() = Some(iommu.clone());
        let (port, probe) = (device.ats_port(), Probe::absent());
        let bond = bind(&iommu, &device, &probe);
        let pasid = bond.pasid();
        let other = thread::spawn({
            let port = port.clone();
            move || port.read(Some(pasid), PAGE_AT, &mut [0]).is_ok()
        });
        assert!(port.read(Some(pasid), PAGE_AT, &mut [0]).is_ok());
        assert!(other.join().expect("ends"));
        drop(bond);
        assert_clean(&iommu, 1);
        link.0.lock().take();
    });
}

// shows U3
// Two threads: worker; worker. Up to 4 forced switches, some 54,000, 2 s.
#[test]
fn concurrent_owners_that_unbind_each_other() {
    bounded(4, || {
        let iommu = system(false, 2);
        let device = plug_translating(&iommu, 2, Arc::new(DirectLink));
        let port = device.ats_port();
        let slots: [Arc<Mutex<Option<Bond<()>>>>; 2] =
            std::array::from_fn(|_| Arc::new(Mutex::new(None)));
        for own in 0..2 {
            let other = Arc::clone(&slots[1 - own]);
            let handler = move |_: PageRequestGroup| {
                let taken = other.lock().take();
                drop(taken);
            };
            let bind = Bind::new(()).on_page_requests(Arc::new(handler));
            let bond =
                iommu.bind_device(&device, &Probe::new(), bind).expect("nothing is in the way");
            let group = port.open_group(Some(bond.pasid())).expect("it has credit");
            assert!(request_page(&port, group, 0, true));
            *slots[own].lock() = Some(bond);
        }
        while iommu.sort_page_request() {}
        let worker = thread::spawn({
            let iommu = iommu.clone();
            move || work(&iommu)
        });
        work(&iommu);
        worker.join().expect("no deadlock");
        work(&iommu);
        for slot in &slots {
            let left = slot.lock().take();
            drop(left);
        }
        assert_answered(&device, 2);
        let counts = iommu.object_counts();
        assert_eq!((counts.bonds, counts.pasids, counts.page_groups), (0, 0, 0));
    });
}
