//! `Forwarding` hands every call to the space that it wraps, with its arguments and its answer.

use std::sync::Arc;

use sva_core::Extent;
use sva_core::ats::AlignedRange;
use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{ExitWork, NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Permissions, Segment, SpaceCapabilities,
    SpaceId, SpaceWatcher, StopCause, Stopped,
};
use sva_sync::Mutex;
use sva_testkit::{Forwarding, ForwardingSpace, MemorySpace};
use vm_memory::VolatileSlice;

/// Notes each call with its arguments. Its answers are unlike those of the trait's defaults.
struct Inner {
    id: SpaceId,
    calls: Mutex<Vec<String>>,
}

const FRAME: Frame = Frame(0x77_0000);
const PIECES: [Segment; 2] =
    [Segment { address: 0x1000, len: 3 }, Segment { address: 0x5000, len: 1 }];

fn range() -> AddrRange {
    AddrRange::new(0x3000, 0x1234).expect("a range")
}

fn a_run() -> Extent {
    Extent { range: range(), frame: FRAME, permissions: Permissions::READ_WRITE }
}

fn a_translation() -> Translation {
    let (range, permissions) = (AlignedRange::page(0x9000), Permissions::READ_WRITE);
    Translation { range, frame: Some(FRAME), permissions, global: true }
}

impl Inner {
    fn note(&self, call: String) {
        self.calls.lock().push(call);
    }
}

// A method that is added to the trait is to be added here, and to the calls of the test.
#[warn(clippy::missing_trait_methods)]
impl AddressSpace for Inner {
    fn id(&self) -> SpaceId {
        self.note("id".to_owned());
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.note("capabilities".to_owned());
        SpaceCapabilities { in_place: true, privileged: true, ..SpaceCapabilities::default() }
    }

    fn ended(&self) -> Option<EndReason> {
        self.note("ended".to_owned());
        Some(EndReason::Execed)
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.note("watch".to_owned());
        watcher.space_ended(self.id, EndReason::Closed).run();
        Ok(WatchToken(7))
    }

    fn unwatch(&self, token: WatchToken) {
        self.note(format!("unwatch {}", token.0));
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.note(format!("read {} {access:?}", pieces == PIECES));
        buf.fill(1);
        Err(Stopped { done: 2, cause: StopCause::Denied })
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.note(format!("write {} {data:?} {access:?}", pieces == PIECES));
        Err(Stopped { done: 3, cause: StopCause::Denied })
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        self.note(format!("translate {address:#x} {privileged}"));
        Ok(a_translation())
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.note(format!("extent {address:#x} {privileged}"));
        Ok(Some(a_run()))
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.note(format!("memory {frame} {len} {write}"));
        let empty: &'static mut [u8] = &mut [];
        Some(VolatileSlice::from(empty))
    }

    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.note(format!("read_memory {frame}"));
        buf.fill(2);
        true
    }

    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.note(format!("write_memory {frame} {data:?}"));
        true
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.note(format!("resolve {address:#x} {access:?}"));
        Err(StopCause::NotPresent)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.note(format!("read_frame {frame}"));
        buf.fill(3);
        Ok(())
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.note(format!("write_frame {frame} {data:?}"));
        Ok(())
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        self.note(format!("mapped_within {}", windows == [range()]));
        Ok(vec![range()])
    }
}

/// Overrides nothing.
struct Wrapper(Arc<Inner>);

impl ForwardingSpace for Wrapper {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.0
    }
}

#[derive(Default)]
struct Watcher(Mutex<Vec<(SpaceId, EndReason)>>);

impl SpaceWatcher for Watcher {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        self.0.lock().push((space, reason));
        ExitWork::none()
    }
}

/// Makes one call and answers all that came of it.
type Call = fn(&dyn AddressSpace) -> String;

/// One call of each method.
const CALLS: [(&str, Call); 16] = [
    ("id", |space| format!("{:?}", space.id())),
    ("capabilities", |space| format!("{:?}", space.capabilities())),
    ("ended", |space| format!("{:?}", space.ended())),
    ("watch", |space| {
        let watcher = Arc::new(Watcher::default());
        let token = space.watch(watcher.clone());
        format!("{token:?} {:?}", watcher.0.lock())
    }),
    ("unwatch", |space| {
        space.unwatch(WatchToken(9));
        String::new()
    }),
    ("read", |space| {
        let mut buf = [0; 4];
        let outcome = space.read(&PIECES, &mut buf, Access::READ.present_only());
        format!("{outcome:?} {buf:?}")
    }),
    ("write", |space| format!("{:?}", space.write(&PIECES, b"abcd", Access::WRITE))),
    ("translate", |space| format!("{:?}", space.translate(0x9008, true))),
    ("extent", |space| format!("{:?}", space.extent(0x3010, true))),
    ("memory", |space| format!("{:?}", space.memory(FRAME, 5, true).map(|memory| memory.len()))),
    ("read_memory", |space| {
        let mut buf = [0; 4];
        let done = space.read_memory(FRAME, &mut buf);
        format!("{done} {buf:?}")
    }),
    ("write_memory", |space| format!("{}", space.write_memory(FRAME, b"abc"))),
    ("resolve", |space| format!("{:?}", space.resolve(0x6000, Access::WRITE))),
    ("read_frame", |space| {
        let mut buf = [0; 4];
        let outcome = space.read_frame(FRAME, &mut buf);
        format!("{outcome:?} {buf:?}")
    }),
    ("write_frame", |space| format!("{:?}", space.write_frame(FRAME, b"abc"))),
    ("mapped_within", |space| format!("{:?}", space.mapped_within(&[range()]))),
];

#[test]
fn every_method_is_forwarded_with_its_arguments_and_its_answer() {
    let inner = Arc::new(Inner { id: SpaceId::unique(), calls: Mutex::default() });
    let forwarding = Forwarding(Wrapper(Arc::clone(&inner)));
    let calls = || std::mem::take(&mut *inner.calls.lock());
    for (name, call) in CALLS {
        let (answer, arguments) = (call(&*inner), calls());
        assert_eq!(arguments.len(), 1, "{name}: {arguments:?}");
        assert_eq!(arguments[0].split(' ').next(), Some(name));
        assert_eq!((call(&forwarding), calls()), (answer, arguments), "{name}");
    }
}

/// Overrides one method.
struct Unmapped(Arc<dyn AddressSpace>);

impl ForwardingSpace for Unmapped {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.0
    }

    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}

#[test]
fn what_is_overridden_is_not_forwarded() {
    let memory = MemorySpace::new();
    memory.map(0x1000, sva_testkit::PAGE, sva_testkit::Protection::READ);
    let space = Forwarding(Unmapped(memory.handle()));
    let all = [AddrRange::ALL];
    assert_eq!(memory.handle().mapped_within(&all).expect("in memory").len(), 1);
    assert_eq!(AddressSpace::mapped_within(&space, &all).expect("in memory"), []);
}
