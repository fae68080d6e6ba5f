//! MAP and UNMAP (rules T8, T2, T5) against their refusals and against a slow model.

use proptest::prelude::*;
use sva_core::error::{MapError, UnmapError};
use sva_core::{AddrRange, EndReason, FaultReason, IommuConfig, MapRequest, Permissions, Removal};
use sva_testkit::{PAGE, reference};

use crate::support::*;

fn range(first: u64, len: u64) -> AddrRange {
    AddrRange::new(first, len).expect("a range")
}

// shows T8, S2
#[test]
fn every_map_that_cannot_be_is_refused_with_its_values() {
    let world = World::with(IommuConfig::default().address_width(40).max_mappings(2));
    let (space, dead, device) = (space(), space(), world.plug(1));
    dead.end(EndReason::Exited);
    let reserved = range(0xfee0_0000, 0x10_0000);
    world.bus.reserve(bdf(1), &[reserved]);
    let group = device.group();
    let good = mapping(0x10000, 2, &space, BASE);
    world.iommu.map(group, &good).expect("free");
    let refusals = [
        (
            MapRequest { len: 0, ..good.clone() },
            "a mapping of 0 bytes at IOVA 0x10000; give a length",
        ),
        (
            MapRequest { iova: 0x10800, ..good.clone() },
            "0x10800 is not a multiple of the page size 0x1000",
        ),
        (
            MapRequest { len: 0x1001, ..good.clone() },
            "0x1001 is not a multiple of the page size 0x1000",
        ),
        (
            MapRequest { address: BASE + 1, ..good.clone() },
            "0x700000000001 is not a multiple of the page size 0x1000",
        ),
        (
            MapRequest { permissions: Permissions::empty(), ..good.clone() },
            "a mapping at IOVA 0x10000 that permits nothing; permit read or write",
        ),
        (
            MapRequest { iova: u64::MAX - 0xfff, ..good.clone() },
            "0x2000 bytes at 0xfffffffffffff000 wrap past the last address",
        ),
        (
            MapRequest { iova: 0x20000, address: u64::MAX - 0xfff, ..good.clone() },
            "0x2000 bytes at 0xfffffffffffff000 wrap past the last address",
        ),
        (
            MapRequest { iova: (1 << 40) - PAGE, ..good.clone() },
            "[0xfffffff000, 0x10000000fff] ends past the IOMMU's address width of 40 bits",
        ),
        (
            MapRequest { iova: 0xfedf_f000, ..good.clone() },
            "[0xfedff000, 0xfee00fff] meets the region [0xfee00000, 0xfeefffff] that is reserved \
             for 0000:01:01.0",
        ),
        (
            MapRequest { iova: 0x11000, ..good.clone() },
            "[0x11000, 0x12fff] meets the mapping [0x10000, 0x11fff]; unmap that first",
        ),
        (
            MapRequest { space: dead.handle(), iova: 0x40000, ..good.clone() },
            "the target of the mapping: the address space has ended: its last task exited",
        ),
    ];
    for (request, text) in refusals {
        let error = world.iommu.map(group, &request).expect_err(text);
        assert_eq!(error.to_string(), text);
    }
    world
        .iommu
        .map(group, &MapRequest { iova: (1 << 40) - 2 * PAGE, ..good.clone() })
        .expect("up to the last page of the width");
    let error =
        world.iommu.map(group, &mapping(0x50000, 1, &space, BASE)).expect_err("one too many");
    assert_eq!(error, MapError::TooMany { limit: 2 });
    assert_eq!(
        error.to_string(),
        "the domain holds 2 mappings, its limit; unmap some or map larger ranges"
    );
    world.iommu.remove(&device, Removal::Orderly).expect("plugged");
    world.iommu.unmap(group, 0, 1 << 40).expect("the group is there as long as it has mappings");
    let error = world.iommu.map(group, &good).expect_err("no group");
    assert_eq!(error, MapError::NoSuchGroup { group });
    world.assert_nothing_is_left();
}

// shows T8, T4
#[test]
fn unmap_counts_its_bytes_and_never_splits_a_mapping() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let group = device.group();
    for (iova, pages) in [(0x10000, 2), (0x12000, 1), (0x20000, 3)] {
        world.iommu.map(group, &mapping(iova, pages, &space, BASE)).expect("free");
    }
    for (iova, len, split) in [
        (0x11000, PAGE, range(0x10000, 2 * PAGE)),
        (0x12000, 0xf000, range(0x20000, 3 * PAGE)),
        (0x10000, 0x1fff, range(0x10000, 2 * PAGE)),
    ] {
        let error = world.iommu.unmap(group, iova, len).expect_err("would split");
        assert_eq!(error, UnmapError::WouldSplit { range: range(iova, len), mapping: split });
        assert_eq!(
            error.to_string(),
            format!("{} would split the mapping {split}; unmap all of it", range(iova, len))
        );
    }
    for (iova, len) in [(0x10000, 0), (u64::MAX, 2)] {
        assert_eq!(world.iommu.unmap(group, iova, len), Err(UnmapError::NoRange { iova, len }));
    }
    let mut buf = vec![0; 5 * PAGE as usize];
    let (done, fault) = stop(device.port().read(None, 0x10000, &mut buf));
    assert_eq!(
        (done, fault.address, fault.reason),
        (3 * PAGE, 0x13000, FaultReason::NoDomainMapping),
        "all is still mapped"
    );
    assert_eq!(world.iommu.unmap(group, 0x30000, 0x10000).map(|unmapped| unmapped.bytes), Ok(0));
    assert_eq!(world.iommu.unmap(group, 0, u64::MAX).map(|unmapped| unmapped.bytes), Ok(6 * PAGE));
    assert_eq!(world.iommu.unmap(group, 0, u64::MAX).map(|unmapped| unmapped.bytes), Ok(0));
    assert_eq!(stop(device.port().read(None, 0x10000, &mut buf)).0, 0);
}

// shows T8
#[test]
fn the_widest_mappings_there_can_be_are_mapped_and_taken_down() {
    let world = World::with(IommuConfig::default().address_width(64));
    let (space, device) = (space(), world.plug(1));
    let container = world.container(&[device.group()]);
    let half = 1 << 63;
    for iova in [0, half] {
        let request = MapRequest { iova, len: half, address: 0, ..mapping(0, 1, &space, 0) };
        container.map(&request).expect("free");
    }
    device.port().write(None, half + BASE, b"top").expect("mapped");
    assert_eq!(space.peek(BASE, 3), b"top");
    assert!(
        container.unmap(0, u64::MAX).is_err(),
        "2^64 - 1 bytes do not cover the last byte of the second"
    );
    container.close();
    assert_eq!(
        reason(device.port().read(None, BASE, &mut [0])),
        Some(FaultReason::NoDomainMapping)
    );
}

// shows T8, T1
#[test]
fn a_mapping_permits_what_it_was_made_for_and_what_the_memory_behind_it_permits() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let group = device.group();
    world
        .iommu
        .map(
            group,
            &MapRequest { permissions: Permissions::READ, ..mapping(0x10000, 1, &space, BASE) },
        )
        .expect("free");
    let write_only = Permissions::WRITE;
    world
        .iommu
        .map(group, &MapRequest { permissions: write_only, ..mapping(0x11000, 1, &space, BASE) })
        .expect("free");
    world.iommu.map(group, &mapping(0x12000, 1, &space, BASE + PAGE)).expect("free");
    space.protect(BASE + PAGE, PAGE, sva_testkit::Protection::READ);
    let port = device.port();
    let mut buf = [0; 4];
    assert_eq!(reason(port.read(None, 0x10000, &mut buf)), None);
    assert_eq!(reason(port.write(None, 0x10000, &buf)), Some(FaultReason::Denied));
    assert_eq!(reason(port.read(None, 0x11000, &mut buf)), Some(FaultReason::Denied));
    assert_eq!(reason(port.write(None, 0x11000, &buf)), None);
    assert_eq!(
        reason(port.write(None, 0x12000, &buf)),
        Some(FaultReason::Denied),
        "a page that the process may not write"
    );
    let execute = sva_core::Access::EXECUTE;
    let piece = sva_core::Segment { address: 0x10000, len: 4 };
    assert_eq!(reason(port.gather(None, &[piece], &mut buf, execute)), Some(FaultReason::Denied));
    let (done, fault) = stop(port.write(None, 0x11ffe, &[1; 4]));
    assert_eq!((done, fault.address), (2, 0x12000), "counted across mappings (T5)");
    space.end(EndReason::Exited);
    let (done, fault) = stop(port.read(None, 0x10010, &mut buf));
    assert_eq!(
        (done, fault.address, fault.reason, fault.pasid),
        (0, 0x10010, FaultReason::SpaceEnded, None)
    );
}

// shows T2
#[test]
fn unmap_returns_when_the_access_in_flight_is_over_and_no_other_starts_meanwhile() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let group = device.group();
        world.iommu.map(group, &mapping(0x10000, 1, &space, PARK)).expect("free");
        let parked = Parked::at(&space, &device.port(), None, 0x10000);
        let iommu = world.iommu.clone();
        let unmapping = std::thread::spawn(move || iommu.unmap(group, 0x10000, PAGE));
        eventually("unmapped", || {
            world.iommu.map(group, &mapping(0x10000, 1, &space, BASE)).is_ok()
        });
        assert!(!unmapping.is_finished());
        space.poke(BASE, b"new");
        let mut buf = [0; 3];
        device.port().read(None, 0x10000, &mut buf).expect("what was mapped there meanwhile");
        assert_eq!(&buf, b"new");
        parked.release().expect("under way");
        let unmapped = unmapping.join().expect("no panic").expect("mapped");
        assert_eq!((unmapped.bytes, unmapped.deferred), (PAGE, false));
    });
}

// regression 18: the mapping is made where the unmap has been, before that returns.
#[test]
fn a_mapping_made_while_an_unmap_waits_survives_it() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let group = device.group();
        world.iommu.map(group, &mapping(0x10000, 1, &space, PARK)).expect("free");
        world.iommu.map(group, &mapping(0x12000, 1, &space, BASE)).expect("free");
        let parked = Parked::at(&space, &device.port(), None, 0x10000);
        let iommu = world.iommu.clone();
        let unmapping = std::thread::spawn(move || iommu.unmap(group, 0x10000, 4 * PAGE));
        for iova in [0x11000, 0x12000] {
            eventually("removed", || {
                world.iommu.map(group, &mapping(iova, 1, &space, BASE + PAGE)).is_ok()
            });
        }
        // The first one may have been mapped before the unmap began; what counts was mapped after
        // 0x12000 had gone.
        let survivors: Vec<u64> = (0x10000..0x14000)
            .step_by(PAGE as usize)
            .filter(|iova| device.port().write(None, *iova, &[1]).is_ok())
            .collect();
        parked.release().expect("under way");
        unmapping.join().expect("no panic").expect("mapped");
        for iova in &survivors {
            device
                .port()
                .write(None, *iova, &[2])
                .expect("it was made after the unmap had taken the others out");
        }
        assert!(survivors.contains(&0x12000));
    });
}

#[derive(Debug, Clone)]
enum Step {
    Map { iova: u64, len: u64, target: u64, write: bool },
    Unmap { iova: u64, len: u64 },
    Look { iova: u64, len: usize },
}

/// Numbers near one another and near the edges, so that steps meet.
fn iova() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0u64..24).prop_map(|page| page * PAGE),
        1 => 0u64..24 * PAGE,
        1 => (1u64 << 20) - 4 * PAGE..(1 << 20) + 2 * PAGE,
        1 => Just(u64::MAX - PAGE + 1),
    ]
}

fn len() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (1u64..6).prop_map(|pages| pages * PAGE),
        1 => 0u64..2 * PAGE,
        1 => Just(u64::MAX - PAGE + 1),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let target = (0u64..PAGES).prop_map(|page| BASE + page * PAGE);
    prop_oneof![
        4 => (iova(), len(), target, any::<bool>())
            .prop_map(|(iova, len, target, write)| Step::Map { iova, len, target, write }),
        2 => (iova(), len()).prop_map(|(iova, len)| Step::Unmap { iova, len }),
        3 => (iova(), 1usize..3 * PAGE as usize).prop_map(|(iova, len)| Step::Look { iova, len }),
    ]
}

/// The error of a MAP that the model refuses.
fn refused_map(refusal: reference::Refusal, iova: u64, len: u64, target: u64) -> MapError {
    let range = || range(iova, len);
    match refusal {
        reference::Refusal::BadRange if len == 0 => MapError::Empty { iova },
        reference::Refusal::BadRange => MapError::Wraps { address: iova, len },
        reference::Refusal::TargetWraps => MapError::Wraps { address: target, len },
        reference::Refusal::PastWidth => MapError::PastWidth { range: range(), width: 20 },
        reference::Refusal::Reserved(reserved) => {
            MapError::Reserved { range: range(), reserved, device: bdf(1) }
        }
        reference::Refusal::Touches(existing) => MapError::Overlaps { range: range(), existing },
    }
}

/// How far an access of `len` bytes gets, byte by byte.
fn reach(model: &reference::Domain, iova: u64, len: usize, write: bool) -> usize {
    let permitted = |at: usize| {
        let target = model.translate(iova.checked_add(at as u64)?)?;
        let mapped = (BASE..BASE + PAGES * PAGE).contains(&target.0);
        (mapped && (!write || target.1)).then_some(())
    };
    if AddrRange::new(iova, len as u64).is_none() {
        return 0;
    }
    (0..len).position(|at| permitted(at).is_none()).unwrap_or(len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // shows T8, T5
    #[test]
    fn a_domain_does_what_the_slow_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let world = World::with(IommuConfig::default().address_width(20));
        let (space, device) = (space(), world.plug(1));
        let (group, reserved) = (device.group(), range(20 * PAGE, PAGE));
        world.bus.reserve(bdf(1), &[reserved]);
        let mut model = reference::Domain::new(20, &[reserved]);
        for page in 0..PAGES {
            space.poke(BASE + page * PAGE, &vec![page as u8; PAGE as usize]);
        }
        for step in steps {
            match step {
                Step::Map { iova, len, target, write } => {
                    let mut request = mapping(iova, 0, &space, target);
                    request.len = len;
                    request.permissions.set(Permissions::WRITE, write);
                    let mapped = world.iommu.map(group, &request);
                    if iova % PAGE != 0 || len % PAGE != 0 {
                        let is_refused = matches!(
                            mapped,
                            Err(MapError::Unaligned { .. } | MapError::Empty { .. })
                        );
                        prop_assert!(is_refused, "{mapped:?}");
                        continue;
                    }
                    let expected = model
                        .map(iova, len, target, write)
                        .map(|()| range(iova, len))
                        .map_err(|refusal| refused_map(refusal, iova, len, target));
                    prop_assert_eq!(mapped.map(|mapped| mapped.range), expected);
                }
                Step::Unmap { iova, len } => {
                    let expected = match model.unmap(iova, len) {
                        Ok(bytes) => Ok(bytes),
                        Err(reference::Refusal::Touches(mapping)) => {
                            Err(UnmapError::WouldSplit { range: range(iova, len), mapping })
                        }
                        Err(_) => Err(UnmapError::NoRange { iova, len }),
                    };
                    let unmapped = world.iommu.unmap(group, iova, len);
                    prop_assert_eq!(unmapped.map(|unmapped| unmapped.bytes), expected);
                }
                Step::Look { iova, len } => {
                    let mut buf = vec![0xee; len];
                    let read = device.port().read(None, iova, &mut buf);
                    let done = read.as_ref().map_or_else(|error| error.done as usize, |()| len);
                    prop_assert_eq!(done, reach(&model, iova, len, false));
                    prop_assert_eq!(read.is_ok(), done == len);
                    for (at, byte) in buf[..done].iter().enumerate() {
                        let (target, _) = model.translate(iova + at as u64).expect("it was read");
                        prop_assert_eq!(*byte, ((target - BASE) / PAGE) as u8);
                    }
                    // Writing back what was read changes nothing, so that pages keep their numbers.
                    let written = device.port().write(None, iova, &buf[..done]);
                    let count = match &written {
                        Ok(()) => done,
                        Err(error) => error.done as usize,
                    };
                    prop_assert_eq!(count, reach(&model, iova, done, true));
                }
            }
        }
        let count: u64 = model.mappings().iter().map(|mapping| mapping.iova.len()).sum();
        let unmapped = world.iommu.unmap(group, 0, 1 << 20);
        prop_assert_eq!(unmapped.map(|unmapped| unmapped.bytes), Ok(count));
    }
}
