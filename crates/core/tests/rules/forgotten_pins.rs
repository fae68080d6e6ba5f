//! Pins that are forgotten instead of dropped: they last as long as their port, and are named to
//! whoever waits for them (rules U2, U3).

use std::mem::forget;

use sva_core::{Access, Bind, Bond, Device, DmaPort, Event, Segment};
use sva_testkit::ArenaSpace;

use crate::in_place::arena;
use crate::support::*;

fn bind(world: &World, device: &Device, space: &ArenaSpace) -> Bond<()> {
    world.iommu.bind_device(device, &space.handle(), Bind::new(())).expect("nothing is in the way")
}

/// Pins so many bytes and forgets the pin.
fn forget_pin(port: &DmaPort, bond: &Bond<()>, len: u64) {
    let piece = Segment { address: BASE, len };
    forget(port.pin(bond.pasid(), piece, Access::READ).expect("mapped"));
}

// shows U2, U3
#[test]
fn a_forgotten_pin_defers_unbinds_of_its_thread_until_its_port_is_dropped() {
    watched(|| {
        // With a pinned range, and with one of no bytes.
        for len in [64, 0] {
            let (world, space) = (World::new(), arena());
            let device = world.plug(1);
            let (port, bond) = (device.port(), bind(&world, &device, &space));
            // By a walk the first time, by cached translations the second.
            (0..2).for_each(|_| forget_pin(&port, &bond, len));
            assert!(bond.unbind().deferred || len == 0);
            drop(port);
            let counts = world.iommu.object_counts();
            assert_eq!((counts.bonds, counts.pasids, space.watches()), (0, 0, 0));
            let report = bind(&world, &device, &space).unbind();
            assert!(!report.deferred, "this thread is inside no callback any more");
        }
    });
}

// shows U2, U3
#[test]
fn an_unbind_that_waits_for_a_forgotten_pin_of_another_thread_names_it_and_ends_with_its_port() {
    watched(|| {
        let (world, space) = (World::new(), arena());
        let device = world.plug(1);
        let (bond, port) = (bind(&world, &device, &space), device.port());
        let pasid = bond.pasid();
        let pinning = std::thread::spawn(move || {
            forget_pin(&port, &bond, 64);
            (bond, port)
        });
        let (bond, port) = pinning.join().expect("no panic");
        let unbinding = std::thread::spawn(move || bond.unbind());
        let mut events = Vec::new();
        eventually("the pin is named", || {
            events.extend(world.events());
            !events.is_empty()
        });
        let Event::PinOutstanding { requester, pasid: named, range } = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!((*requester, *named), (device.requester(), pasid));
        assert_eq!((range.first(), range.len()), (BASE, 64));
        assert!(!unbinding.is_finished());
        drop(port);
        assert!(!unbinding.join().expect("no panic").deferred);
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}

// shows U3
#[test]
fn a_thread_whose_forgotten_pin_another_thread_ended_is_inside_no_callback_any_more() {
    watched(|| {
        let (world, spaces) = (World::new(), [arena(), arena()]);
        let device = world.plug(1);
        let bonds = spaces.each_ref().map(|space| bind(&world, &device, space));
        let (pinned, dropped) = (Signal::new(), Signal::new());
        let (ports, port) = std::sync::mpsc::channel();
        let [first, second] = bonds;
        let thread = {
            let (pinned, dropped, port) = (pinned.clone(), dropped.clone(), device.port());
            std::thread::spawn(move || {
                forget_pin(&port, &first, 64);
                ports.send(port).expect("the test waits for it");
                pinned.raise();
                dropped.wait();
                (second.unbind().deferred, first.unbind().deferred)
            })
        };
        pinned.wait();
        drop(port.recv().expect("it was sent"));
        dropped.raise();
        assert_eq!(thread.join().expect("no panic"), (false, false));
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}
