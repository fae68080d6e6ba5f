//! The end of a space (rules U4, U5, U7) and bonds that are leaked (U3).

use std::sync::Arc;
use std::sync::mpsc;

use sva_core::bond::BondEnd;
use sva_core::{AddressSpace, Bind, EndReason, Event, FaultReason, SpaceId, UnbindReport};
use sva_sync::Mutex;
use sva_testkit::{Forwarding, ForwardingSpace, MemorySpace, PAGE};

use crate::support::*;

type Ends = Arc<Mutex<Vec<(BondEnd, &'static str)>>>;

fn noting(ends: &Ends, data: &'static str) -> Bind<&'static str> {
    let ends = ends.clone();
    Bind::new(data).on_exit(move |end, data| ends.lock().push((*end, *data)))
}

// shows U4, B6, U5
#[test]
fn the_end_runs_each_handler_once_with_its_drvdata_and_cuts_the_devices_off() {
    let world = World::new();
    let space = space();
    let devices = [world.plug(1), world.plug(2)];
    let ends = Ends::default();
    let bonds = ["first", "second"].map(|data| {
        let device = if data == "first" { &devices[0] } else { &devices[1] };
        world.iommu.bind_device(device, &space.handle(), noting(&ends, data)).expect("free")
    });
    let (pasid, tag, id) = (bonds[0].pasid(), bonds[0].tag(), space.handle().id());
    world.events();
    space.end(EndReason::Execed);
    space.end(EndReason::Exited);
    let end = BondEnd { space: id, pasid, reason: EndReason::Execed };
    let mut seen = ends.lock().clone();
    seen.sort_by_key(|(_, data)| *data);
    assert_eq!(seen, [(end, "first"), (end, "second")]);
    assert_eq!(
        world.events(),
        [Event::SpaceEnded { space: id, pasid, reason: EndReason::Execed, bonds: 2 }]
    );
    for (device, bond) in devices.iter().zip(&bonds) {
        assert_eq!(refused(&device.port(), pasid), Some(FaultReason::SpaceEnded));
        assert!(!bond.is_live());
    }
    let [first, second] = bonds;
    assert_eq!(
        first.unbind(),
        UnbindReport { space_ended: true, handler_ran: true, ..UnbindReport::default() }
    );
    assert_eq!(world.iommu.pasid_of(id), Some(tag), "held until the last bond is gone (U5)");
    drop(second);
    assert_eq!((world.iommu.pasid_of(id), world.iommu.object_counts().pasids), (None, 0));
    assert_eq!(ends.lock().len(), 2);
}

/// A space whose provider goes on serving after it has announced the end.
struct Undead {
    life: Arc<dyn AddressSpace>,
    memory: Arc<dyn AddressSpace>,
}

impl ForwardingSpace for Undead {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.memory
    }

    fn id(&self) -> sva_core::SpaceId {
        self.life.id()
    }

    fn ended(&self) -> Option<EndReason> {
        None
    }

    fn watch(
        &self,
        watcher: Arc<dyn sva_core::SpaceWatcher>,
    ) -> Result<sva_core::space::WatchToken, sva_core::space::SpaceEnded> {
        self.life.watch(watcher)
    }

    fn unwatch(&self, token: sva_core::space::WatchToken) {
        self.life.unwatch(token);
    }
}

// shows U4
#[test]
fn the_core_itself_cuts_a_space_off_whose_end_was_announced_and_binds_it_to_nobody_else() {
    let world = World::new();
    let (life, memory, device, other) = (space(), space(), world.plug(1), world.plug(2));
    let handle = Arc::new(Forwarding(Undead { life: life.handle(), memory: memory.handle() }));
    let bond = world.iommu.bind_device(&device, &handle, Bind::new(())).expect("alive");
    assert_eq!(refused(&device.port(), bond.pasid()), None);
    life.end(EndReason::RightsLost);
    assert_eq!(refused(&device.port(), bond.pasid()), Some(FaultReason::SpaceEnded));
    let error =
        world.iommu.bind_device(&other, &handle, Bind::new(())).map(drop).expect_err("ended");
    assert_eq!(error.to_string(), "the address space has ended: the right to access it was lost");
}

// shows U4
#[test]
fn a_space_that_ended_is_refused_by_the_provider_and_after_the_announcement_by_the_core() {
    let world = World::new();
    let (space, device, ends) = (space(), world.plug(1), Ends::default());
    let bond = world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free");
    space.end_unannounced(EndReason::Exited);
    assert_eq!(refused(&device.port(), bond.pasid()), Some(FaultReason::SpaceEnded));
    assert_eq!(ends.lock().len(), 0);
    let work = space.announce();
    let recorded = world.events();
    assert_eq!(refused(&device.port(), bond.pasid()), Some(FaultReason::SpaceEnded));
    assert_eq!(ends.lock().len(), 0, "the handlers are the provider's to run");
    drop(work);
    assert_eq!(ends.lock().len(), 1, "work that is dropped is run");
    assert!(recorded.iter().any(|event| matches!(event, Event::SpaceEnded { .. })));
}

// shows U4, U2
#[test]
fn an_unbind_after_the_end_was_published_runs_the_handler_and_the_provider_does_not_again() {
    let world = World::new();
    let (space, device, ends) = (space(), world.plug(1), Ends::default());
    let bond =
        world.iommu.bind_device(&device, &space.handle(), noting(&ends, "drvdata")).expect("free");
    let work = space.end_deferred(EndReason::Exited);
    let report = bond.unbind();
    assert_eq!(
        report,
        UnbindReport { space_ended: true, handler_ran: true, ..UnbindReport::default() }
    );
    assert_eq!(ends.lock().len(), 1);
    for work in work {
        work.run();
    }
    assert_eq!(ends.lock().len(), 1);
    assert_eq!(world.iommu.object_counts().bonds, 0);
}

// shows U4
#[test]
fn an_unbind_before_the_end_is_published_means_that_the_handler_never_runs() {
    let world = World::new();
    let (space, device, ends) = (space(), world.plug(1), Ends::default());
    let bond = world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free");
    space.end_unannounced(EndReason::Exited);
    assert!(!bond.unbind().handler_ran);
    space.announce().into_iter().for_each(sva_core::space::ExitWork::run);
    assert_eq!(ends.lock().len(), 0);
}

// shows U4
#[test]
fn a_space_that_ends_while_its_bond_is_being_unbound_does_not_run_the_handler() {
    watched(|| {
        let world = World::new();
        let (space, device, ends) = (space(), world.plug(1), Ends::default());
        let bond =
            world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free");
        let pasid = bond.pasid();
        let parked = Parked::by_pasid(&space, &device.port(), pasid);
        let unbinding = std::thread::spawn(move || bond.unbind());
        eventually("access stops", || device.port().owner_of(pasid).is_none());
        space.end(EndReason::Exited);
        assert!(parked.release().is_err(), "the space has ended under it");
        let report = unbinding.join().expect("no panic");
        assert!(
            !report.space_ended && !report.handler_ran,
            "the end came after the unbind had begun"
        );
        assert_eq!(ends.lock().len(), 0);
        world.iommu.remove(&device, sva_core::Removal::Orderly).expect("plugged");
        world.assert_nothing_is_left();
    });
}

// shows U2
#[test]
fn unbind_waits_for_its_own_handler_that_runs_on_another_thread() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let (running, go, over) = (Signal::new(), Signal::new(), Signal::new());
        let (inside, leave, done) = (running.clone(), go.clone(), over.clone());
        let bind = Bind::new(()).on_exit(move |_, ()| {
            inside.raise();
            leave.wait();
            done.raise();
        });
        let bond = world.iommu.bind_device(&device, &space.handle(), bind).expect("free");
        let ending = std::thread::spawn(move || space.end(EndReason::Exited));
        running.wait();
        let (told, hear) = mpsc::channel();
        let unbinding = std::thread::spawn(move || {
            let report = bond.unbind();
            told.send(over.is_on()).expect("the test waits");
            report
        });
        assert!(
            hear.recv_timeout(std::time::Duration::from_millis(20)).is_err(),
            "the handler is still running"
        );
        go.raise();
        assert!(hear.recv().expect("told"), "it had returned when unbind did");
        assert!(unbinding.join().expect("no panic").handler_ran);
        ending.join().expect("no panic");
    });
}

// shows U4
#[test]
fn a_handler_that_panics_counts_as_run_and_the_others_run_as_well() {
    let world = World::new();
    let (space, ends) = (space(), Ends::default());
    let (one, two) = (world.plug(1), world.plug(2));
    let runs = Arc::new(Mutex::new(0));
    let count = runs.clone();
    let bind = Bind::new(()).on_exit(move |_, ()| {
        *count.lock() += 1;
        panic!("as the test wants");
    });
    let panics = world.iommu.bind_device(&one, &space.handle(), bind).expect("free");
    let _other = world.iommu.bind_device(&two, &space.handle(), noting(&ends, "")).expect("free");
    let pasid = panics.pasid();
    space.end(EndReason::Exited);
    assert_eq!((*runs.lock(), ends.lock().len()), (1, 1));
    assert!(world.events().contains(&Event::HandlerPanicked { space: space.handle().id(), pasid }));
    assert!(panics.unbind().handler_ran);
    assert_eq!(*runs.lock(), 1);
}

// shows U4
#[test]
fn an_end_that_races_an_unbind_runs_the_handler_at_most_once_and_the_report_tells_whether() {
    watched(|| {
        let mut ran = 0;
        for _ in 0..300 {
            let world = World::new();
            let (space, device, ends) = (space(), world.plug(1), Ends::default());
            let bond =
                world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free");
            let start = Arc::new(std::sync::Barrier::new(2));
            let at = start.clone();
            let ending = std::thread::spawn(move || {
                at.wait();
                space.end(EndReason::Exited);
            });
            start.wait();
            let report = bond.unbind();
            let runs = ends.lock().len();
            assert_eq!(
                runs,
                usize::from(report.handler_ran),
                "when unbind has returned, no handler will run any more"
            );
            ending.join().expect("no panic");
            assert_eq!(ends.lock().len(), runs);
            ran += runs;
            world.iommu.remove(&device, sva_core::Removal::Surprise).expect("plugged");
            world.assert_nothing_is_left();
        }
        println!("the handler ran in {ran} of 300 rounds");
    });
}

// shows U5, U6
#[test]
fn the_pasid_of_an_ended_space_is_not_given_away_while_bound_and_returns_with_a_new_generation() {
    let world = World::new();
    let device = world.plug_as(1, capable(2)).device;
    let dead = space();
    let held = world.bind(&device, &dead);
    dead.end(EndReason::Exited);
    for _ in 0..10 {
        let fresh = space();
        assert_ne!(world.bind(&device, &fresh).pasid(), held.pasid());
    }
    let tag = held.tag();
    drop(held);
    let spaces: Vec<MemorySpace> = (0..3).map(|_| space()).collect();
    let bonds: Vec<_> = spaces.iter().map(|space| world.bind(&device, space)).collect();
    let again =
        bonds.iter().find(|bond| bond.pasid() == tag.pasid).expect("all three numbers are in use");
    assert!(again.tag().generation > tag.generation);
}

// shows U3
#[test]
fn a_forgotten_bond_leaks_its_pasid_and_its_watch_and_nothing_worse() {
    let world = World::new();
    let (space, device, ends) = (space(), world.plug(1), Ends::default());
    let bond =
        world.iommu.bind_device(&device, &space.handle(), noting(&ends, "leaked")).expect("free");
    let pasid = bond.pasid();
    std::mem::forget(bond);
    assert_eq!(refused(&device.port(), pasid), None);
    world.iommu.remove(&device, sva_core::Removal::Orderly).expect("plugged");
    assert_eq!(refused(&device.port(), pasid), Some(FaultReason::DeviceRemoved));
    assert_eq!(
        (world.iommu.object_counts().pasids, space.watches()),
        (0, 0),
        "the removal has ended it"
    );

    let again = world.plug(1);
    let bond = world
        .iommu
        .bind_device(&again, &space.handle(), noting(&ends, "leaked too"))
        .expect("free");
    std::mem::forget(bond);
    space.end(EndReason::Exited);
    assert_eq!(ends.lock().len(), 1, "its handler runs all the same");
    assert!(
        refused(&again.port(), world.iommu.pasid_of(space.handle().id()).expect("held").pasid)
            .is_some()
    );
    assert_eq!(world.iommu.object_counts().pasids, 1);
}

// shows U7
#[test]
fn a_bond_does_not_keep_the_space_alive() {
    let world = World::new();
    let (device, ends) = (world.plug(1), Ends::default());
    let bond = {
        let space = space();
        world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free")
        // The owner of the memory goes; the caller's handle has gone before.
    };
    assert_eq!(ends.lock().first().map(|(end, _)| end.reason), Some(EndReason::Closed));
    assert_eq!(refused(&device.port(), bond.pasid()), Some(FaultReason::SpaceEnded));
}

// shows U7
#[test]
fn the_core_lets_go_of_its_handle_and_its_watch_with_the_last_bond() {
    let world = World::new();
    let (space, device, other) = (space(), world.plug(1), world.plug(2));
    let handle = sva_testkit::RecordingSpace::new(space.handle());
    let before = Arc::strong_count(&handle);
    let first = world.iommu.bind_device(&device, &handle, Bind::new(())).expect("free");
    let second = world.iommu.bind_device(&other, &handle, Bind::new(())).expect("free");
    let id: SpaceId = handle.id();
    drop(first);
    assert!(Arc::strong_count(&handle) > before && space.watches() == 1);
    drop(second);
    assert_eq!(
        (Arc::strong_count(&handle), space.watches(), world.iommu.pasid_of(id)),
        (before, 0, None)
    );
}

// shows U7
#[test]
fn providers_do_not_keep_the_system_alive_and_a_late_announcement_finds_nothing() {
    let space = space();
    let ends = Ends::default();
    let work = {
        let world = World::new();
        let device = world.plug(1);
        let bond =
            world.iommu.bind_device(&device, &space.handle(), noting(&ends, "")).expect("free");
        let work = space.end_deferred(EndReason::Exited);
        drop(bond);
        work
    };
    drop(work);
    assert_eq!(ends.lock().len(), 1, "run by the unbind");
    space.announce().into_iter().for_each(drop);
}

// shows U4, T5
#[test]
fn an_end_in_the_middle_of_an_access_stops_it_at_a_byte_that_is_told() {
    watched(|| {
        let world = World::new();
        let (space, device) = (Arc::new(space()), world.plug(1));
        let pasid = world.bind_forever(&device, &space);
        space.absent(BASE + PAGE, PAGE);
        let dying = space.clone();
        space.on_resolve(move |_| {
            dying.end(EndReason::Exited);
            true
        });
        let (done, fault) =
            stop(device.port().read(Some(pasid), BASE + 10, &mut vec![0; 2 * PAGE as usize]));
        assert_eq!(
            (done, fault.address, fault.reason),
            (PAGE - 10, BASE + PAGE, FaultReason::SpaceEnded)
        );
    });
}
