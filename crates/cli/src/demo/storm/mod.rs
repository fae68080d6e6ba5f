//! `sva demo --faults`: a storm of page requests, in which everything happens that can befall them.
//!
//! Devices fault all the time, each access at a page that is not there. Meanwhile a space is slow,
//! the queue overflows, a space ends, a bond is unbound.

mod gate;
mod live;
mod runner;
mod scene;
mod table;

use sva_core::event::ObjectCounts;
use sva_core::pri::ResponseCode;
use sva_core::pri::{GroupOutcome, PageRequestError, PrgIndex};
use sva_core::{Access, AtsPort, Device, EndReason, FaultReason, Pasid};
use sva_sync::atomic::Ordering;
use sva_testkit::PAGE;

use super::Stage;
use super::claim::Figures;
use super::failure::Failure;
use scene::{Place, Scene};
pub(super) use table::{BondTimes, text};

/// Where the in-memory spaces have their memory.
const BASE: u64 = 0x7000_0000_0000;
/// Accesses of each runner that make a step of the story.
const STEP: u64 = 200;
const INVALID: GroupOutcome = GroupOutcome::Response(ResponseCode::InvalidRequest);
const SUCCESS: GroupOutcome = GroupOutcome::Response(ResponseCode::Success);

pub(super) fn tell(stage: &mut Stage) -> Result<(), Failure> {
    let mut scene = Scene::new(stage)?;
    begins(stage, &scene)?;
    slow(stage, &scene)?;
    overflows(stage, &mut scene)?;
    ends(stage, &mut scene)?;
    unbound(stage, &mut scene)?;
    stills(stage, scene)
}

fn begins(stage: &mut Stage, scene: &Scene) -> Result<(), Failure> {
    scene.advance(stage, "the storm begins", STEP, |_| true)?;
    let counts = scene.machine.iommu.page_counts();
    let all = scene.ties.iter().all(|tie| tie.runner.accesses() >= STEP) && counts.groups > 0;
    let figures = Figures::new().count("groups", counts.groups);
    stage.claim(&["F1"], "three devices fault in four spaces and a process at once", all, figures);
    Ok(())
}

fn slow(stage: &mut Stage, scene: &Scene) -> Result<(), Failure> {
    let gate = &scene.memory(Place::Slow)?.gate;
    gate.shut();
    scene.until(stage, "a space becomes slow", || gate.holds_somebody())?;
    let slow = || scene.of(Place::Slow).map(|tie| tie.runner.accesses()).sum::<u64>();
    let before = slow();
    let others = scene.advance(stage, "the others go on", STEP, |place| place != Place::Slow)?;
    // The access under way, and one more where a page had just been resolved.
    let stood =
        gate.holds_somebody() && slow() - before <= 2 * scene.of(Place::Slow).count() as u64;
    gate.open();
    let resumed =
        scene.advance(stage, "it is slow no longer", STEP, |place| place == Place::Slow)?;
    let figures = Figures::new().count("accesses", others);
    stage.claim(
        &["S3"],
        "while one space stands still, the others go on",
        stood && others > 0 && resumed > 0,
        figures,
    );
    Ok(())
}

/// Asks for pages, each in a group of its own, until it has `most` or the device may ask no more.
fn burst(port: &AtsPort, pasid: Pasid, most: usize) -> Result<Vec<PrgIndex>, Failure> {
    let mut groups = Vec::new();
    while groups.len() < most {
        let group = match port.open_group(Some(pasid)) {
            Ok(group) => group,
            Err(PageRequestError::NoCredit { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        port.request_page(group, BASE + groups.len() as u64 * PAGE, Access::WRITE, true)?;
        groups.push(group);
    }
    Ok(groups)
}

/// Waits for what comes of groups; how many came to `expected`.
fn outcomes(
    stage: &Stage,
    scene: &Scene,
    port: &AtsPort,
    groups: &[PrgIndex],
    expected: GroupOutcome,
) -> Result<usize, Failure> {
    let mut as_expected = 0;
    for group in groups {
        let mut outcome = None;
        scene.until(stage, "a group is answered", || {
            outcome = port.outcome(*group);
            outcome.is_some()
        })?;
        as_expected += usize::from(outcome == Some(expected));
    }
    Ok(as_expected)
}

fn overflows(stage: &mut Stage, scene: &mut Scene) -> Result<(), Failure> {
    scene.rest();
    // Once all wait, nobody asks beside us; an access that is answered success would look and ask
    // again at once, for as long as nobody sorts.
    scene.until(stage, "nobody resolves", || scene.waiting() >= scene.running())?;
    let before = scene.machine.iommu.page_counts();
    let mut bursts = Vec::new();
    for tie in scene.of(Place::Memory) {
        let port = tie.device.ats_port();
        let groups = burst(&port, tie.pasid, scene::CREDIT as usize)?;
        bursts.push((port, groups));
    }
    let full = scene.machine.iommu.page_queue_overflowed();
    scene.work()?;
    let (mut sent, mut answered) = (0, 0);
    for (port, groups) in &bursts {
        sent += groups.len();
        answered += outcomes(stage, scene, port, groups, SUCCESS)?;
    }
    let running = scene.running();
    scene.advance(stage, "the queue has room again", STEP, |_| true)?;
    let after = scene.machine.iommu.page_counts();
    let (overflows, lost) = (after.overflows - before.overflows, after.lost - before.lost);
    let recovered = !scene.machine.iommu.page_queue_overflowed()
        && running > 0
        && no_fault_but_at_the_end(scene);
    let held = full && overflows == 1 && lost > 0 && answered == sent && recovered;
    let figures = Figures::new().count("requests", sent as u64).count("lost", lost);
    stage.claim(
        &["F3"],
        "the queue overflows: all is answered, and the storm goes on",
        held,
        figures,
    );
    Ok(())
}

/// Whether the runners that have ended are those of the process, which come to an end.
fn no_fault_but_at_the_end(scene: &Scene) -> bool {
    scene.ties.iter().all(|tie| !tie.runner.is_over() || tie.place == Place::Process)
}

fn ends(stage: &mut Stage, scene: &mut Scene) -> Result<(), Failure> {
    let before = scene.machine.iommu.page_counts();
    let memory = scene.memory(Place::Ends)?;
    memory.gate.shut();
    scene.until(stage, "a request is being resolved", || memory.gate.holds_somebody())?;
    memory.space.end(EndReason::Closed);
    memory.gate.open();
    scene.until(stage, "its devices learn it", || {
        scene.of(Place::Ends).all(|tie| tie.runner.is_over())
    })?;
    let invalid = scene.machine.iommu.page_counts().invalid - before.invalid;
    let exits = scene.exits.load(Ordering::Relaxed);
    let others = scene.advance(stage, "the others go on", STEP, |place| place != Place::Ends)?;
    let mut learned = true;
    for tie in scene.ties.iter_mut().filter(|tie| tie.place == Place::Ends) {
        let reason = tie.runner.fault()?.map(|fault| fault.reason);
        let invalid = FaultReason::PageRefused(ResponseCode::InvalidRequest);
        learned &= reason.is_some_and(|reason| {
            reason == invalid || reason == FaultReason::SpaceEnded || is_untranslatable(reason)
        });
        learned &= tie.bond.as_ref().is_some_and(|bond| !bond.is_live());
    }
    let held = learned && invalid > 0 && others > 0;
    let figures = Figures::new().count("invalid_answers", invalid);
    stage.claim(
        &["F5"],
        "a space ends in the storm: its requests are answered invalid",
        held,
        figures,
    );
    let all = exits == scene.of(Place::Ends).count() as u64;
    stage.claim(
        &["U4"],
        "its exit handlers ran, once for each bond",
        all,
        Figures::new().count("handlers", exits),
    );
    Ok(())
}

fn is_untranslatable(reason: FaultReason) -> bool {
    matches!(reason, FaultReason::Untranslatable(_))
}

fn unbound(stage: &mut Stage, scene: &mut Scene) -> Result<(), Failure> {
    /// Requests that wait behind the one that is being resolved.
    const WAIT: usize = 8;
    let gate = scene.memory(Place::Unbound)?.gate.clone();
    gate.shut();
    scene.until(stage, "a request is being resolved", || gate.holds_somebody())?;
    let missing = || Failure::Missing { what: "bond to unbind".to_owned() };
    let at = scene.ties.iter().position(|tie| tie.place == Place::Unbound).ok_or_else(missing)?;
    let (device, pasid) = (scene.ties[at].device.clone(), scene.ties[at].pasid);
    let port = device.ats_port();
    let groups = burst(&port, pasid, WAIT)?;
    stage.bonds.extend(scene.ties[at].times());
    let bond = scene.ties[at].bond.take().ok_or_else(missing)?;
    let unbinding = bond.begin_unbind();
    // By the unbind's own drain, or by a worker that sorted them after the entry was closed.
    let refused = outcomes(stage, scene, &port, &groups, INVALID)?;
    gate.open();
    scene.until(stage, "the unbind is over", || {
        unbinding.is_over() && scene.ties[at].runner.is_over()
    })?;
    let faulted = scene.ties[at].runner.fault()?.is_some();
    let held = groups.len() == WAIT && refused == WAIT && faulted;
    stage.claim(
        &["U1"],
        "an unbind in the storm answers what waits",
        held,
        Figures::new().count("groups", refused as u64),
    );

    let cut = reaches_nothing(&device, pasid);
    let others = scene.advance(stage, "the others go on", STEP, |place| place == Place::Unbound)?;
    let figures = Figures::new().count("accesses", others);
    stage.claim(
        &["U2"],
        "that device reaches the space no more; the others do",
        cut && others > 0,
        figures,
    );
    Ok(())
}

/// By translation, by page request, and without either.
fn reaches_nothing(device: &Device, pasid: Pasid) -> bool {
    let plain =
        device.port().read(Some(pasid), BASE, &mut [0; 8]).err().and_then(|error| error.fault());
    let translated = device
        .ats_port()
        .read(Some(pasid), BASE, &mut [0; 8])
        .err()
        .and_then(|error| error.fault());
    plain.is_some_and(|fault| fault.reason == FaultReason::NotBound) && translated.is_some()
}

/// The storm is over: what it left behind.
fn stills(stage: &mut Stage, mut scene: Scene) -> Result<(), Failure> {
    scene.until(stage, "the process has all its pages", || {
        scene.of(Place::Process).all(|tie| tie.runner.is_over())
    })?;
    let (accesses, wrong) =
        (scene.accesses(), scene.ties.iter().map(|tie| tie.runner.wrong()).sum::<u64>());
    let (pages, crc) = (scene.buffer.len / PAGE, scene.process.crc(&scene.buffer)?);
    let as_written = crc == expected(&scene);
    stage.claim(
        &["T1"],
        "the process finds what was faulted in and written",
        as_written,
        Figures::new().count("pages", pages),
    );

    scene.ties.iter().for_each(|tie| tie.runner.stop());
    scene.until(stage, "the storm ends", || scene.running() == 0)?;
    let mut faults = 0;
    for tie in &mut scene.ties {
        faults += u64::from(tie.runner.fault()?.is_some());
    }
    let held = wrong == 0 && faults == 0;
    stage.claim(
        &["T2"],
        "no access found other bytes than were there",
        held,
        Figures::new().count("accesses", accesses),
    );

    let counts = scene.devices().map(Device::page_request_counts).collect::<Vec<_>>();
    let sum = |of: fn(&sva_core::pri::InterfaceCounts) -> u64| counts.iter().map(of).sum::<u64>();
    let (requests, responses) = (sum(|c| c.requests), sum(|c| c.responses));
    let once = requests == responses
        && sum(|c| c.unexpected + c.timed_out + c.failures) == 0
        && scene.waiting() == 0;
    let codes = scene.machine.iommu.page_counts();
    let by_code = [
        (ResponseCode::Success, codes.succeeded),
        (ResponseCode::InvalidRequest, codes.invalid),
        (ResponseCode::ResponseFailure, codes.failed),
    ];
    let by_code = by_code.map(|(code, count)| format!("{count} {code}")).join(", ");
    let figures = Figures::new().count("answers", responses).said("by_code", by_code);
    let told = once && codes.succeeded + codes.invalid + codes.failed == responses;
    stage.claim(&["F2"], "each request got one answer", told, figures);

    let times: Vec<BondTimes> = scene.ties.iter().filter_map(|tie| tie.times()).collect();
    stage.bonds.extend(times);
    let kept = stage.bonds.iter().filter(|bond| bond.is_complete()).count();
    let all = kept == scene.ties.len();
    stage.claim(
        &[],
        "each bond kept the times of its faults",
        all,
        Figures::new().count("bonds", kept as u64),
    );

    scene.ties.iter_mut().for_each(|tie| drop(tie.bond.take()));
    let left = scene.machine.iommu.object_counts();
    let mut nothing = ObjectCounts::default();
    (nothing.devices, nothing.groups) = (left.devices, left.groups);
    stage.claim(
        &["U1"],
        "after the last unbind nothing is left of it",
        left == nothing,
        Figures::new().count("bonds", left.bonds as u64),
    );
    Ok(())
}

/// The CRC32C of the process's memory as the devices have written it.
fn expected(scene: &Scene) -> u32 {
    let mut page = [0; PAGE as usize];
    (0..scene.buffer.len / PAGE).fold(0, |checksum, n| {
        page[..8].copy_from_slice(&runner::word(scene.written, n).to_ne_bytes());
        crc32c::crc32c_append(checksum, &page)
    })
}
