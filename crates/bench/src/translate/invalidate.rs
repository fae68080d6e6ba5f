//! What an invalidation costs: of a page, by who reads; of many pages at once; of a PASID among
//! many.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use sva_bench::counted;
use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::{Goal, Rows, median, percentile};
use sva_bench::system::membarrier;
use sva_core::space::Invalidation;
use sva_core::{AddrRange, Bind, Bond, Iommu, IommuConfig, PasidWidth, SpaceId, SpaceWatcher};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_testkit::{ArenaSpace, FlatTopology, Protection};

use super::effort::Effort;
use super::fixture::{BASE, Fixture};
use crate::device::spec;

const PAGE: u64 = 4096;
/// Pages that are invalidated together.
const MANY: u64 = 64;
/// Pages of a process, each an entry.
const OWN: u64 = 100;
/// Further processes, in a full run and in a quick one.
const OTHERS: (usize, usize) = (10_000, 200);

pub(super) fn run(
    effort: Effort,
    allowed: &Allowed,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    one_page(effort, allowed, rows)?;
    one_pasid(effort, rows)
}

/// The instructions of this thread: what it costs others, and the kernel, is not among them.
pub(super) fn count(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::notifying(MANY, PAGE)?;
    let notifier = Notifier::of(&fixture)?;
    let (page, pasid, times) = (fixture.first(1), fixture.pasid(), effort.of(100, 10));
    let nothing = || ();
    let mut add = |who: &str, prepare: &dyn Fn(), share: usize, notify: &dyn Fn()| {
        let value = counted::each(times, prepare, notify) * share as f64;
        rows.add(
            by_reader(who),
            "operations",
            value,
            counted::each(times, nothing, barrier),
            Goal::None,
        );
    };
    let notify = || notifier.notify(page).wait();
    add(NO_READER, &nothing, 1, &notify);
    let port = fixture.port()?;
    let read = || {
        let read = port.read(Some(pasid), page, &mut [0; 64]);
        assert!(read.is_ok(), "{read:?}");
    };
    add(IDLE_READER, &read, 1, &notify);
    add(LATE_READER, &nothing, 1, &notify);
    add(&many_at_once(), &read, MANY as usize, &|| all(&notifier, &fixture).wait());
    let (many, alone) =
        (ManySpaces::new(effort.of(OTHERS.0, OTHERS.1), OWN)?, ManySpaces::new(0, OWN)?);
    let unbind = |many: &ManySpaces| {
        let bond = std::cell::RefCell::new(None);
        counted::each(
            effort.of(10, 3),
            || *bond.borrow_mut() = many.bind(&many.last).ok(),
            || drop(bond.take()),
        )
    };
    let (value, baseline) = (unbind(&many), unbind(&alone));
    rows.add(many.case(), "operations", value, baseline, Goal::None);
    Ok(())
}

const NO_READER: &str = "no reader";
const IDLE_READER: &str = "1 idle reader that had read it";
const LATE_READER: &str = "1 reader that has not read since the last";

fn many_at_once() -> String {
    format!("each of {MANY} at once, 1 idle reader")
}

fn by_reader(reader: &str) -> String {
    format!("invalidate one page, {reader}; bare membarrier")
}

/// Calls the watcher of a space as its provider would, without the provider's own work.
struct Notifier {
    space: SpaceId,
    watcher: Arc<dyn SpaceWatcher>,
}

impl Notifier {
    fn of(fixture: &Fixture) -> Result<Self, Box<dyn Error>> {
        let watcher = fixture
            .notifying
            .as_ref()
            .and_then(|space| space.watcher())
            .ok_or("nobody watches the space")?;
        Ok(Self { space: fixture.space.handle().id(), watcher })
    }

    fn notify(&self, page: u64) -> Invalidation {
        let range = AddrRange::new(page, PAGE).unwrap_or(AddrRange::ALL);
        self.watcher.invalidate(self.space, range)
    }
}

fn one_page(effort: Effort, allowed: &Allowed, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::notifying(MANY, PAGE)?;
    let notifier = Notifier::of(&fixture)?;
    let page = fixture.first(1);
    let count = effort.of(5_000, 200);
    let clock = median(&mut times(count, || ()));
    let bare = median(&mut times(count, barrier));
    let mut add = |case: &str, value: f64, goal| {
        rows.add(by_reader(case), "ns", value - clock, bare - clock, goal)
    };

    add(
        NO_READER,
        median(&mut times(count, || notifier.notify(page).wait())),
        Goal::ValueAtMost(100.0),
    );
    let port = fixture.port()?;
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        // Brings the entry back, and the port with it.
        port.read(Some(fixture.pasid()), page, &mut [0; 64])?;
        idle.extend(times(1, || notifier.notify(page).wait()));
    }
    add(IDLE_READER, median(&mut idle), Goal::ValueAtMost(1000.0));
    add(
        LATE_READER,
        median(&mut times(count, || notifier.notify(page).wait())),
        Goal::ValueAtMost(1000.0),
    );
    let mut together = Vec::with_capacity(count);
    for _ in 0..count {
        port.read(Some(fixture.pasid()), page, &mut [0; 64])?;
        together
            .extend(times(1, || all(&notifier, &fixture).wait()).iter().map(|ns| ns / MANY as f64));
    }
    add(&many_at_once(), median(&mut together), Goal::None);
    busy(effort, allowed, &fixture, &notifier, rows)
}

/// As many pages as a provider would take away at once, one by one.
fn all(notifier: &Notifier, fixture: &Fixture) -> Invalidation {
    (0..MANY).fold(Invalidation::none(), |sum, n| sum.and(notifier.notify(fixture.first(n))))
}

/// A reader on another processor that does nothing but read the page.
fn busy(
    effort: Effort,
    allowed: &Allowed,
    fixture: &Fixture,
    notifier: &Notifier,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let Some(other) = allowed.processors().nth(1) else {
        eprintln!("SKIPPED: invalidations with a busy reader, which need a second processor");
        return Ok(());
    };
    let page = fixture.first(1);
    let (stop, reads, long) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let count = effort.of(20_000, 500);
    let (port, pasid) = (fixture.device.port(), fixture.pasid());
    let (mut bare, mut value) = std::thread::scope(|scope| {
        let (stop, reads, long) = (&stop, &reads, &long);
        let reader = scope.spawn(move || -> Result<(), String> {
            run_on(other).map_err(|error| error.to_string())?;
            while !stop.load(Ordering::Relaxed) {
                let is_cached =
                    port.cached_translation(pasid, page, sva_core::Access::READ).is_some();
                long.store(long.load(Ordering::Relaxed) + u64::from(!is_cached), Ordering::Relaxed);
                port.read(Some(pasid), page, &mut [0; 64]).map_err(|error| error.to_string())?;
                reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Ok(())
        });
        while reads.load(Ordering::Relaxed) < 1000 && !reader.is_finished() {
            std::hint::spin_loop();
        }
        let mut paired = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            paired.0.extend(times(1, barrier));
            paired.1.extend(times(1, || notifier.notify(page).wait()));
        }
        stop.store(true, Ordering::Relaxed);
        reader
            .join()
            .map_err(|_| "the reader has panicked".to_owned())
            .and_then(|done| done)
            .map(|()| paired)
    })?;
    let (all, refilled) = (reads.load(Ordering::Relaxed), long.load(Ordering::Relaxed));
    for percent in [50, 99, 100] {
        let case = format!(
            "invalidate one page, busy reader, p{percent}, {all} reads, {refilled} refills; \
             membarrier"
        );
        rows.add(
            case,
            "ns",
            percentile(&mut value, percent),
            percentile(&mut bare, percent),
            Goal::None,
        );
    }
    Ok(())
}

fn barrier() {
    let passed = membarrier();
    assert!(passed.is_ok(), "{passed:?}");
}

/// Nanoseconds of each call, the clock's included.
fn times(count: usize, mut call: impl FnMut()) -> Vec<f64> {
    let one = |_| {
        let begun = Instant::now();
        call();
        begun.elapsed().as_nanos() as f64
    };
    (0..count).map(one).collect()
}

/// The last bond of a space goes, and with it all its cached translations: among those of all other
/// spaces, and alone.
fn one_pasid(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let many = ManySpaces::new(effort.of(OTHERS.0, OTHERS.1), OWN)?;
    let alone = ManySpaces::new(0, OWN)?;
    let rounds = effort.of(301, 21);
    let (mut value, mut baseline) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        value.push(many.one_more()?);
        baseline.push(alone.one_more()?);
    }
    rows.add(many.case(), "ns", median(&mut value), median(&mut baseline), Goal::RatioAtMost(2.0));
    Ok(())
}

/// Many processes, each with entries.
struct ManySpaces {
    iommu: Iommu,
    device: sva_core::Device,
    own: u64,
    others: Vec<(ArenaSpace, Bond<()>)>,
    last: ArenaSpace,
}

impl ManySpaces {
    fn new(others: usize, own: u64) -> Result<Self, Box<dyn Error>> {
        let config = IommuConfig::default().iotlb_bytes(64 << 20);
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), config);
        let device = iommu.plug(spec(0, PasidWidth::MAX)?)?.device;
        let mut many =
            Self { iommu, device, own, others: Vec::with_capacity(others), last: space(own) };
        for _ in 0..others {
            let space = space(own);
            let bond = many.bind(&space)?;
            many.others.push((space, bond));
        }
        Ok(many)
    }

    fn bind(&self, space: &ArenaSpace) -> Result<Bond<()>, Box<dyn Error>> {
        let bond = self.iommu.bind_device(&self.device, &space.handle(), Bind::new(()))?;
        let port = self.device.port();
        for page in 0..self.own {
            port.read(Some(bond.pasid()), BASE + page * 2 * PAGE, &mut [0; 8])?;
        }
        Ok(bond)
    }

    /// While nobody is bound but the others.
    fn case(&self) -> String {
        let (others, entries) = (self.others.len(), self.iommu.iotlb_usage().entries);
        format!(
            "invalidate one PASID of {} entries among {others} with {entries}; the only PASID",
            self.own
        )
    }

    /// Nanoseconds until the bond of one more space is gone.
    fn one_more(&self) -> Result<f64, Box<dyn Error>> {
        let bond = self.bind(&self.last)?;
        let begun = Instant::now();
        bond.unbind();
        Ok(begun.elapsed().as_nanos() as f64)
    }
}

/// A space whose pages are not contiguous.
fn space(pages: u64) -> ArenaSpace {
    let space = ArenaSpace::new(pages * PAGE);
    for page in 0..pages {
        space.map(BASE + page * 2 * PAGE, PAGE, Protection::READ_WRITE);
    }
    space
}
