//! Spaces whose every page says whose it is, where, and since which change.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU64, Ordering};
use sva_testkit::{MemorySpace, PAGE, Protection};

use crate::support::*;

/// Pages that devices access; changes of one of them take turns.
pub(super) const DATA: u64 = 12;
/// Where a new page is made ready before it is moved to its place.
const SPARE: u64 = BASE + 14 * PAGE;
/// Where in a page the first device writes; each has 32 bytes.
const WRITTEN: u64 = 64;

/// When a page had which stamp. Generation `n` can be read from when it is in `started` until
/// another is in `published`.
#[derive(Default)]
struct Ledger {
    turn: Mutex<()>,
    started: AtomicU64,
    published: AtomicU64,
}

/// A space whose pages are marked.
pub(super) struct Marked {
    pub(super) memory: MemorySpace,
    mark: u64,
    ledgers: Vec<Ledger>,
    spare: Mutex<()>,
}

/// What a read may find: nothing older than this.
#[derive(Clone, Copy)]
pub(super) struct Since {
    page: u64,
    version: u64,
}

pub(super) fn address_of(page: u64) -> u64 {
    BASE + page * PAGE
}

/// Where a device writes in a page.
pub(super) fn written_at(page: u64, device: u8) -> u64 {
    address_of(page) + WRITTEN + 32 * u64::from(device)
}

impl Marked {
    pub(super) fn new(mark: u64) -> Arc<Self> {
        let ledgers = (0..DATA).map(|_| Ledger::default()).collect();
        let marked = Arc::new(Self { memory: space(), mark, ledgers, spare: Mutex::default() });
        (0..DATA).for_each(|page| marked.memory.poke(address_of(page), &marked.stamp(page, 0)));
        let (weak, count) = (Arc::downgrade(&marked), AtomicU64::new(mark));
        marked.memory.on_resolve(move |at| resolve(&weak, at, &count));
        marked
    }

    fn stamp(&self, page: u64, version: u64) -> [u8; 24] {
        let mut stamp = [0; 24];
        for (part, number) in stamp.chunks_exact_mut(8).zip([self.mark, page, version]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        stamp
    }

    /// To be asked before a read of the page begins.
    pub(super) fn since(&self, page: u64) -> Since {
        Since { page, version: self.ledgers[page as usize].published.load(Ordering::Acquire) }
    }

    /// What was read is what the page held at an instant since (rule T2).
    pub(super) fn check(&self, since: Since, found: &[u8; 24], how: &str) {
        let Since { page, version } = since;
        let latest = self.ledgers[page as usize].started.load(Ordering::Acquire);
        let may_be_new = latest > version && found == &[0; 24];
        let held = (version..=latest).any(|version| *found == self.stamp(page, version));
        assert!(
            may_be_new || held,
            "{how}: page {page} of space {} held {found:?}, not {version}..={latest}",
            self.mark
        );
    }

    /// Whether it is the stamp of this page in some space at some time, or the page is just being
    /// made.
    pub(super) fn is_canary(page: u64, found: &[u8; 24]) -> bool {
        found == &[0; 24] || found[8..16] == page.to_le_bytes() && found[..8] != [0; 8]
    }

    /// Zeroes what a device that is bound no more has written, and sees that it stays so (rule U2).
    pub(super) fn stays_unwritten(&self, page: u64, device: u8) {
        let _turn = self.ledgers[page as usize].turn.lock();
        let at = written_at(page, device);
        self.memory.poke(at, &[0; 32]);
        std::thread::yield_now();
        assert_eq!(self.memory.peek(at, 32), [0; 32], "device {device} wrote after its unbind");
    }

    /// Changes the space in one way or another, and waits for the devices.
    pub(super) fn change(&self, random: &mut fastrand::Rng) {
        let page = random.u64(..DATA);
        match random.u32(..9) {
            // Often: one run of frames again, so that there are large translations among small
            // ones.
            0..=2 => self.memory.replace(BASE, DATA * PAGE),
            3 => self.memory.replace(address_of(page), PAGE),
            4 => self.memory.absent(address_of(page), random.u64(1..=DATA - page) * PAGE),
            5 => self.make_anew(page),
            6 => self.write_protect(page),
            7 => self.move_in(page),
            _ => self.forbid(page),
        }
    }

    /// Unmaps the page and maps another.
    fn make_anew(&self, page: u64) {
        let ledger = &self.ledgers[page as usize];
        let _turn = ledger.turn.lock();
        let version = ledger.started.load(Ordering::Relaxed) + 1;
        ledger.started.store(version, Ordering::Release);
        self.memory.unmap(address_of(page), PAGE);
        self.memory.map(address_of(page), PAGE, Protection::READ_WRITE);
        self.memory.poke(address_of(page), &self.stamp(page, version));
        ledger.published.store(version, Ordering::Release);
    }

    /// Moves a page that has been made ready to the place of another.
    fn move_in(&self, page: u64) {
        let ledger = &self.ledgers[page as usize];
        let (_turn, _spare) = (ledger.turn.lock(), self.spare.lock());
        let version = ledger.started.load(Ordering::Relaxed) + 1;
        self.memory.map(SPARE, PAGE, Protection::READ_WRITE);
        self.memory.poke(SPARE, &self.stamp(page, version));
        ledger.started.store(version, Ordering::Release);
        self.memory.remap(SPARE, PAGE, address_of(page));
        ledger.published.store(version, Ordering::Release);
    }

    /// Nobody writes to a page once it may only be read.
    fn write_protect(&self, page: u64) {
        let _turn = self.ledgers[page as usize].turn.lock();
        self.memory.protect(address_of(page), PAGE, Protection::READ);
        let before = self.memory.peek(address_of(page), PAGE as usize);
        std::thread::yield_now();
        assert_eq!(
            self.memory.peek(address_of(page), PAGE as usize),
            before,
            "a device wrote to a page that may only be read"
        );
        self.memory.protect(address_of(page), PAGE, Protection::READ_WRITE);
    }

    fn forbid(&self, page: u64) {
        let _turn = self.ledgers[page as usize].turn.lock();
        self.memory.protect(address_of(page), PAGE, Protection::NONE);
        self.memory.protect(address_of(page), PAGE, Protection::READ_WRITE);
    }
}

/// Slow at times, refuses at times, and at times changes the space first, as a provider that makes
/// room.
fn resolve(space: &Weak<Marked>, at: u64, count: &AtomicU64) -> bool {
    let turn = count.fetch_add(1, Ordering::Relaxed);
    let Some(space) = space.upgrade() else { return false };
    match turn % 16 {
        0 => std::thread::sleep(Duration::from_millis(3)),
        1 => return false,
        2 => space.memory.replace(at ^ PAGE, PAGE),
        _ => {}
    }
    true
}
