//! Two threads: one takes pages away and uses their memory for others, the other one reads and
//! writes them.

use std::thread;

use super::*;

const PAGES: usize = 4;
const ROUNDS: u32 = 3000;

/// What one page holds: its number and the round in which it was mapped, in every word.
fn canary(page: usize, round: u32) -> u64 {
    (page as u64 + 1) << 32 | u64::from(round)
}

/// The first round of each page that a read may still see.
#[derive(Default)]
struct Oldest([AtomicU64; PAGES]);

/// Reads a page by address, and says what is wrong with what came.
fn look(space: &dyn AddressSpace, page: usize, oldest: &Oldest) -> Result<bool, String> {
    let from = oldest.0[page].load(Ordering::SeqCst);
    let mut buf = [0; PAGE as usize];
    if space.read(&[piece(BASE + page as u64 * PAGE, PAGE)], &mut buf, Access::READ).is_err() {
        return Ok(false);
    }
    for word in
        buf.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
    {
        let ok = word == 0 || (word >> 32 == page as u64 + 1 && word & u64::from(u32::MAX) >= from);
        if !ok {
            return Err(format!("page {page} read {word:#x}, where the oldest is of round {from}"));
        }
    }
    Ok(true)
}

fn change(space: &ArenaSpace, round: u32, oldest: &Oldest) {
    let page = round as usize % PAGES;
    let address = BASE + page as u64 * PAGE;
    match round / PAGES as u32 % 4 {
        0 => space.unmap(address, PAGE),
        1 => space.absent(address, PAGE),
        2 => space.replace(BASE, PAGES as u64 * PAGE),
        _ => space.remap(address, PAGE, BASE + 64 * PAGE),
    }
    if round / PAGES as u32 % 4 != 2 {
        oldest.0[page].store(u64::from(round), Ordering::SeqCst);
    }
    space.map(address, PAGE, Protection::READ_WRITE);
    oldest.0[page].store(u64::from(round), Ordering::SeqCst);
    space.poke(address, &canary(page, round).to_ne_bytes().repeat(PAGE as usize / 8));
}

// shows T2
#[test]
fn the_providers_copy_never_sees_memory_that_has_found_another_use() {
    // As few pages as there can be, so that each is used again at once.
    let space = ArenaSpace::new((2 * PAGES as u64 + 1) * PAGE).poisoning();
    let (handle, oldest, over) = (space.handle(), Oldest::default(), AtomicBool::default());
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0u64;
            while !over.load(Ordering::Relaxed) {
                for page in 0..PAGES {
                    seen += u64::from(look(&*handle, page, &oldest)?);
                }
            }
            Ok::<_, String>(seen)
        });
        for round in 0..ROUNDS {
            change(&space, round, &oldest);
        }
        over.store(true, Ordering::Relaxed);
        reader.join().expect("no panic")
    });
    assert!(seen.expect("no stale word") > 0);
    assert_eq!(space.stale_write(), None);
}
