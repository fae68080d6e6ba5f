//! A storm: several devices with all their page requests outstanding at once, over many spaces; and
//! how the cost of a fault grows with the number of spaces.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use rustc_hash::FxHashMap;
use sva_bench::row::{Goal, Rows, median};
use sva_core::ats::TranslationAnswer;
use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_core::pri::{FaultTimes, GroupOutcome, PrgIndex, ResponseCode, WorkerConfig};
use sva_core::{Access, AtsPort, Bind, Bond, Device, IommuConfig, Pasid, Workers};
use sva_testkit::{MemorySpace, PAGE};

use super::fixture::{BASE, absent_space, parts, requesting_device, system, us};
use crate::resident::{forget_peak, peak, resident};

const DEVICES: u16 = 4;
/// Page requests that a device has outstanding.
const CREDIT: u32 = 32;
/// Pages of a space; all numbers of spaces have spaces of one size, since looking up a page takes
/// longer in a larger one.
const PAGES: u64 = 256;

/// `alone`: the times of faults that come one at a time.
pub(super) fn run(quick: bool, alone: &FaultTimes, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let faults = if quick { 5_000 } else { 100_000 };
    storm(faults, alone, rows)?;
    growth(faults, if quick { 1 } else { 5 }, rows)
}

/// A link that passes each message on at once, and signals when a response has come.
struct Doorbell(Sender<PrgIndex>);

impl Link for Doorbell {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        ends.to_device(message);
        if let ToDevice::Response(response) = message {
            // A device whose thread has ended does not listen any more.
            let _ = self.0.send(response.index);
        }
    }
}

/// One device, for one thread.
struct Requester {
    device: Device,
    port: AtsPort,
    answered: Receiver<PrgIndex>,
    outstanding: FxHashMap<PrgIndex, (Pasid, u64)>,
}

/// Devices, spaces, and a bond of each device with each space.
struct Fixture {
    spaces: Vec<MemorySpace>,
    requesters: Vec<Requester>,
    bonds: Vec<Bond<()>>,
    pasids: Vec<Pasid>,
    _workers: Workers,
}

impl Fixture {
    fn new(spaces: usize) -> Result<Self, Box<dyn Error>> {
        let iommu = system(IommuConfig::default());
        let workers = Workers::start(&iommu, WorkerConfig::default())?;
        let mut requesters = Vec::new();
        for n in 0..DEVICES {
            let (ring, answered) = channel();
            let device = requesting_device(&iommu, n, CREDIT, Some(Arc::new(Doorbell(ring))))?;
            requesters.push(Requester {
                port: device.ats_port(),
                device,
                answered,
                outstanding: FxHashMap::default(),
            });
        }
        let spaces: Vec<_> = (0..spaces).map(|_| absent_space(PAGES)).collect();
        let (mut bonds, mut pasids) = (Vec::new(), Vec::new());
        for space in &spaces {
            for requester in &requesters {
                bonds.push(iommu.bind_device(&requester.device, &space.handle(), Bind::new(()))?);
            }
            pasids.extend(bonds.last().map(Bond::pasid));
        }
        Ok(Self { spaces, requesters, bonds, pasids, _workers: workers })
    }

    /// Has `faults` pages faulted in, in random order, by all devices at once. Answers the seconds,
    /// without those in which the pages are taken away again.
    fn fault(&mut self, faults: usize, random: &mut fastrand::Rng) -> Result<f64, Box<dyn Error>> {
        self.in_rounds(faults, random, |requester, pages| requester.fault_in(pages))
    }

    /// The same pages, by accesses that bring them in themselves.
    fn resolve(
        &mut self,
        faults: usize,
        random: &mut fastrand::Rng,
    ) -> Result<f64, Box<dyn Error>> {
        self.in_rounds(faults, random, |requester, pages| {
            let port = requester.device.port();
            pages.iter().try_for_each(|(pasid, page)| {
                port.read(Some(*pasid), *page, black_box(&mut [0; 64])).map_err(|e| e.to_string())
            })
        })
    }

    fn in_rounds(
        &mut self,
        faults: usize,
        random: &mut fastrand::Rng,
        work: impl Fn(&mut Requester, &[(Pasid, u64)]) -> Result<(), String> + Sync,
    ) -> Result<f64, Box<dyn Error>> {
        let mut all: Vec<(Pasid, u64)> = self
            .pasids
            .iter()
            .flat_map(|&pasid| (0..PAGES).map(move |page| (pasid, BASE + page * PAGE)))
            .collect();
        let (mut left, mut seconds) = (faults, 0.0);
        while left > 0 {
            random.shuffle(&mut all);
            let round = left.min(all.len());
            self.spaces.iter().for_each(|space| space.absent(BASE, PAGES * PAGE));
            let begun = Instant::now();
            let share = round.div_ceil(self.requesters.len());
            let done = std::thread::scope(|scope| {
                let threads: Vec<_> = self
                    .requesters
                    .iter_mut()
                    .zip(all[..round].chunks(share))
                    .map(|(requester, pages)| scope.spawn(|| work(requester, pages)))
                    .collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|_| Err("a device panicked".to_owned()))
                })
            });
            seconds += begun.elapsed().as_secs_f64();
            done?;
            left -= round;
        }
        Ok(seconds)
    }

    fn times(&self) -> FaultTimes {
        self.bonds.iter().fold(FaultTimes::default(), |mut all, bond| {
            all.merge(&bond.fault_times());
            all
        })
    }
}

impl Requester {
    /// Keeps as many requests outstanding as it may, and reads each page when it has come.
    fn fault_in(&mut self, pages: &[(Pasid, u64)]) -> Result<(), String> {
        let mut pages = pages.iter();
        loop {
            while self.outstanding.len() < CREDIT as usize {
                let Some(&(pasid, page)) = pages.next() else { break };
                self.ask(pasid, page)?;
            }
            if self.outstanding.is_empty() {
                return Ok(());
            }
            let index = self.answered.recv().map_err(|_| "the link is gone")?;
            self.finish(index)?;
        }
    }

    fn translate(
        &self,
        pasid: Pasid,
        page: u64,
        expected: TranslationAnswer,
    ) -> Result<(), String> {
        let asked = self
            .port
            .request_translation(Some(pasid), page, Access::READ)
            .map_err(|error| error.to_string())?;
        let answer = self.port.translation(asked);
        if answer == Some(expected) {
            Ok(())
        } else {
            Err(format!("{answer:?} where {expected:?} was to come"))
        }
    }

    fn ask(&mut self, pasid: Pasid, page: u64) -> Result<(), String> {
        self.translate(pasid, page, TranslationAnswer::NoAccess)?;
        let group = self.port.open_group(Some(pasid)).map_err(|error| error.to_string())?;
        // Before the answer can come.
        self.outstanding.insert(group, (pasid, page));
        self.port.request_page(group, page, Access::READ, true).map_err(|error| error.to_string())
    }

    fn finish(&mut self, group: PrgIndex) -> Result<(), String> {
        let (pasid, page) = self.outstanding.remove(&group).ok_or("an answer to nothing")?;
        let outcome = self.port.outcome(group);
        if outcome != Some(GroupOutcome::Response(ResponseCode::Success)) {
            return Err(format!("{outcome:?} where success was to come"));
        }
        self.translate(pasid, page, TranslationAnswer::Cached)?;
        let read = self
            .port
            .try_read(Some(pasid), page, black_box(&mut [0; 64]), Access::READ)
            .map_err(|error| error.to_string())?;
        if read == Some(64) { Ok(()) } else { Err("the translation cannot be used".to_owned()) }
    }
}

fn storm(faults: usize, alone: &FaultTimes, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let mut random = fastrand::Rng::with_seed(3);
    let grown = |before: f64| -> Result<f64, Box<dyn Error>> {
        Ok((peak()? - before) / f64::from(1 << 20))
    };
    // Growth counts from before the unmeasured first faults: with them most bonds get their
    // histograms.
    let mut fixture = Fixture::new(64)?;
    let (before, ()) = (resident()?, forget_peak()?);
    fixture.fault(faults / 100, &mut random)?;
    let seconds = fixture.fault(faults, &mut random)?;
    let storm_grown = grown(before)?;
    let mut plain = Fixture::new(64)?;
    let (before, ()) = (resident()?, forget_peak()?);
    plain.resolve(faults / 100, &mut random)?;
    let plain_seconds = plain.resolve(faults, &mut random)?;
    let plain_grown = grown(before)?;
    let what = format!("storm: {faults} faults, 64 spaces, {DEVICES} devices");
    rows.add(
        format!("{what}; plain resolving"),
        "faults/s",
        faults as f64 / seconds,
        faults as f64 / plain_seconds,
        Goal::None,
    );
    rows.add(
        "storm: peak memory growth; plain resolving",
        "MiB",
        storm_grown,
        plain_grown,
        Goal::None,
    );
    let times = fixture.times();
    for percent in [50, 99] {
        let case = format!("storm: round trip, p{percent}; one fault alone");
        rows.add(
            case,
            "us",
            us(&times.response, percent),
            us(&alone.response, percent),
            Goal::None,
        );
    }
    parts("storm", &times, rows);
    Ok(())
}

/// All take turns, so that a slow moment of the machine meets them all.
fn growth(faults: usize, rounds: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    const SPACES: [usize; 4] = [8, 1, 64, 256];
    let mut random = fastrand::Rng::with_seed(4);
    let mut fixtures =
        SPACES.iter().map(|spaces| Fixture::new(*spaces)).collect::<Result<Vec<_>, _>>()?;
    let mut each = vec![Vec::new(); fixtures.len()];
    for _ in 0..rounds {
        for (fixture, each) in fixtures.iter_mut().zip(&mut each) {
            each.push(fixture.fault(faults, &mut random)? * 1e9 / faults as f64);
        }
    }
    let figures: Vec<f64> = each.iter_mut().map(|each| median(each)).collect();
    for (spaces, figure) in SPACES.iter().zip(&figures).skip(1) {
        let goal = if *spaces == 256 { Goal::RatioAtMost(1.5) } else { Goal::None };
        rows.add(
            format!("storm: a fault, spaces {spaces}; spaces 8"),
            "ns",
            *figure,
            figures[0],
            goal,
        );
    }
    Ok(())
}
