//! A thread that accesses as a device, and checks each access against what held meanwhile.

mod accesses;

use std::sync::Arc;

use sva_core::{Access, DmaError, DmaPort, FaultReason, Pasid, Segment};
use sva_sync::atomic::{Ordering, fence};
use sva_testkit::PAGE;

use crate::life::{Look, Reach, Span, TieLook};
use crate::spy;
use crate::tally::Tally;
use crate::tenant::BURIED;
use crate::world::{PAGES, Site, World};

/// Pages of one transaction at most.
const MOST: usize = 16;
/// Words that are stored before a read that is to be seen late.
const COLD: usize = 100;

/// A transaction is wrong: in words.
type Defect = String;

pub(crate) struct DeviceThread {
    world: Arc<World>,
    number: usize,
    /// Of 256 accesses so many are late.
    late: u8,
    device: usize,
    port: DmaPort,
    rng: fastrand::Rng,
    tally: Tally,
    buf: Vec<u8>,
    /// Writes and atomic operations, each with a number of its own.
    written: u64,
    /// What this thread knows to stand in its line and its word of a page, and in which contents.
    lines: Vec<Option<(u32, u64)>>,
    words: Vec<Option<(u32, u64)>>,
}

/// A transaction that was made: what held meanwhile, and how far it went.
struct Made {
    spans: [Span; MOST],
    /// Pieces that were accessed.
    done: usize,
    /// Whether the device was bound all the time.
    bound: bool,
}

impl DeviceThread {
    pub(crate) fn new(world: Arc<World>, number: usize, late: u8, seed: u64) -> Self {
        let device = number % world.devices.len();
        let (port, own) = (world.devices[device].port(), world.sites.len() * PAGES);
        Self {
            number,
            late,
            device,
            port,
            rng: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
            buf: vec![0; MOST * PAGE as usize],
            written: 0,
            lines: vec![None; own],
            words: vec![None; own],
            world,
        }
    }

    /// Until the devices are told that it is over.
    pub(crate) fn run(mut self) -> Tally {
        let world = Arc::clone(&self.world);
        while !world.devices_over.load(Ordering::Relaxed) {
            for _ in 0..256 {
                if let Err(defect) = self.step(&world) {
                    world.report(format!(
                        "thread {} as device {}: {defect}",
                        self.number, self.device
                    ));
                    return self.tally;
                }
            }
            world.accesses[self.number].store(self.tally.accesses, Ordering::Relaxed);
        }
        self.tally
    }

    fn step(&mut self, world: &World) -> Result<(), Defect> {
        let site = &world.sites[self.rng.usize(0..world.sites.len())];
        let page = self.rng.usize(0..world.pages);
        if self.rng.u8(..) < self.late {
            return self
                .read_late(world, site, page)
                .map_err(|defect| format!("a late read: {defect}"));
        }
        let (what, outcome) = match self.rng.u8(..) {
            0..=155 => ("a read", self.read_stamps(site, page)),
            156..=159 => ("a stray read", self.stray(world, site, page)),
            160..=191 => ("a write", self.scatter_to(site, &[page])),
            192..=209 => ("a read of its own", self.read_line(site, page)),
            210..=227 => ("an atomic operation", self.operate(site, page)),
            228..=231 => ("an addition", self.add(site)),
            232..=239 => ("a gather", self.gather(site, page)),
            240..=247 => ("a scatter", self.scatter(site, page)),
            248..=251 => ("a long read", self.read_long(site, page)),
            _ => ("a look at slices", self.look(site, page)),
        };
        outcome.map_err(|defect| format!("{what}: {defect}"))
    }

    /// Makes a transaction of pieces of `each` bytes, one in each of `pages`, and judges what came
    /// of it; `op` makes it, with the PASID that the device has, or had last. `None` before the
    /// first bind.
    #[inline]
    fn made(
        &mut self,
        site: &Site,
        pages: &[usize],
        each: usize,
        write: bool,
        op: impl FnOnce(&DmaPort, Pasid, &mut [u8]) -> Result<(), DmaError>,
    ) -> Result<Option<Made>, Defect> {
        let tie = site.ties[self.device].look();
        let Some(pasid) = tie.pasid() else { return Ok(None) };
        let mut spans = [Span { before: Look::NONE, after: Look::NONE }; MOST];
        for (span, page) in spans.iter_mut().zip(pages) {
            span.before = site.pages[*page].look();
        }
        let asked = spy::asked();
        let result = op(&self.port, pasid, &mut self.buf[..pages.len() * each]);
        let kept = spy::asked() == asked;
        // What was accessed was accessed before.
        fence(Ordering::Acquire);
        let mut moved = false;
        let mut began = false;
        for (span, page) in spans.iter_mut().zip(pages) {
            span.after = site.pages[*page].look();
            moved |= span.settled().is_none();
            began |= span.began();
        }
        let ties = (tie, site.ties[self.device].look());
        let bound = ties.0.bound_until(ties.1);
        self.tally.count(
            result.is_ok(),
            kept,
            moved || !bound && !ties.0.unbound_until(ties.1),
            began,
        );
        let done = judge(site, pages, each, write, &spans, ties, &result)?;
        Ok(Some(Made { spans, done, bound }))
    }

    /// Works on slices of whole pages in place.
    fn look(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let pages: [usize; 4] = std::array::from_fn(|n| page + n);
        let pages = &pages[..self.rng.usize(1..=4).min(self.world.pages - page)];
        let piece = Segment { address: site.address(page), len: pages.len() as u64 * PAGE };
        let made = self.made(site, pages, PAGE as usize, false, |port, pasid, buf| {
            port.with_memory(Some(pasid), piece, Access::READ, |slices| {
                slices.iter().fold(0, |at, slice| at + slice.copy_to(&mut buf[at..]));
            })
        })?;
        // All or nothing: what comes before a fault has not been looked at.
        let Some(made) = made.filter(|made| made.done == pages.len()) else { return Ok(()) };
        if made.bound {
            return self.check(site, pages, 0, PAGE as usize, Some(made));
        }
        // Slices in hand outlive the end of a space, which waits for nobody's code, but no unbind.
        let late = self.buf[..pages.len() * PAGE as usize]
            .chunks_exact(8)
            .any(|word| *word == BURIED[..8]);
        if late {
            Err(format!("{:?} was read when the device had been unbound", site.name(page)))
        } else {
            Ok(())
        }
    }

    /// Looks at what was read from `at` on of the pages that were.
    #[inline]
    fn check(
        &self,
        site: &Site,
        pages: &[usize],
        at: usize,
        each: usize,
        made: Option<Made>,
    ) -> Result<(), Defect> {
        let Some(Made { spans, done, .. }) = made else { return Ok(()) };
        for (n, page) in pages.iter().enumerate().take(done) {
            if let Some((at, word)) =
                site.name(*page).foreign(spans[n], at, &self.buf[n * each..][..each])
            {
                return Err(format!(
                    "{word:#x} was read at {at:#x} of {:?}, which was {}",
                    site.name(*page),
                    spans[n]
                ));
            }
        }
        Ok(())
    }
}

/// `each` bytes from `at` on of each of up to [`MOST`] pages.
fn pieces(site: &Site, pages: &[usize], at: usize, each: usize) -> [Segment; MOST] {
    let piece = |page: usize| Segment { address: site.address(page) + at as u64, len: each as u64 };
    std::array::from_fn(|n| piece(pages.get(n).copied().unwrap_or(0)))
}

/// How many pieces a transaction has accessed, where all that may be.
#[inline]
fn judge(
    site: &Site,
    pages: &[usize],
    each: usize,
    write: bool,
    spans: &[Span; MOST],
    ties: (TieLook, TieLook),
    result: &Result<(), DmaError>,
) -> Result<usize, Defect> {
    let done = match result {
        Ok(()) => pages.len(),
        Err(error) => error.done as usize / each,
    };
    let what = if write { "written to" } else { "read" };
    if done > 0 && ties.0.unbound_until(ties.1) {
        return Err(format!("{:?} was {what} by a device that was not bound", site.name(pages[0])));
    }
    if let Some(n) = (0..done).find(|n| !spans[*n].may(|state| state.permits(write))) {
        return Err(format!("{:?} was {what}, and it was {}", site.name(pages[n]), spans[n]));
    }
    let Err(error) = result else { return Ok(done) };
    let Some(fault) = error.fault() else { return Err(format!("no fault: {error}")) };
    let bound = ties.0.bound_until(ties.1);
    let (name, span) = (site.name(pages[done]), spans[done]);
    let right = (error.done as usize).is_multiple_of(each)
        && match fault.reason {
            FaultReason::NotMapped => !bound || span.may(|state| !state.mapped()),
            FaultReason::Denied => {
                !bound || span.may(|state| state.mapped() && !state.permits(write))
            }
            FaultReason::NotBound | FaultReason::SpaceEnded => !bound,
            // It was brought in a thousand times, and gone each time.
            FaultReason::NotPresent => {
                span.settled().is_none() && span.may(|state| state.reach != Reach::Gone)
            }
            _ => false,
        };
    if right {
        Ok(done)
    } else {
        Err(format!("{name:?} was not {what} after {} bytes: {fault}; it was {span}", error.done))
    }
}
