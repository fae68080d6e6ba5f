//! One fault at a time in memory: with a worker thread beside the bare hand-over between two
//! threads, and on one thread beside an access that brings its page in itself.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::{Goal, Rows};
use sva_core::ats::TranslationAnswer;
use sva_core::pri::{FaultTimes, GroupOutcome, Histogram, ResponseCode, WorkerConfig};
use sva_core::{Access, AtsPort, Bind, Iommu, IommuConfig, Pasid, Workers};
use sva_sync::{Condvar, Mutex};
use sva_testkit::PAGE;

use super::fixture::{BASE, absent_space, parts, requesting_device, system, us};

/// Faults in a round; then the baseline has its turn.
const BATCH: usize = 200;

/// Answers the times of the faults with a worker thread.
pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<FaultTimes, Box<dyn Error>> {
    let rounds = if quick { 5 } else { 200 };
    // Where the two threads run decides how long a wake-up takes, tenfold: the scheduler is not
    // left to choose, differently for value and baseline.
    let allowed = Allowed::now()?;
    let mut processors = allowed.processors();
    let first = processors.next().ok_or("no processor")?;
    let same = with_a_worker("same processor", first, first, rounds, rows);
    let other = processors
        .next()
        .map(|second| with_a_worker("another processor", first, second, rounds, rows));
    allowed.restore()?;
    let times = same?;
    other.transpose()?;
    on_one_thread(rounds, rows)?;
    Ok(times)
}

fn with_a_worker(
    place: &str,
    own: usize,
    workers: usize,
    rounds: usize,
    rows: &mut Rows,
) -> Result<FaultTimes, Box<dyn Error>> {
    let iommu = system(IommuConfig::default());
    let device = requesting_device(&iommu, 0, 32, None)?;
    let space = absent_space(1);
    let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
    run_on(workers)?;
    let _workers = Workers::start(&iommu, WorkerConfig::default().threads(1).max_threads(1))?;
    let (echo, mut handed_over) = (Echo::start(), Histogram::default());
    run_on(own)?;
    let port = device.ats_port();
    for _ in 0..rounds {
        for _ in 0..BATCH {
            space.absent(BASE, PAGE);
            port.read(Some(bond.pasid()), BASE, black_box(&mut [0; 64]))?;
        }
        for _ in 0..BATCH {
            let begun = Instant::now();
            echo.there_and_back();
            handed_over.record(begun.elapsed());
        }
    }
    let times = bond.fault_times();
    all_faulted(times.response.count(), rounds)?;
    for percent in [50, 99] {
        let goal = if percent == 50 { Goal::RatioAtMost(2.0) } else { Goal::None };
        let case = format!("fault, worker on {place}, p{percent}, two condvar wake-ups");
        rows.add(case, "us", us(&times.response, percent), us(&handed_over, percent), goal);
    }
    parts(&format!("fault, worker on {place}"), &times, rows);
    Ok(times)
}

fn all_faulted(faults: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let expected = (rounds * BATCH) as u64;
    if faults == expected {
        Ok(())
    } else {
        Err(format!("{faults} faults where {expected} were to be").into())
    }
}

/// Two threads that wake one another, and do nothing else.
struct Echo {
    shared: Arc<(Mutex<Turn>, Condvar, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ours,
    Theirs,
    Over,
}

impl Echo {
    fn start() -> Self {
        let shared = Arc::new((Mutex::new(Turn::Ours), Condvar::new(), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let (turn, there, back) = &*theirs;
            let mut turn = turn.lock();
            while *turn != Turn::Over {
                if *turn == Turn::Theirs {
                    *turn = Turn::Ours;
                    back.notify_one();
                }
                turn = there.wait(turn);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    fn there_and_back(&self) {
        let (turn, there, back) = &*self.shared;
        *turn.lock() = Turn::Theirs;
        there.notify_one();
        let mut turn = turn.lock();
        while *turn != Turn::Ours {
            turn = back.wait(turn);
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        *self.shared.0.lock() = Turn::Over;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn on_one_thread(rounds: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let iommu = system(IommuConfig::default());
    let device = requesting_device(&iommu, 0, 32, None)?;
    let space = absent_space(1);
    let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
    let (port, plain) = (device.ats_port(), device.port());
    let (mut stepwise, mut resolving) = (Histogram::default(), Histogram::default());
    for _ in 0..rounds {
        for _ in 0..BATCH {
            space.absent(BASE, PAGE);
            let begun = Instant::now();
            fault(&iommu, &port, bond.pasid())?;
            stepwise.record(begun.elapsed());
        }
        for _ in 0..BATCH {
            space.absent(BASE, PAGE);
            let begun = Instant::now();
            plain.read(Some(bond.pasid()), BASE, black_box(&mut [0; 64]))?;
            resolving.record(begun.elapsed());
        }
    }
    all_faulted(bond.fault_times().response.count(), rounds)?;
    for percent in [50, 99] {
        let case = format!("fault, all on one thread, p{percent}, access that resolves");
        rows.add(case, "us", us(&stepwise, percent), us(&resolving, percent), Goal::None);
    }
    parts("fault, all on one thread", &bond.fault_times(), rows);
    Ok(())
}

/// Requests a translation of an absent page, requests the page, resolves it, and reads by the
/// translation that there is then.
fn fault(iommu: &Iommu, port: &AtsPort, pasid: Pasid) -> Result<(), Box<dyn Error>> {
    let request = port.request_translation(Some(pasid), BASE, Access::READ)?;
    if port.translation(request) != Some(TranslationAnswer::NoAccess) {
        return Err("the page was there".into());
    }
    let group = port.open_group(Some(pasid))?;
    port.request_page(group, BASE, Access::READ, true)?;
    while iommu.sort_page_request() {}
    iommu.next_page_request_job().ok_or("there is nothing to resolve")?.run();
    if port.outcome(group) != Some(GroupOutcome::Response(ResponseCode::Success)) {
        return Err("the page cannot be had".into());
    }
    let request = port.request_translation(Some(pasid), BASE, Access::READ)?;
    if port.translation(request) != Some(TranslationAnswer::Cached) {
        return Err("there is no translation after the fault".into());
    }
    let read = port.try_read(Some(pasid), BASE, black_box(&mut [0; 64]), Access::READ)?;
    if read == Some(64) { Ok(()) } else { Err("the translation cannot be used".into()) }
}
