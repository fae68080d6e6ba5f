//! Unbind, munmap, exec and SIGKILL in the middle of DMA, and what becomes of the PASID.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_core::error::{BindError, SpaceRefusal};
use sva_core::{AddressSpace, Bind, Bond, EndReason, FaultReason};
use sva_sync::atomic::{AtomicU64, Ordering};

use crate::demo::child::untouched;
use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};
use crate::demo::wait::wait_until;
use crate::demo::writer::WriteLoop;

const DEVICE: &str = "01:00.0";
/// Large enough for an allocation of its own: freeing it is a munmap.
const LARGE: u64 = 48 << 20;
const SMALL: u64 = 1 << 20;

/// What an exit handler saw, kept outside of the bond.
#[derive(Default)]
struct Seen {
    runs: AtomicU64,
    drvdata: AtomicU64,
    reason: sva_sync::Mutex<Option<EndReason>>,
}

impl Seen {
    /// Whether the handler ran once, with this drvdata and for this reason.
    fn once(&self, drvdata: u64, reason: EndReason) -> bool {
        let (runs, seen) =
            (self.runs.load(Ordering::Relaxed), self.drvdata.load(Ordering::Relaxed));
        runs == 1 && seen == drvdata && *self.reason.lock() == Some(reason)
    }

    fn has_run(&self) -> bool {
        self.runs.load(Ordering::Relaxed) > 0
    }

    /// Waits for the handler; one that does not come ends the chapter, which would otherwise wait
    /// as long for each exec.
    fn wait(&self) -> Result<(), Failure> {
        wait_until("the exit handler", || self.has_run())?;
        Ok(())
    }
}

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    unbound(context)?;
    unmapped(context)?;
    execed(context)?;
    killed(context)
}

/// Binds with a handler that writes down what it sees.
fn bind(
    machine: &Machine,
    space: &Arc<dyn AddressSpace>,
    drvdata: u64,
) -> Result<(Bond<u64>, Arc<Seen>), Failure> {
    let seen = Arc::new(Seen::default());
    let handler = seen.clone();
    let bind = Bind::new(drvdata).on_exit(move |end, drvdata: &u64| {
        handler.drvdata.store(*drvdata, Ordering::Relaxed);
        *handler.reason.lock() = Some(end.reason);
        handler.runs.fetch_add(1, Ordering::Release);
    });
    Ok((machine.iommu.bind_device(machine.device(DEVICE)?, space, bind)?, seen))
}

fn unbound(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = context.process()?;
    let buffer = process.buffer(SMALL, context.seed())?;
    let (bond, _) = bind(&machine, &space, 0)?;
    let port = machine.device(DEVICE)?.port();
    let writer = WriteLoop::start(port.clone(), bond.pasid(), buffer)?;
    let pasid = bond.pasid();
    bond.unbind();
    // From here on nothing may change any more, whatever the device tries.
    let before = process.crc(&buffer)?;
    let aborted = writer.wait()?;
    let late = port.write(Some(pasid), buffer.address, &[0x22; 64]).is_err();
    let held =
        late && process.crc(&buffer)? == before && aborted.fault.reason == FaultReason::NotBound;
    context.claim(
        &["U2"],
        "when unbind returns, the device cannot touch the process",
        held,
        Figures::new().count("writes", aborted.writes),
    );
    Ok(())
}

fn unmapped(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = context.process()?;
    let large = process.buffer(LARGE, context.seed())?;
    let beside = process.buffer(SMALL, context.seed())?;
    let before = process.crc(&beside)?;
    let (bond, seen) = bind(&machine, &space, 0)?;
    let writer = WriteLoop::start(machine.device(DEVICE)?.port(), bond.pasid(), large)?;
    process.free(&large)?;
    let aborted = writer.wait()?;
    let inside = (large.address..=large.last()).contains(&aborted.fault.address);
    let clean =
        aborted.fault.reason == FaultReason::NotMapped && inside && process.crc(&beside)? == before;
    let held = clean && bond.is_live() && !seen.has_run();
    context.claim(
        &["T2"],
        "munmap in the middle of DMA: it faults there, the bond lives on",
        held,
        Figures::new().count("writes", aborted.writes),
    );
    Ok(())
}

/// How often a process replaces its image under a device that writes to it. Once would not do: a
/// device that looks first and writes then would mostly be lucky.
const EXECS: u64 = 16;

/// A process that replaces its image again and again, by images with one buffer.
struct Image {
    process: Process,
    buffer: Buffer,
    /// Where the buffer's data comes from.
    seed: u64,
}

/// What is to be seen of all execs.
#[derive(Default)]
struct Execs {
    writes: u64,
    noticed: Duration,
    same_address: u64,
    ended: u64,
    untouched: u64,
    handlers: Vec<(u64, Arc<Seen>)>,
}

fn execed(context: &mut Context) -> Result<(), Failure> {
    // One PASID, so that it is used again each time.
    let machine = Machine::narrow(1)?;
    let (mut process, _) = context.process()?;
    let seed = image_seed(context);
    // The first exec only makes addresses the same in all that follow.
    let buffer = process.exec(SMALL, seed)?;
    let (mut image, mut execs) = (Image { process, buffer, seed }, Execs::default());
    let mut last = image.exec(context, &machine, &mut execs)?;
    for _ in 1..EXECS {
        last.unbind();
        last = image.exec(context, &machine, &mut execs)?;
    }
    let figures = Figures::new().count("writes", execs.writes).time("noticed_us", execs.noticed);
    context.claim(
        &["U4", "U7"],
        "sixteen execs in the middle of DMA: a bond is with the memory",
        execs.ended == EXECS,
        figures,
    );
    let figures = Figures::new().count("at_the_same_address", execs.same_address);
    context.claim(
        &["U7"],
        "the new images are untouched, also where the device aims at them",
        execs.untouched == EXECS,
        figures,
    );

    image.takes_over(context, &machine, last)?;
    // Counted after the last unbind, from which on none can run.
    let once = execs
        .handlers
        .iter()
        .filter(|(drvdata, seen)| seen.once(*drvdata, EndReason::Execed))
        .count() as u64;
    context.claim(
        &["U4", "B6"],
        "each exit handler ran once, with its drvdata",
        once == EXECS,
        Figures::new().count("handlers", once),
    );
    Ok(())
}

/// Always of the same number of digits: command lines of one length give one layout.
fn image_seed(context: &mut Context) -> u64 {
    context.rng.u64(1_000_000_000..10_000_000_000)
}

impl Image {
    /// An exec in the middle of DMA. Answers the bond of the image that has ended.
    fn exec(
        &mut self,
        context: &mut Context,
        machine: &Machine,
        execs: &mut Execs,
    ) -> Result<Bond<u64>, Failure> {
        let space: Arc<dyn AddressSpace> = sva_host::attach(self.process.pid())?;
        let drvdata = context.seed();
        let (bond, seen) = bind(machine, &space, drvdata)?;
        let port = machine.device(DEVICE)?.port();
        let writer = WriteLoop::start(port.clone(), bond.pasid(), self.buffer)?;
        self.seed = image_seed(context);
        let next = self.process.exec(SMALL, self.seed)?;
        let execed = Instant::now();
        let aborted = writer.wait()?;
        execs.noticed = execs.noticed.max(execed.elapsed());
        execs.writes += aborted.writes;
        execs.ended += u64::from(aborted.fault.reason == FaultReason::SpaceEnded);
        execs.same_address += u64::from(next.address == self.buffer.address);
        self.buffer = next;
        // Aimed at the new image itself, by the number that the old one has still.
        let aimed = port.write(Some(bond.pasid()), next.address, &[0x55; 4096]);
        execs.untouched += u64::from(aimed.is_err() && self.is_untouched()?);
        seen.wait()?;
        execs.handlers.push((drvdata, seen));
        Ok(bond)
    }

    fn is_untouched(&mut self) -> Result<bool, Failure> {
        Ok(self.process.crc(&self.buffer)? == untouched(SMALL, self.seed))
    }

    /// Binds the image as the process that it is now, when the bond of the one before it goes.
    fn takes_over(
        &mut self,
        context: &mut Context,
        machine: &Machine,
        old: Bond<u64>,
    ) -> Result<(), Failure> {
        let device = machine.device(DEVICE)?;
        let old_tag = old.tag();
        let space: Arc<dyn AddressSpace> = sva_host::attach(self.process.pid())?;
        let refusal = machine.iommu.bind_device(device, &space, Bind::new(())).err();
        let held =
            matches!(refusal, Some(BindError::Space(SpaceRefusal::NoPasidLeft { in_use: 1, .. })));
        let figures =
            refusal.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        context.claim(
            &["U5"],
            "the PASID of an ended image is held as long as its bond",
            held,
            figures,
        );

        let report = old.unbind();
        let bond = machine.iommu.bind_device(device, &space, Bind::new(()))?;
        let reused = report.space_ended
            && bond.pasid() == old_tag.pasid
            && bond.tag().generation > old_tag.generation;
        let figures = Figures::new()
            .pasid("pasid", bond.pasid())
            .value("generation", bond.tag().generation.0);
        context.claim(
            &["U5", "U6"],
            "after the unbind the number is used again, in a new generation",
            reused,
            figures,
        );

        let late = device.port().for_owner(old_tag).write(
            Some(bond.pasid()),
            self.buffer.address,
            &[0x66; 4096],
        );
        let dropped = machine.iommu.stale_dropped();
        let held = late.is_err() && dropped == 1 && self.is_untouched()?;
        context.claim(
            &["U6"],
            "a late transaction of the earlier owner does not reach the new one",
            held,
            Figures::new().count("dropped", dropped),
        );
        Ok(())
    }
}

fn killed(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = context.process()?;
    let buffer = process.buffer(SMALL, context.seed())?;
    let drvdata = context.seed();
    let (bond, seen) = bind(&machine, &space, drvdata)?;
    let writer = WriteLoop::start(machine.device(DEVICE)?.port(), bond.pasid(), buffer)?;
    let begun = Instant::now();
    process.kill()?;
    let aborted = writer.wait()?;
    let noticed = begun.elapsed();
    seen.wait()?;
    let report = bond.unbind();
    let clean =
        aborted.fault.reason == FaultReason::SpaceEnded && report.space_ended && report.handler_ran;
    let held = clean && seen.once(drvdata, EndReason::Exited);
    let figures = Figures::new().count("writes", aborted.writes).time("noticed_us", noticed);
    context.claim(
        &["U4"],
        "kill -9 in the middle of DMA ends it; the handler ran once",
        held,
        figures,
    );

    let left = machine.iommu.object_counts();
    let nothing = (left.bonds, left.spaces, left.pasids) == (0, 0, 0);
    context.claim(
        &["U1"],
        "after the unbind nothing is left of it",
        nothing,
        Figures::new().count("PASIDs", left.pasids),
    );
    Ok(())
}
