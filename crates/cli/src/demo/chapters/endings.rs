use std::sync::Arc;
use std::time::Instant;

use sva_core::sync::atomic::{AtomicU64, Ordering};
use sva_core::{AddressSpace, Bind, BindError, Bond, EndReason, FaultReason, SpaceRefusal};

use crate::demo::claim::Figures;
use crate::demo::failure::Failure;
use crate::demo::hammer::Hammer;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};
use crate::demo::{Stage, wait_until};

const DEVICE: &str = "01:00.0";
/// Large enough for an allocation of its own: freeing it is a munmap.
const LARGE: u64 = 48 << 20;
const SMALL: u64 = 1 << 20;

/// What an exit handler saw, kept outside of the bond.
#[derive(Default)]
struct Seen {
    runs: AtomicU64,
    drvdata: AtomicU64,
    reason: sva_core::sync::Mutex<Option<EndReason>>,
}

impl Seen {
    /// Whether the handler ran once, with this drvdata and for this reason.
    fn once(&self, drvdata: u64, reason: EndReason) -> bool {
        let (runs, seen) = (self.runs.load(Ordering::Relaxed), self.drvdata.load(Ordering::Relaxed));
        runs == 1 && seen == drvdata && *self.reason.lock() == Some(reason)
    }

    fn has_run(&self) -> bool {
        self.runs.load(Ordering::Relaxed) > 0
    }
}

pub(super) fn tell(stage: &mut Stage) -> Result<(), Failure> {
    unbound(stage)?;
    unmapped(stage)?;
    execed(stage)?;
    killed(stage)
}

/// Binds with a handler that writes down what it sees.
fn bind(machine: &Machine, space: &Arc<dyn AddressSpace>, drvdata: u64) -> Result<(Bond<u64>, Arc<Seen>), Failure> {
    let seen = Arc::new(Seen::default());
    let handler = seen.clone();
    let bind = Bind::new(drvdata).on_exit(move |end, drvdata: &u64| {
        handler.drvdata.store(*drvdata, Ordering::Relaxed);
        *handler.reason.lock() = Some(end.reason);
        handler.runs.fetch_add(1, Ordering::Release);
    });
    Ok((machine.iommu.bind_device(machine.device(DEVICE)?, space, bind)?, seen))
}

fn unbound(stage: &mut Stage) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = stage.process()?;
    let buffer = process.buffer(SMALL, stage.seed())?;
    let (bond, _) = bind(&machine, &space, 0)?;
    let port = machine.device(DEVICE)?.port();
    let hammer = Hammer::start(port.clone(), bond.pasid(), buffer, 0x11)?;
    let pasid = bond.pasid();
    bond.unbind();
    // From here on nothing may change any more, whatever the device tries.
    let own = stage.seed();
    let fresh = process.buffer(SMALL, own)?;
    let before = (process.crc(&buffer)?, process.crc(&fresh)?);
    let struck = hammer.wait()?;
    let late = port.write(Some(pasid), buffer.address, &[0x22; 64]).is_err();
    let after = (process.crc(&buffer)?, process.crc(&fresh)?);
    let held = late && before == after && struck.fault.reason == FaultReason::NotBound;
    stage.claim(
        &["U2"],
        "when unbind returns, the device cannot touch the process",
        held,
        Figures::new().count("writes before", struck.writes),
    );
    Ok(())
}

fn unmapped(stage: &mut Stage) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = stage.process()?;
    let large = process.buffer(LARGE, stage.seed())?;
    let beside = process.buffer(SMALL, stage.seed())?;
    let before = process.crc(&beside)?;
    let (bond, seen) = bind(&machine, &space, 0)?;
    let hammer = Hammer::start(machine.device(DEVICE)?.port(), bond.pasid(), large, 0x33)?;
    process.free(&large)?;
    let struck = hammer.wait()?;
    let inside = (large.address..=large.last()).contains(&struck.fault.address);
    let clean = struck.fault.reason == FaultReason::NotMapped && inside && process.crc(&beside)? == before;
    let held = clean && bond.is_live() && !seen.has_run();
    stage.claim(
        &["T2"],
        "munmap in the middle of DMA: it faults there, and the bond lives on",
        held,
        Figures::new().count("writes before", struck.writes),
    );
    Ok(())
}

/// A process that replaces its image under a device that writes to it. The IOMMU has one PASID, so that every question about it has to be asked.
fn execed(stage: &mut Stage) -> Result<(), Failure> {
    let machine = Machine::narrow(1)?;
    let device = machine.device(DEVICE)?;
    let (mut process, space) = stage.process()?;
    let buffer = process.buffer(SMALL, stage.seed())?;
    let drvdata = stage.seed();
    let (bond, seen) = bind(&machine, &space, drvdata)?;
    let pasid = bond.pasid();

    let hammer = Hammer::start(device.port(), pasid, buffer, 0x44)?;
    let canary = process.exec(SMALL, stage.seed())?;
    let execed = Instant::now();
    let untouched = process.crc(&canary)?;
    let struck = hammer.wait()?;
    let noticed = execed.elapsed();
    let ended = struck.fault.reason == FaultReason::SpaceEnded;
    let figures = Figures::new().count("writes before", struck.writes).time("noticed_us", noticed);
    stage.claim(&["U4", "U7"], "exec in the middle of DMA ends it: the bond is with the memory", ended, figures);

    // Aimed at the new image itself, by the number that the old one had.
    let aimed = device.port().write(Some(pasid), canary.address, &[0x55; 4096]);
    let kept = aimed.is_err() && process.crc(&canary)? == untouched;
    stage.claim(&["U7"], "the new image is untouched, also where the device aims at it", kept, Figures::new().bytes("bytes", canary.len));

    wait_until("the exit handler", || seen.has_run())?;
    let once = seen.once(drvdata, EndReason::Execed);
    stage.claim(
        &["U4", "B6"],
        "the exit handler ran once, with its drvdata",
        once,
        Figures::new().count("runs", seen.runs.load(Ordering::Relaxed)),
    );

    let next = Next { process, image: canary, untouched };
    next.takes_over(stage, &machine, bond, &seen)
}

/// The image after an exec, to be bound as the process that it is now.
struct Next {
    process: Process,
    image: Buffer,
    /// The CRC32C of its buffer as long as nobody writes to it.
    untouched: u32,
}

impl Next {
    fn takes_over(mut self, stage: &mut Stage, machine: &Machine, old: Bond<u64>, seen: &Seen) -> Result<(), Failure> {
        let device = machine.device(DEVICE)?;
        let old_tag = old.tag();
        let space: Arc<dyn AddressSpace> = sva_host::attach(self.process.pid())?;
        let refusal = machine.iommu.bind_device(device, &space, Bind::new(())).err();
        let held = matches!(refusal, Some(BindError::Space(SpaceRefusal::NoPasidLeft { in_use: 1, .. })));
        let figures = refusal.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        stage.claim(&["U5"], "the PASID of the ended image is held as long as its bond", held, figures);

        let report = old.unbind();
        let bond = machine.iommu.bind_device(device, &space, Bind::new(()))?;
        let (old_number, number) = (old_tag.pasid, bond.pasid());
        let reused = report.space_ended && number == old_number && bond.tag().generation > old_tag.generation;
        let figures = Figures::new().pasid("pasid", number).count("generation", bond.tag().generation.0);
        stage.claim(&["U5", "U6"], "after the unbind the number is used again, in a new generation", reused, figures);

        let late = device.port().for_owner(old_tag).write(Some(number), self.image.address, &[0x66; 4096]);
        let dropped = late.is_err() && machine.iommu.stale_dropped() == 1;
        let kept = self.process.crc(&self.image)? == self.untouched && seen.runs.load(Ordering::Relaxed) == 1;
        let figures = Figures::new().count("dropped", machine.iommu.stale_dropped());
        stage.claim(&["U6"], "a late transaction of the earlier owner does not reach the new one", dropped && kept, figures);
        Ok(())
    }
}

fn killed(stage: &mut Stage) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = stage.process()?;
    let buffer = process.buffer(SMALL, stage.seed())?;
    let drvdata = stage.seed();
    let (bond, seen) = bind(&machine, &space, drvdata)?;
    let hammer = Hammer::start(machine.device(DEVICE)?.port(), bond.pasid(), buffer, 0x77)?;
    let begun = Instant::now();
    process.kill()?;
    let struck = hammer.wait()?;
    let noticed = begun.elapsed();
    wait_until("the exit handler", || seen.has_run())?;
    let report = bond.unbind();
    let clean = struck.fault.reason == FaultReason::SpaceEnded && report.space_ended && report.handler_ran;
    let held = clean && seen.once(drvdata, EndReason::Exited);
    let figures = Figures::new().count("writes before", struck.writes).time("noticed_us", noticed);
    stage.claim(&["U4"], "kill -9 in the middle of DMA ends it; the handler ran once", held, figures);

    let left = machine.iommu.census();
    let nothing = (left.bonds, left.spaces, left.pasids) == (0, 0, 0);
    stage.claim(&["U1"], "after the unbind nothing is left of it", nothing, Figures::new().count("PASIDs", left.pasids));
    Ok(())
}
