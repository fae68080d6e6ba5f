//! Providers that break the promises of `AddressSpace`: a bind is refused or holds, nothing leaks,
//! and no thread waits for itself (rules B3, B5, S2, S3, T5, U2, U4).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sva_core::error::{BindError, SpaceRefusal};
use sva_core::space::{SpaceEnded, SpaceWatcher, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, Bind, EndReason, FaultReason, Frame, Segment,
    SpaceCapabilities, SpaceId,
};
use sva_sync::Mutex;
use sva_testkit::{Forwarding, ForwardingSpace, MemorySpace, PAGE};
use vm_memory::VolatileSlice;

use crate::in_place::arena;
use crate::support::*;

/// What a provider does when it is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtWatch {
    Nothing,
    Panic,
    ReportEnd,
    ReportChange,
}

/// A space whose provider misbehaves when it is watched, and can report its end from inside
/// `ended`.
struct Careless {
    inner: Arc<dyn AddressSpace>,
    at_watch: AtWatch,
    watcher: Mutex<Option<Arc<dyn SpaceWatcher>>>,
    reports_in_ended: Mutex<bool>,
}

impl Careless {
    fn new(inner: &MemorySpace, at_watch: AtWatch) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self {
            inner: inner.handle(),
            at_watch,
            watcher: Mutex::default(),
            reports_in_ended: Mutex::default(),
        }))
    }
}

impl ForwardingSpace for Careless {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let id = self.inner.id();
        match self.at_watch {
            AtWatch::Nothing => {}
            AtWatch::Panic => panic!("a provider that panics"),
            AtWatch::ReportEnd => watcher.space_ended(id, EndReason::Exited).run(),
            AtWatch::ReportChange => watcher.invalidate(id, AddrRange::ALL).wait(),
        }
        *self.watcher.lock() = Some(Arc::clone(&watcher));
        self.inner.watch(watcher)
    }

    fn ended(&self) -> Option<EndReason> {
        let watcher = self.watcher.lock().clone().filter(|_| *self.reports_in_ended.lock());
        if let Some(watcher) = watcher {
            watcher.space_ended(self.inner.id(), EndReason::Exited).run();
        }
        self.inner.ended()
    }
}

// shows B3, S3
#[test]
fn a_watch_that_panics_does_so_in_the_thread_that_binds_and_leaves_nothing() {
    watched(|| {
        let world = World::new();
        let (device, inner) = (world.plug(1), space());
        let before = Before::of(&world.iommu, &inner, &[&device]);
        let careless = Careless::new(&inner, AtWatch::Panic);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            world.iommu.bind_device(&device, &careless, Bind::new(())).map(drop)
        }));
        let words = panicked.expect_err("the provider panics");
        assert_eq!(words.downcast_ref::<&str>(), Some(&"a provider that panics"));
        assert_eq!(Before::of(&world.iommu, &inner, &[&device]), before);
        let bond = world.bind(&device, &inner);
        assert_eq!(refused(&device.port(), bond.pasid()), None);
    });
}

// shows B3, U4
#[test]
fn a_space_that_ends_while_it_is_watched_is_refused_and_not_watched_any_more() {
    watched(|| {
        let world = World::new();
        let (device, inner) = (world.plug(1), space());
        let before = Before::of(&world.iommu, &inner, &[&device]);
        let careless = Careless::new(&inner, AtWatch::ReportEnd);
        let refused = world.iommu.bind_device(&device, &careless, Bind::new(())).map(drop);
        let ended = SpaceRefusal::Ended(SpaceEnded(EndReason::Exited));
        assert!(matches!(refused, Err(BindError::Space(SpaceRefusal::Ended(_)))), "{refused:?}");
        let container = world.container(&[device.group()]);
        let refused = container.bind(&careless, Bind::new(())).map(drop).expect_err("ended");
        assert_eq!(refused.to_string(), ended.to_string());
        drop(container);
        assert_eq!(Before::of(&world.iommu, &inner, &[&device]), before);
    });
}

// shows B3, T2
#[test]
fn a_space_that_changes_while_it_is_watched_is_bound() {
    watched(|| {
        let world = World::new();
        let (device, inner) = (world.plug(1), space());
        let careless = Careless::new(&inner, AtWatch::ReportChange);
        let bond = world.iommu.bind_device(&device, &careless, Bind::new(())).expect("bound");
        assert_eq!(refused(&device.port(), bond.pasid()), None);
    });
}

// shows U4, S3
#[test]
fn a_space_that_reports_its_end_when_it_is_asked_for_it_ends_and_blocks_nobody() {
    watched(|| {
        let world = World::new();
        let (devices, inner) = ([1, 2].map(|number| world.plug(number)), space());
        let careless = Careless::new(&inner, AtWatch::Nothing);
        let bind = |device| world.iommu.bind_device(device, &careless, Bind::new(()));
        let bond = bind(&devices[0]).expect("nothing is in the way");
        *careless.reports_in_ended.lock() = true;
        let refusal = bind(&devices[1]).map(drop).expect_err("it ends meanwhile");
        assert!(matches!(refusal, BindError::Space(SpaceRefusal::Ended(_))), "{refusal}");
        let stopped = refused(&devices[0].port(), bond.pasid());
        assert_eq!(stopped, Some(FaultReason::SpaceEnded));
        assert!(bond.unbind().space_ended);
        assert_eq!(world.iommu.object_counts().pasids, 0);
    });
}

/// A space whose provider has another identity, and other capabilities, each time it is asked.
struct Changing {
    inner: Arc<dyn AddressSpace>,
    ids: Mutex<Vec<SpaceId>>,
}

impl ForwardingSpace for Changing {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn id(&self) -> SpaceId {
        let id = SpaceId::unique();
        self.ids.lock().push(id);
        id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        let in_place = self.ids.lock().len().is_multiple_of(2);
        SpaceCapabilities { in_place, ..self.inner.capabilities() }
    }
}

// shows B5, U2
#[test]
fn a_space_whose_identity_changes_is_the_one_that_it_was_at_the_bind() {
    watched(|| {
        let world = World::new();
        let (devices, memory) = ([1, 2].map(|number| world.plug(number)), arena());
        let changing =
            Arc::new(Forwarding(Changing { inner: memory.handle(), ids: Mutex::default() }));
        let bond = world.iommu.bind_device(&devices[0], &changing, Bind::new(())).expect("free");
        let first = changing.ids.lock()[0];
        assert_eq!((bond.space(), world.iommu.pasid_of(first)), (first, Some(bond.tag())));
        let port = devices[0].port();
        (0..3).for_each(|_| assert_eq!(refused(&port, bond.pasid()), None));
        let container = world.container(&[devices[1].group()]);
        let other = container.bind(&changing, Bind::new(())).expect("another space, by its word");
        assert_ne!(other.pasid, bond.pasid());
        assert_eq!(refused(&devices[1].port(), bond.pasid()), Some(FaultReason::NotBound));
        let id = container.bound()[0];
        container.unbind(id).expect("by the identity that it had at the bind");
        bond.unbind();
        for device in &devices {
            for pasid in [other.pasid, world.iommu.pasid_of(first).map_or(other.pasid, |t| t.pasid)]
            {
                assert_eq!(refused(&device.port(), pasid), Some(FaultReason::NotBound));
            }
        }
        drop(container);
        assert_eq!(memory.watches(), 0);
        assert_eq!(world.iommu.object_counts().spaces, 0);
    });
}

/// A space that gives slices of a length that nobody asked for.
struct Stretched {
    inner: Arc<dyn AddressSpace>,
    /// The length, from the one that was asked for.
    length: fn(usize) -> usize,
}

impl ForwardingSpace for Stretched {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.inner.memory(frame, (self.length)(len), write)
    }

    fn read_memory(&self, _: Frame, _: &mut [u8]) -> bool {
        false
    }

    fn write_memory(&self, _: Frame, _: &[u8]) -> bool {
        false
    }
}

// shows S2, T5
#[test]
fn slices_of_another_length_are_as_none_and_the_access_is_whole() {
    watched(|| {
        let lengths: [fn(usize) -> usize; 4] =
            [|_| 0, |len| len / 2, |len| len + 1, |len| len + PAGE as usize];
        for length in lengths {
            let world = World::new();
            let (device, memory) = (world.plug(1), arena());
            let stretched = Arc::new(Forwarding(Stretched { inner: memory.handle(), length }));
            let bond =
                world.iommu.bind_device(&device, &stretched, Bind::new(())).expect("nothing");
            let (port, pasid) = (device.port(), Some(bond.pasid()));
            let data: Vec<u8> = (0..3 * PAGE).map(|at| at as u8).collect();
            let (at, mut read) = (BASE + 100, vec![0; data.len()]);
            for _ in 0..3 {
                port.write(pasid, at, &data).expect("mapped");
                read.fill(0);
                port.read(pasid, at, &mut read).expect("mapped");
                assert_eq!(read, data);
                let pieces = [Segment { address: at, len: 64 }, Segment { address: BASE, len: 4 }];
                port.gather(pasid, &pieces, &mut read[..68], Access::READ).expect("mapped");
                assert_eq!(read[..64], data[..64]);
                port.write_obj(pasid, BASE, 7u64).expect("mapped");
                assert_eq!(port.read_obj::<u64>(pasid, BASE).expect("mapped"), 7);
            }
            assert_eq!(memory.peek(at, data.len()), data);
            let piece = Segment { address: BASE, len: 64 };
            let refused = reason(port.with_memory(pasid, piece, Access::WRITE, |_| ()));
            assert_eq!(refused, Some(FaultReason::NotInPlace));
            let refused = reason(port.fetch_add(pasid, BASE, 1u64).map(drop));
            assert_eq!(refused, Some(FaultReason::NoAtomics));
        }
    });
}
