//! Accesses through cached translations, beside the bare copy or operation at the same addresses.

use std::cell::RefCell;
use std::error::Error;
use std::hint::black_box;

use sva_bench::row::{Goal, Rows};
use sva_core::{AddressSpace, DmaPort, Frame};
use vm_memory::{VolatileMemory, VolatileSlice};

use super::effort::{Effort, turns};
use super::fixture::Fixture;
use super::hit::look_up;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LINE: usize = 64;

pub(super) fn run(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    copies(
        effort,
        Case { what: "64 B, hot", extents: 4, extent: 4 * KIB, len: 64, more: 5.0 },
        rows,
    )?;
    copies(
        effort,
        Case { what: "4 KiB, hot", extents: 4, extent: 64 * KIB, len: 4 * KIB, more: 10.0 },
        rows,
    )?;
    copies(
        effort,
        Case { what: "1 MiB, hot", extents: 1, extent: MIB, len: MIB, more: 10.0 },
        rows,
    )?;
    let scale = effort.of(1, 16) as u64;
    for (what, extent) in [
        ("64 B over 1 GiB, 1 range of 1 GiB", 1024 * MIB),
        ("64 B over 1 GiB, ranges of 2 MiB", 2 * MIB),
        ("64 B over 1 GiB, ranges of 4 KiB", 4 * KIB),
    ] {
        let extents = (1024 * MIB / extent / scale).max(1);
        copies(effort, Case { what, extents, extent, len: 64, more: 5.0 }, rows)?;
    }
    atomics(effort, rows)
}

struct Case {
    what: &'static str,
    extents: u64,
    /// Bytes of an extent.
    extent: u64,
    len: u64,
    /// Nanoseconds above the bare copy.
    more: f64,
}

fn copies(effort: Effort, case: Case, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let Case { what, extents, extent, len, more } = case;
    let fixture = Fixture::new(extents, extent)?;
    let (port, pasid) = (fixture.port()?, fixture.pasid());
    let handle = fixture.space.handle();
    // Of much memory so many that no cache near by holds what they lead to; instructions are the
    // same for fewer.
    let count = match extents * extent {
        _ if len > 64 * KIB => 64,
        all if all > 64 * MIB && !effort.counted => effort.of(1 << 18, 1 << 14),
        _ => 1 << 14,
    };
    let addresses = fixture.addresses(count, len);
    // The same memory, found beforehand.
    let places: Vec<_> = addresses
        .iter()
        .map(|address| memory(&*handle, look_up(&port, pasid, *address), len))
        .collect::<Option<_>>()
        .ok_or("no memory")?;
    // One for both: two are not equally far from the memory in the caches.
    let mut buffer = vec![0u8; len as usize + LINE];
    let buffer = RefCell::new(aligned(&mut buffer, len as usize));
    let rounds = effort.of(if count > 1 << 14 { 15 } else { 301 }, 5);
    for dependent in [false, true] {
        let (value, baseline) = turns(
            effort,
            rounds,
            addresses.len(),
            |_| read_all(&port, pasid, &addresses, &mut buffer.borrow_mut(), dependent),
            |_| copy_all(&places, &mut buffer.borrow_mut(), dependent),
        );
        let how = if dependent { "dependent" } else { "independent" };
        rows.add(
            format!("read {what}, {how}; bare copy of the same addresses"),
            "ns",
            value,
            baseline,
            Goal::MoreAtMost(more),
        );
        if len > 64 {
            // What is read decides nothing where the copy takes long.
            break;
        }
    }
    let (value, baseline) = turns(
        effort,
        rounds,
        addresses.len(),
        |_| write_all(&port, pasid, &addresses, &buffer.borrow()),
        |_| put_all(&places, &buffer.borrow()),
    );
    rows.add(
        format!("write {what}; bare copy of the same addresses"),
        "ns",
        value,
        baseline,
        Goal::MoreAtMost(more),
    );
    Ok(())
}

/// The part that begins where a line of the processor's cache does: a copy that goes over the end
/// of one takes longer, in one run and not in the next.
fn aligned(buffer: &mut [u8], len: usize) -> &mut [u8] {
    let at = buffer.as_ptr().align_offset(LINE);
    &mut buffer[at..at + len]
}

fn memory(space: &dyn AddressSpace, frame: u64, len: u64) -> Option<VolatileSlice<'_>> {
    space.memory(Frame(frame), len as usize, true)
}

/// The memory is zero, which the processor does not know: with `dependent` the next address waits
/// for what was read.
fn read_all(
    port: &DmaPort,
    pasid: sva_core::Pasid,
    addresses: &[u64],
    buffer: &mut [u8],
    dependent: bool,
) {
    let mut carried = 0;
    for address in addresses {
        let read = port.read(Some(pasid), *address + carried, buffer);
        assert!(read.is_ok(), "{read:?}");
        carried = if dependent { u64::from(buffer[0]) } else { 0 };
    }
    black_box(buffer);
}

fn copy_all(places: &[VolatileSlice<'_>], buffer: &mut [u8], dependent: bool) {
    let mut carried = 0;
    for place in places {
        let at = if dependent { place.offset(carried).unwrap_or(*place) } else { *place };
        at.copy_to(buffer);
        carried = if dependent { usize::from(buffer[0]) } else { 0 };
    }
    black_box(buffer);
}

fn put_all(places: &[VolatileSlice<'_>], data: &[u8]) {
    places.iter().for_each(|place| place.copy_from(data));
}

fn write_all(port: &DmaPort, pasid: sva_core::Pasid, addresses: &[u64], data: &[u8]) {
    for address in addresses {
        let written = port.write(Some(pasid), *address, data);
        assert!(written.is_ok(), "{written:?}");
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "the space's memory, and nothing that a model would see"
)]
fn atomics(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let fixture = Fixture::new(1, 4 * KIB)?;
    let (port, pasid) = (fixture.port()?, fixture.pasid());
    let handle = fixture.space.handle();
    let addresses = fixture.addresses(512, 8);
    let places: Vec<_> = addresses
        .iter()
        .map(|address| memory(&*handle, look_up(&port, pasid, *address), 8))
        .collect::<Option<_>>()
        .ok_or("no memory")?;
    let words: Vec<&AtomicU64> =
        places.iter().map(|place| place.get_atomic_ref(0)).collect::<Result<_, _>>()?;
    let (value, baseline) = turns(
        effort,
        effort.of(301, 11),
        addresses.len(),
        |_| {
            for address in &addresses {
                let added = port.fetch_add(Some(pasid), *address, 1u64);
                assert!(added.is_ok(), "{added:?}");
            }
        },
        |_| {
            words.iter().for_each(|word| {
                black_box(word.fetch_add(1, Ordering::SeqCst));
            });
        },
    );
    rows.add("atomic fetch-add, hot; the bare one", "ns", value, baseline, Goal::MoreAtMost(5.0));
    Ok(())
}
