//! `sva demo --faults`: a storm of page requests, and all events that can end one.
//!
//! Devices fault all the time: each access is to an absent page. Meanwhile a space is slow, the
//! queue overflows, a space ends, a bond is unbound.

mod fixture;
mod gate;
mod live;
mod runner;

use sva_core::event::ObjectCounts;
use sva_core::pri::{GroupOutcome, PageRequestError, PrgIndex, ResponseCode};
use sva_core::{Access, AtsPort, Device, EndReason, FaultReason, Pasid};
use sva_sync::atomic::Ordering;
use sva_testkit::PAGE;

use super::claim::Figures;
use super::context::Context;
use super::failure::Failure;
use super::times::BondTimes;
use fixture::{Fixture, SpaceName};
use runner::BASE;

/// Accesses of each runner between two events.
const STEP: u64 = 200;
const INVALID: GroupOutcome = GroupOutcome::Response(ResponseCode::InvalidRequest);
const SUCCESS: GroupOutcome = GroupOutcome::Response(ResponseCode::Success);

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let mut fixture = Fixture::new(context)?;
    start(context, &fixture)?;
    slow_space(context, &fixture)?;
    queue_overflow(context, &mut fixture)?;
    end_of_a_space(context, &mut fixture)?;
    unbind(context, &mut fixture)?;
    finish(context, fixture)
}

fn start(context: &mut Context, fixture: &Fixture) -> Result<(), Failure> {
    fixture.advance(context, "the storm begins", STEP, |_| true)?;
    let counts = fixture.machine.iommu.page_queue_counts();
    let all = fixture.bindings.iter().all(|binding| binding.runner.accesses() >= STEP)
        && counts.groups > 0;
    let figures = Figures::new().count("groups", counts.groups);
    context.claim(
        &["F1"],
        "three devices fault in four spaces and a process at once",
        all,
        figures,
    );
    Ok(())
}

fn slow_space(context: &mut Context, fixture: &Fixture) -> Result<(), Failure> {
    let gate = &fixture.memory(SpaceName::Slow)?.gate;
    gate.shut();
    fixture.until(context, "a space becomes slow", || gate.holds_somebody())?;
    let slow = || fixture.of(SpaceName::Slow).map(|binding| binding.runner.accesses()).sum::<u64>();
    let before = slow();
    let others = fixture
        .advance(context, "the others go on", STEP, |space_name| space_name != SpaceName::Slow)?;
    // The access under way, and one more where a page had just been resolved.
    let stood =
        gate.holds_somebody() && slow() - before <= 2 * fixture.of(SpaceName::Slow).count() as u64;
    gate.open();
    let resumed = fixture.advance(context, "it is slow no longer", STEP, |space_name| {
        space_name == SpaceName::Slow
    })?;
    let figures = Figures::new().count("accesses", others);
    context.claim(
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
    context: &Context,
    fixture: &Fixture,
    port: &AtsPort,
    groups: &[PrgIndex],
    expected: GroupOutcome,
) -> Result<usize, Failure> {
    let mut as_expected = 0;
    for group in groups {
        let mut outcome = None;
        fixture.until(context, "a group is answered", || {
            outcome = port.outcome(*group);
            outcome.is_some()
        })?;
        as_expected += usize::from(outcome == Some(expected));
    }
    Ok(as_expected)
}

fn queue_overflow(context: &mut Context, fixture: &mut Fixture) -> Result<(), Failure> {
    fixture.stop_workers();
    // Once all wait, nobody asks beside us; an access that is answered success would look and ask
    // again at once, for as long as nobody sorts.
    fixture.until(context, "nobody resolves", || fixture.waiting() >= fixture.running())?;
    let before = fixture.machine.iommu.page_queue_counts();
    let mut bursts = Vec::new();
    for binding in fixture.of(SpaceName::Memory) {
        let port = binding.device.ats_port();
        let groups = burst(&port, binding.pasid, fixture::CREDIT as usize)?;
        bursts.push((port, groups));
    }
    let full = fixture.machine.iommu.page_queue_overflowed();
    fixture.start_workers()?;
    let (mut sent, mut answered) = (0, 0);
    for (port, groups) in &bursts {
        sent += groups.len();
        answered += outcomes(context, fixture, port, groups, SUCCESS)?;
    }
    let running = fixture.running();
    fixture.advance(context, "the queue has room again", STEP, |_| true)?;
    let after = fixture.machine.iommu.page_queue_counts();
    let (overflows, lost) = (after.overflows - before.overflows, after.lost - before.lost);
    let recovered = !fixture.machine.iommu.page_queue_overflowed()
        && running > 0
        && no_fault_but_at_the_end(fixture);
    let held = full && overflows == 1 && lost > 0 && answered == sent && recovered;
    let figures = Figures::new().count("requests", sent as u64).count("lost", lost);
    context.claim(
        &["F3"],
        "the queue overflows: all is answered, and the storm goes on",
        held,
        figures,
    );
    Ok(())
}

/// Whether the runners that have ended are those of the process, which come to an end.
fn no_fault_but_at_the_end(fixture: &Fixture) -> bool {
    fixture
        .bindings
        .iter()
        .all(|binding| !binding.runner.is_over() || binding.space_name == SpaceName::Process)
}

fn end_of_a_space(context: &mut Context, fixture: &mut Fixture) -> Result<(), Failure> {
    let before = fixture.machine.iommu.page_queue_counts();
    let memory = fixture.memory(SpaceName::Ends)?;
    memory.gate.shut();
    fixture.until(context, "a request is being resolved", || memory.gate.holds_somebody())?;
    memory.space.end(EndReason::Closed);
    memory.gate.open();
    fixture.until(context, "its devices learn it", || {
        fixture.of(SpaceName::Ends).all(|binding| binding.runner.is_over())
    })?;
    let invalid = fixture.machine.iommu.page_queue_counts().invalid - before.invalid;
    let exits = fixture.exits.load(Ordering::Relaxed);
    let others = fixture
        .advance(context, "the others go on", STEP, |space_name| space_name != SpaceName::Ends)?;
    let mut learned = true;
    for binding in
        fixture.bindings.iter_mut().filter(|binding| binding.space_name == SpaceName::Ends)
    {
        let reason = binding.runner.fault()?.map(|fault| fault.reason);
        let invalid = FaultReason::PageRefused(ResponseCode::InvalidRequest);
        learned &= reason.is_some_and(|reason| {
            reason == invalid || reason == FaultReason::SpaceEnded || is_untranslatable(reason)
        });
        learned &= binding.bond.as_ref().is_some_and(|bond| !bond.is_live());
    }
    let held = learned && invalid > 0 && others > 0;
    let figures = Figures::new().count("invalid_answers", invalid);
    context.claim(
        &["F5"],
        "a space ends in the storm: its requests are answered invalid",
        held,
        figures,
    );
    let all = exits == fixture.of(SpaceName::Ends).count() as u64;
    context.claim(
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

fn unbind(context: &mut Context, fixture: &mut Fixture) -> Result<(), Failure> {
    /// Requests that wait behind the one that is being resolved.
    const WAIT: usize = 8;
    let gate = fixture.memory(SpaceName::Unbound)?.gate.clone();
    gate.shut();
    fixture.until(context, "a request is being resolved", || gate.holds_somebody())?;
    let missing = || Failure::Missing { what: "bond to unbind".to_owned() };
    let at = fixture
        .bindings
        .iter()
        .position(|binding| binding.space_name == SpaceName::Unbound)
        .ok_or_else(missing)?;
    let (device, pasid) = (fixture.bindings[at].device.clone(), fixture.bindings[at].pasid);
    let port = device.ats_port();
    let groups = burst(&port, pasid, WAIT)?;
    context.bonds.extend(fixture.bindings[at].times());
    let bond = fixture.bindings[at].bond.take().ok_or_else(missing)?;
    let unbinding = bond.begin_unbind();
    // By the unbind's own drain, or by a worker that sorted them after the entry was closed.
    let refused = outcomes(context, fixture, &port, &groups, INVALID)?;
    gate.open();
    fixture.until(context, "the unbind is over", || {
        unbinding.is_over() && fixture.bindings[at].runner.is_over()
    })?;
    let faulted = fixture.bindings[at].runner.fault()?.is_some();
    let held = groups.len() == WAIT && refused == WAIT && faulted;
    context.claim(
        &["U1"],
        "an unbind in the storm answers what waits",
        held,
        Figures::new().count("groups", refused as u64),
    );

    let cut = reaches_nothing(&device, pasid);
    let others = fixture.advance(context, "the others go on", STEP, |space_name| {
        space_name == SpaceName::Unbound
    })?;
    let figures = Figures::new().count("accesses", others);
    context.claim(
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
fn finish(context: &mut Context, mut fixture: Fixture) -> Result<(), Failure> {
    fixture.until(context, "the process has all its pages", || {
        fixture.of(SpaceName::Process).all(|binding| binding.runner.is_over())
    })?;
    let (accesses, wrong) = (
        fixture.accesses(),
        fixture.bindings.iter().map(|binding| binding.runner.wrong()).sum::<u64>(),
    );
    let (pages, crc) = (fixture.buffer.len / PAGE, fixture.process.crc(&fixture.buffer)?);
    let as_written = crc == expected(&fixture);
    context.claim(
        &["T1"],
        "the process finds what was faulted in and written",
        as_written,
        Figures::new().count("pages", pages),
    );

    fixture.bindings.iter().for_each(|binding| binding.runner.stop());
    fixture.until(context, "the storm ends", || fixture.running() == 0)?;
    let mut faults = 0;
    for binding in &mut fixture.bindings {
        faults += u64::from(binding.runner.fault()?.is_some());
    }
    let held = wrong == 0 && faults == 0;
    context.claim(
        &["T2"],
        "no access found other bytes than were there",
        held,
        Figures::new().count("accesses", accesses),
    );

    let counts = fixture.devices().map(Device::page_request_counts).collect::<Vec<_>>();
    let sum = |of: fn(&sva_core::pri::InterfaceCounts) -> u64| counts.iter().map(of).sum::<u64>();
    let (requests, responses) = (sum(|c| c.requests), sum(|c| c.responses));
    let once = requests == responses
        && sum(|c| c.unexpected + c.timed_out + c.failures) == 0
        && fixture.waiting() == 0;
    let codes = fixture.machine.iommu.page_queue_counts();
    let by_code = [
        (ResponseCode::Success, codes.succeeded),
        (ResponseCode::InvalidRequest, codes.invalid),
        (ResponseCode::ResponseFailure, codes.failed),
    ];
    let by_code = by_code.map(|(code, count)| format!("{count} {code}")).join(", ");
    let figures = Figures::new().count("answers", responses).said("by_code", by_code);
    let told = once && codes.succeeded + codes.invalid + codes.failed == responses;
    context.claim(&["F2"], "each request got one answer", told, figures);

    let times: Vec<BondTimes> =
        fixture.bindings.iter().filter_map(|binding| binding.times()).collect();
    context.bonds.extend(times);
    let kept = context.bonds.iter().filter(|bond| bond.is_complete()).count();
    let all = kept == fixture.bindings.len();
    context.claim(
        &[],
        "each bond kept the times of its faults",
        all,
        Figures::new().count("bonds", kept as u64),
    );

    fixture.bindings.iter_mut().for_each(|binding| drop(binding.bond.take()));
    let left = fixture.machine.iommu.object_counts();
    let mut nothing = ObjectCounts::default();
    (nothing.devices, nothing.groups) = (left.devices, left.groups);
    context.claim(
        &["U1"],
        "after the last unbind nothing is left of it",
        left == nothing,
        Figures::new().count("bonds", left.bonds as u64),
    );
    Ok(())
}

/// The CRC32C of the process's memory as the devices have written it.
fn expected(fixture: &Fixture) -> u32 {
    let mut page = [0; PAGE as usize];
    (0..fixture.buffer.len / PAGE).fold(0, |checksum, n| {
        page[..8].copy_from_slice(&runner::word(fixture.written, n).to_ne_bytes());
        crc32c::crc32c_append(checksum, &page)
    })
}
