//! Functions come and go, and ACS control changes, while the fabric works.

mod common;

use std::sync::Arc;

use common::at;
use sva_core::Topology;
use sva_core::topology::{GroupKey, PathDefect, PeerAborted};
use sva_core::{Access, AddrRange};
use sva_pci::{
    Acs, AcsBits, AddError, ControlError, Decoder, Fabric, FabricSpec, FunctionSpec, ModelError,
    NotPresent, RamBar, Route, SpecError,
};

fn default() -> Fabric {
    Fabric::from_toml(sva_pci::DEFAULT_TOML).expect("the default fabric")
}

// shows G4
#[test]
fn a_function_plugged_into_a_device_without_acs_joins_its_group() {
    let fabric = default();
    let group = fabric.group(at("0c:00.0"));
    fabric.add(FunctionSpec::new("rp12", at("0c:00.2"))).expect("there is room");
    assert_eq!(fabric.group(at("0c:00.2")), group);
    assert_eq!(fabric.group(at("0c:00.0")), group);
}

// shows G4
#[test]
fn a_single_function_has_a_defect_as_soon_as_a_sibling_appears() {
    let fabric = default();
    assert_eq!(fabric.path_defect(at("01:00.0")), None);
    fabric
        .add(FunctionSpec::new("rp1", at("01:00.1")).with_bar(0x8008_0000, 4096))
        .expect("there is room");
    assert_eq!(
        fabric.path_defect(at("01:00.0")),
        Some(PathDefect::NoRequestRedirect(at("01:00.0")))
    );
    assert_eq!(
        fabric.route(at("01:00.0"), 0x8008_0000),
        Route::Peer { bdf: at("01:00.1"), bar: 0 }
    );
    assert_eq!(fabric.group(at("01:00.1")), fabric.group(at("01:00.0")));
    fabric.remove(at("01:00.1")).expect("it is there");
    assert_eq!(fabric.path_defect(at("01:00.0")), None);
    assert_eq!(fabric.route(at("01:00.0"), 0x8008_0000), Route::Upstream);
}

// shows G4
#[test]
fn a_bar_must_lie_in_the_windows_as_they_were_programmed() {
    let fabric = default();
    let slot = |address| FunctionSpec::new("slot", at("0d:00.0")).with_bar(address, 4096);
    let error = fabric.add(slot(0x80a0_0000)).expect_err("outside");
    let range = AddrRange::new(0x80a0_0000, 4096).expect("a range");
    let decoder = Decoder::Bar { device: at("0d:00.0"), index: 0 };
    assert_eq!(
        error,
        AddError::Spec(SpecError::OutsideWindow { decoder, range, above: at("00:0d.0") })
    );
    fabric.add(slot(0x809f_f000)).expect("the last page of the window");
    assert_eq!(
        fabric.add(slot(0x8080_0000)),
        Err(AddError::Spec(SpecError::DuplicateAddress { bdf: at("0d:00.0") }))
    );
    let overlapping = FunctionSpec::new("slot", at("0d:00.1")).with_bar(0x809f_f000, 4096);
    assert!(matches!(fabric.add(overlapping), Err(AddError::Spec(SpecError::Overlap { .. }))));
    assert_eq!(fabric.devices().len(), 10);
}

// shows G4
#[test]
fn functions_that_isolate_and_functions_that_do_not_are_never_one_device() {
    let fabric = default();
    let isolating = FunctionSpec::new("rp12", at("0c:00.2"))
        .with_acs(Acs::function(AcsBits::FUNCTION_ISOLATION));
    let expected = SpecError::MixedFunctionAcs { with: at("0c:00.2"), without: at("0c:00.1") };
    assert_eq!(fabric.add(isolating), Err(AddError::Spec(expected)));
}

// shows G5
#[test]
fn a_removed_function_reaches_nothing_and_nothing_reaches_it() {
    let fabric = default();
    let (mover, memory) = (at("0a:00.0"), at("0b:00.0"));
    let window = |from, address| {
        fabric.windows(from).into_iter().find(|window| window.range.contains(address))
    };
    let to_memory = window(mover, 0x8050_0000).expect("the peer catches it");
    let removed = fabric.remove(memory).expect("it is there");
    assert_eq!(fabric.remove(memory), Err(NotPresent(memory)));
    let mut buf = [0; 4];
    assert_eq!(
        fabric.read_peer(mover, &to_memory, 0x8050_0000, &mut buf, Access::READ),
        Err(PeerAborted(memory))
    );
    assert_eq!(fabric.write_peer(mover, &to_memory, 0x8050_0000, &buf), Ok(()), "posted, and lost");
    assert_eq!(
        window(mover, 0x8050_0000).map(|window| (window.decoder, window.claimed)),
        Some((at("09:01.0"), false))
    );

    for address in [0, 0x8040_0000, u64::MAX] {
        assert_eq!(fabric.route(memory, address), Route::Dropped { bridge: memory });
        assert_eq!(fabric.route_translated(memory, address), Route::Dropped { bridge: memory });
        let caught = window(memory, address).expect("everything is caught");
        assert_eq!(
            fabric.read_peer(memory, &caught, address, &mut buf[..1], Access::READ),
            Err(PeerAborted(memory))
        );
        assert_eq!(
            fabric.write_peer(memory, &caught, address, &buf[..1]),
            Err(PeerAborted(memory))
        );
    }
    assert_eq!(fabric.path_defect(memory), Some(PathDefect::NoRequestRedirect(memory)));
    assert_eq!(
        (fabric.translated_windows(memory), fabric.translation_blocker(memory)),
        (fabric.windows(memory), Some(memory))
    );
    assert_eq!(fabric.group(memory), fabric.group(mover), "where it sat, it still counts");

    fabric.add(removed).expect("the slot is free");
    assert_eq!(fabric.route(mover, 0x8050_0000), Route::Peer { bdf: memory, bar: 0 });
}

// shows B1, G1
#[test]
fn a_device_of_no_known_bus_is_alone_and_not_safe() {
    let fabric = default();
    let nowhere = at("0042:99:1f.7");
    assert_eq!(fabric.group(nowhere), GroupKey(at("0042:99:1f.0")));
    assert_eq!(fabric.path_defect(nowhere), Some(PathDefect::NoRequestRedirect(nowhere)));
    assert_eq!(fabric.requester(nowhere).0, nowhere);
    assert_eq!(
        fabric.windows(nowhere).first().map(|window| window.range),
        AddrRange::inclusive(0, u64::MAX)
    );
}

// shows G5
#[test]
fn a_request_under_way_with_old_windows_reaches_a_returned_device_only_where_its_bar_was() {
    let fabric = default();
    let (mover, memory) = (at("0a:00.0"), at("0b:00.0"));
    let window = |from, address| {
        fabric
            .windows(from)
            .into_iter()
            .find(|window| window.range.contains(address))
            .expect("caught")
    };
    let old = window(mover, 0x8050_0000);
    let mut function = fabric.remove(memory).expect("it is there");
    let gone = window(memory, 0x8050_0000);
    function.bars[0].size = 4096;
    fabric.add(function).expect("the slot is free");

    let across = 0x8050_0000 + 4090;
    assert_eq!(fabric.write_peer(mover, &old, across, &[1; 12]), Ok(()), "posted, and lost whole");
    assert_eq!(
        fabric.read_peer(mover, &old, across, &mut [0; 12], Access::READ),
        Err(PeerAborted(memory))
    );
    assert_eq!(fabric.memory(memory, 0).expect("the default model").peek(4090, 6), [0; 6]);
    assert_eq!(fabric.write_peer(mover, &old, across, &[1; 6]), Ok(()));
    assert_eq!(fabric.memory(memory, 0).expect("the default model").peek(4090, 6), [1; 6]);
    // What it was told while it was gone: nobody takes anything, not even its own BAR.
    assert_eq!(
        fabric.read_peer(memory, &gone, 0x8050_0000, &mut [0; 4], Access::READ),
        Err(PeerAborted(memory))
    );
}

// shows G5
#[test]
fn acs_control_of_a_removed_function_is_not_inherited_by_its_successor() {
    let fabric = default();
    let bdf = at("0d:00.0");
    let isolating =
        FunctionSpec::new("slot", bdf).with_acs(Acs::function(AcsBits::FUNCTION_ISOLATION));
    fabric.add(isolating).expect("there is room");
    fabric.set_acs(bdf, AcsBits::NONE).expect("implemented");
    let removed = fabric.remove(bdf).expect("it is there");
    fabric.add(removed).expect("the slot is free");
    assert_eq!(fabric.acs(bdf).map(|acs| acs.enabled), Some(AcsBits::FUNCTION_ISOLATION));
}

// shows G5
#[test]
fn memory_of_a_removed_device_is_not_seen_by_its_successor() {
    let fabric = default();
    fabric
        .memory(at("0b:00.0"), 0)
        .map(|memory| sva_pci::BarModel::write(&*memory, 0, b"old"))
        .expect("the default model")
        .expect("room");
    let removed = fabric.remove(at("0b:00.0")).expect("it is there");
    fabric.add(removed).expect("the slot is free");
    assert_eq!(fabric.memory(at("0b:00.0"), 0).expect("the default model").peek(0, 3), [0; 3]);
}

#[test]
fn a_whole_device_is_removed_with_all_its_functions() {
    let fabric = default();
    let removed: Vec<_> =
        fabric.remove_device(at("0c:00.1")).into_iter().map(|function| function.bdf).collect();
    assert_eq!(removed, [at("0c:00.0"), at("0c:00.1")]);
    assert_eq!(fabric.devices().len(), 7);
    assert!(fabric.remove_device(at("0c:00.0")).is_empty());
}

// shows B1
#[test]
fn acs_control_answers_like_a_register_and_refuses_what_it_has_not() {
    let fabric = default();
    let port = at("05:00.0");
    assert_eq!(fabric.acs(port).map(|acs| acs.enabled), Some(AcsBits::RR | AcsBits::UF));
    fabric.set_acs(port, AcsBits::UF).expect("implemented");
    assert_eq!(fabric.path_defect(at("06:00.0")), Some(PathDefect::NoRequestRedirect(port)));
    assert_eq!(
        fabric.route(at("06:00.0"), 0x8030_0000),
        Route::Peer { bdf: at("07:00.0"), bar: 0 }
    );
    assert_eq!(
        fabric.set_acs(port, AcsBits::EC),
        Err(ControlError::NotImplemented { bdf: port, bits: AcsBits::EC })
    );
    assert_eq!(
        fabric.acs(port).map(|acs| acs.enabled),
        Some(AcsBits::UF),
        "a refused change changes nothing"
    );
    assert_eq!(
        fabric.set_acs(at("09:00.0"), AcsBits::RR),
        Err(ControlError::NoCapability(at("09:00.0")))
    );
    assert_eq!(
        fabric.set_acs(at("aa:00.0"), AcsBits::RR),
        Err(ControlError::NotPresent(at("aa:00.0")))
    );
}

// shows G1
#[test]
fn groups_stay_as_enumerated_when_control_changes_also_for_what_is_plugged_later() {
    let fabric = default();
    let mover = at("06:00.0");
    let group = fabric.group(mover);
    for port in [at("05:00.0"), at("05:01.0")] {
        fabric.set_acs(port, AcsBits::ISOLATION).expect("implemented");
    }
    let neighbour = fabric.remove(at("07:00.0")).expect("it is there");
    fabric.add(neighbour).expect("the slot is free");
    assert_eq!((fabric.group(mover), fabric.group(at("07:00.0"))), (group, group));
}

#[test]
fn models_are_attached_to_bars_that_exist() {
    let fabric = default();
    let model = || Arc::new(RamBar::new());
    assert_eq!(
        fabric.attach_model(at("aa:00.0"), 0, model()),
        Err(ModelError::NotPresent(at("aa:00.0")))
    );
    assert_eq!(
        fabric.attach_model(at("01:00.0"), 1, model()),
        Err(ModelError::NoBar { bdf: at("01:00.0"), index: 1 })
    );
    assert_eq!(fabric.attach_model(at("01:00.0"), 0, model()), Ok(()));
}

// shows G5
#[test]
fn hotplug_under_routing_threads_neither_hangs_nor_shows_half_a_change() {
    let fabric = Arc::new(default());
    let stop = Arc::new(sva_sync::atomic::AtomicBool::new(false));
    let (mover, memory) = (at("0a:00.0"), at("0b:00.0"));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (fabric, stop) = (Arc::clone(&fabric), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(sva_sync::atomic::Ordering::Relaxed) {
                    let route = fabric.route(mover, 0x8050_0000);
                    let there = Route::Peer { bdf: memory, bar: 0 };
                    let gone = Route::Dropped { bridge: at("09:01.0") };
                    assert!(route == there || route == gone, "{route:?}");
                    let windows = fabric.windows(mover);
                    assert!(
                        windows.windows(2).all(|pair| pair[0].range.last() < pair[1].range.first())
                    );
                }
            })
        })
        .collect();
    for _ in 0..200 {
        let removed = fabric.remove(memory).expect("it is there");
        fabric.add(removed).expect("the slot is free");
    }
    stop.store(true, sva_sync::atomic::Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().expect("no reader failed"));
}

// shows B3
#[test]
fn a_refused_function_leaves_the_fabric_as_it_was() {
    let fabric = default();
    let before = sva_pci::FabricView::new(&fabric);
    let bad = [
        FunctionSpec::new("nobody", at("0d:00.0")),
        FunctionSpec::new("slot", at("0e:00.0")),
        FunctionSpec::new("slot", at("0d:01.0")),
        FunctionSpec::new("slot", at("0d:00.0")).with_bar(0x8080_0000, 24),
        FunctionSpec::new("slot", at("0d:00.0")).with_bar(0x8080_0010, 4096),
        FunctionSpec::new("slot", at("0d:00.0")).with_bar(u64::MAX - 15, 32),
    ];
    for function in bad {
        assert!(fabric.add(function.clone()).is_err(), "{function:?}");
    }
    assert_eq!(sva_pci::FabricView::new(&fabric), before);
    assert!(FabricSpec::from_toml(sva_pci::DEFAULT_TOML).is_ok());
}
