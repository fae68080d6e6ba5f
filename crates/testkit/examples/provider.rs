//! A provider of one's own: the smallest address space that a device can be bound to, checked
//! against the test kit's reference.
//!
//! A template for providers. The memory here is a vector of bytes behind a lock. A device reads and
//! writes it through an IOMMU; then the same accesses go to it and to a `MemorySpace` that has the
//! same memory, and both have to answer the same.
//!
//! `cargo run -p sva-testkit --example provider`

#![expect(clippy::disallowed_types, reason = "a provider outside of the project has std's locks")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sva_core::ats::AlignedRange;
use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{ExitWork, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, Bdf, Bind, Capabilities, DeviceSpec, EndReason, Iommu,
    IommuConfig, PasidWidth, Permissions, Segment, SpaceCapabilities, SpaceId, SpaceWatcher,
    StopCause, Stopped,
};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

/// Bytes of memory at `BASE`, for reading and writing by everybody.
const BASE: u64 = 0x10_0000;
const LEN: u64 = 4 * PAGE;

/// The provider. A handle for binding is an `Arc` of it.
struct VecSpace {
    id: SpaceId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memory: Vec<u8>,
    ended: Option<EndReason>,
    watchers: BTreeMap<u64, Arc<dyn SpaceWatcher>>,
    next_token: u64,
}

impl VecSpace {
    fn new() -> Arc<Self> {
        let state = State { memory: vec![0; LEN as usize], ..State::default() };
        Arc::new(Self { id: SpaceId::unique(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the space: accesses are refused from now on, then the watchers are told, with no lock
    /// held.
    fn end(&self, reason: EndReason) {
        let watchers = {
            let mut state = self.state();
            state.ended.get_or_insert(reason);
            std::mem::take(&mut state.watchers)
        };
        let work: Vec<ExitWork> =
            watchers.into_values().map(|watcher| watcher.space_ended(self.id, reason)).collect();
        work.into_iter().for_each(ExitWork::run);
    }
}

impl State {
    /// Hands `copy` the memory of each piece, with its place in the buffer, and stops at the
    /// first byte that is not there.
    fn transfer(
        &mut self,
        pieces: &[Segment],
        access: Access,
        mut copy: impl FnMut(usize, &mut [u8]),
    ) -> Result<(), Stopped> {
        let mut done = 0;
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            if self.ended.is_some() {
                return Err(Stopped { done, cause: StopCause::Ended });
            }
            // An address below the memory is outside as well: it wraps to a large offset.
            let offset = piece.address.wrapping_sub(BASE);
            let inside = LEN.saturating_sub(offset).min(piece.len);
            if access.is_execute() && inside > 0 {
                return Err(Stopped { done, cause: StopCause::Denied });
            }
            if inside > 0 {
                let first = offset as usize;
                copy(done as usize, &mut self.memory[first..first + inside as usize]);
            }
            done += inside;
            if inside < piece.len {
                return Err(Stopped { done, cause: StopCause::NotMapped });
            }
        }
        Ok(())
    }
}

impl AddressSpace for VecSpace {
    fn id(&self) -> SpaceId {
        self.id
    }

    /// Execution is checked, and page faults can be resolved: no page is absent. It is not
    /// synchronous, which would oblige it to tell the watchers of every change.
    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities { execute: true, page_faults: true, ..SpaceCapabilities::default() }
    }

    fn ended(&self) -> Option<EndReason> {
        self.state().ended
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut state = self.state();
        if let Some(reason) = state.ended {
            return Err(SpaceEnded(reason));
        }
        state.next_token += 1;
        let token = state.next_token;
        state.watchers.insert(token, watcher);
        Ok(WatchToken(token))
    }

    fn unwatch(&self, token: WatchToken) {
        let watcher = self.state().watchers.remove(&token.0);
        // Dropped with no lock held: it may own what calls back.
        drop(watcher);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.state().transfer(pieces, access, |at, memory| {
            buf[at..at + memory.len()].copy_from_slice(memory);
        })
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.state().transfer(pieces, access, |at, memory| {
            memory.copy_from_slice(&data[at..at + memory.len()]);
        })
    }

    /// Names no frame: only a synchronous provider may.
    fn translate(&self, address: u64, _privileged: bool) -> Result<Translation, StopCause> {
        let state = self.state();
        if state.ended.is_some() {
            return Err(StopCause::Ended);
        }
        if address.wrapping_sub(BASE) >= LEN {
            return Err(StopCause::NotMapped);
        }
        let (range, permissions) = (AlignedRange::page(address), Permissions::READ_WRITE);
        Ok(Translation { range, frame: None, permissions, global: false })
    }

    /// Every page is present.
    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        let found = self.translate(address, access.is_privileged())?;
        if found.permissions.permit(access) { Ok(()) } else { Err(StopCause::Denied) }
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        let memory = AddrRange::new(BASE, LEN);
        let parts = windows.iter().filter_map(|window| memory?.intersection(*window));
        let mut parts: Vec<AddrRange> = parts.collect();
        parts.sort_unstable();
        Ok(parts)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let space = VecSpace::new();
    read_by_a_device(&space)?;
    let accesses = compare_with_the_reference()?;
    println!("the provider and the reference agree on {accesses} accesses");
    Ok(())
}

/// Binds the space to a device, which writes, reads, and is refused after the end.
fn read_by_a_device(space: &Arc<VecSpace>) -> Result<(), Box<dyn Error>> {
    let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
    let bdf = Bdf::new(0, 1, 0, 0).ok_or("no such device number")?;
    let capabilities = Capabilities::translating(PasidWidth::MAX, 8);
    let device = iommu.plug(DeviceSpec { bdf, capabilities })?.device;
    let bond = iommu.bind_device(&device, space, Bind::new(()))?;

    let (port, pasid) = (device.port(), Some(bond.pasid()));
    port.write(pasid, BASE + 100, b"by its own pointers")?;
    let mut read = [0; 19];
    port.read(pasid, BASE + 100, &mut read)?;
    println!("the device reads: {}", String::from_utf8_lossy(&read));

    let beyond = port.read(pasid, BASE + LEN - 3, &mut [0; 8]);
    println!("past the end of the memory: {}", beyond.err().ok_or("it was permitted")?);
    space.end(EndReason::Exited);
    let late = port.read(pasid, BASE, &mut [0; 8]);
    println!("after the end of the space: {}", late.err().ok_or("it was permitted")?);
    Ok(())
}

/// Makes random accesses to the provider and to the reference; both have to do the same, to the
/// byte.
fn compare_with_the_reference() -> Result<u32, Box<dyn Error>> {
    let (space, reference) = (VecSpace::new(), MemorySpace::new());
    reference.map(BASE, LEN, Protection::READ_WRITE);
    let expected = reference.handle();
    let mut random = fastrand::Rng::with_seed(7);
    const ACCESSES: u32 = 20_000;
    for _ in 0..ACCESSES {
        let pieces: Vec<Segment> = (0..random.usize(1..4))
            .map(|_| Segment {
                address: random.u64(BASE - 64..BASE + LEN + 64),
                len: random.u64(0..200),
            })
            .collect();
        let len = pieces.iter().map(|piece| piece.len).sum::<u64>() as usize;
        let data: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        let (mut here, mut there) = (vec![0; len], vec![0; len]);
        let (found, wanted) = match random.u8(0..3) {
            0 => (
                space.write(&pieces, &data, Access::WRITE),
                expected.write(&pieces, &data, Access::WRITE),
            ),
            kind => {
                let access = if kind == 1 { Access::READ } else { Access::EXECUTE };
                (space.read(&pieces, &mut here, access), expected.read(&pieces, &mut there, access))
            }
        };
        let (found, wanted) = (format!("{found:?}"), format!("{wanted:?}"));
        if (&found, &here) != (&wanted, &there) {
            return Err(format!("{pieces:?}: {found}, and not {wanted}").into());
        }
    }
    let whole = Segment { address: BASE, len: LEN };
    let mut memory = vec![0; LEN as usize];
    space.read(&[whole], &mut memory, Access::READ)?;
    if memory != reference.peek(BASE, LEN as usize) {
        return Err("the contents differ".into());
    }
    Ok(ACCESSES)
}
