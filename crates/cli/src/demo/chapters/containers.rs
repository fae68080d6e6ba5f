use sva_core::{AddressSpace, Bind, BindError, Container, DmaError, DmaPort, FaultReason, MapRequest, Pasid, Protection, UnmapError};

use crate::demo::Stage;
use crate::demo::claim::Figures;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};

const FIRST: &str = "01:00.0";
const SECOND: &str = "02:00.0";
const LATER: &str = "03:00.0";
const LEN: u64 = 1 << 20;
const IOVA: u64 = 0x20_0000;

/// A container with a process to map and to bind.
struct Shared<'a> {
    machine: &'a Machine,
    container: Container,
    process: Process,
    space: std::sync::Arc<dyn AddressSpace>,
    buffer: Buffer,
    /// The first whole page of the buffer.
    address: u64,
}

pub(super) fn tell(stage: &mut Stage) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let container = machine.iommu.container();
    container.add(machine.group(FIRST)?)?;
    container.add(machine.group(SECOND)?)?;
    let (mut process, space) = stage.process()?;
    let buffer = process.buffer(LEN + 4096, stage.seed())?;
    let address = buffer.address.next_multiple_of(4096);
    let mut shared = Shared { machine: &machine, container, process, space, buffer, address };
    shared.map(stage)?;
    let pasid = shared.bind(stage)?;
    shared.join(stage, pasid)?;
    shared.undo(stage, pasid)
}

impl Shared<'_> {
    /// The CRC32C of the process's pages as the process sees it.
    fn own(&mut self) -> Result<u32, Failure> {
        Ok(self.process.crc_of(&self.buffer, self.address - self.buffer.address, LEN)?)
    }

    fn port(&self, bdf: &str) -> Result<DmaPort, Failure> {
        self.machine.device(bdf).map(|device| device.port())
    }

    /// The CRC32C as a device reads it, by IOVA or by PASID.
    fn read(&self, bdf: &str, pasid: Option<Pasid>) -> Result<u32, Failure> {
        let mut data = vec![0; LEN as usize];
        self.port(bdf)?.read(pasid, pasid.map_or(IOVA, |_| self.address), &mut data)?;
        Ok(crc32c::crc32c(&data))
    }

    /// Why a device cannot read.
    fn reason(&self, bdf: &str, pasid: Option<Pasid>) -> Result<Option<FaultReason>, Failure> {
        let read = self.port(bdf)?.read(pasid, pasid.map_or(IOVA, |_| self.address), &mut [0; 8]);
        Ok(read.err().as_ref().and_then(DmaError::fault).map(|fault| fault.reason))
    }

    fn map(&mut self, stage: &mut Stage) -> Result<(), Failure> {
        let (space, address) = (self.space.clone(), self.address);
        self.container.map(&MapRequest { iova: IOVA, len: LEN, space, address, protection: Protection::READ_WRITE })?;
        let own = self.own()?;
        let equal = self.read(FIRST, None)? == own && self.read(SECOND, None)? == own;
        let figures = Figures::new().bytes("bytes", LEN);
        stage.claim(&["G2", "T8"], "a MAP serves the devices of both groups, without PASID", equal, figures);

        let split = self.container.unmap(IOVA, LEN / 2).err();
        let refused = matches!(split, Some(UnmapError::WouldSplit { .. })) && self.read(FIRST, None)? == own;
        let figures = split.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        stage.claim(&["T8"], "an UNMAP that would split the mapping is refused", refused, figures);
        Ok(())
    }

    fn bind(&mut self, stage: &mut Stage) -> Result<Pasid, Failure> {
        let bound = self.container.bind(&self.space, Bind::new(7u32))?;
        let own = self.own()?;
        let pasid = Some(bound.pasid);
        let equal = self.read(FIRST, pasid)? == own && self.read(SECOND, pasid)? == own;
        stage.claim(&["G2"], "a BIND serves the devices of both groups, by one PASID", equal, Figures::new().pasid("pasid", bound.pasid));

        let again = self.container.bind(&self.space, Bind::new(7u32))?;
        let other = self.container.bind(&self.space, Bind::new(8u32)).err();
        let same = again.existing && again.pasid == bound.pasid && other.is_some();
        let figures = other.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        stage.claim(&["B5"], "a second BIND answers the same PASID; with other drvdata it is refused", same, figures);

        let outside = self.machine.iommu.bind_device(self.machine.device(FIRST)?, &self.space, Bind::new(())).err();
        let refused = matches!(outside, Some(BindError::InContainer { .. }));
        let figures = outside.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        stage.claim(&["B1"], "bind_device of a device in a container is refused", refused, figures);
        Ok(bound.pasid)
    }

    fn join(&mut self, stage: &mut Stage, pasid: Pasid) -> Result<(), Failure> {
        let joined = self.container.add(self.machine.group(LATER)?)?;
        let own = self.own()?;
        let all = joined.pasids == [pasid] && self.read(LATER, None)? == own && self.read(LATER, Some(pasid))? == own;
        let figures = Figures::new().count("groups", self.container.groups().len() as u64);
        stage.claim(&["G3"], "a group that joins gets all mappings and all bindings", all, figures);
        Ok(())
    }

    fn undo(mut self, stage: &mut Stage, pasid: Pasid) -> Result<(), Failure> {
        self.container.unbind(self.space.id())?;
        let not_bound = Some(FaultReason::NotBound);
        let blocked = [FIRST, SECOND, LATER].into_iter().map(|bdf| self.reason(bdf, Some(pasid))).collect::<Result<Vec<_>, _>>()?;
        let mapped = self.read(FIRST, None)? == self.own()?;
        let held = blocked.iter().all(|reason| *reason == not_bound) && mapped;
        stage.claim(&["B5"], "one UNBIND ends it on all devices; the mapping stays", held, Figures::new());

        let unmapped = self.container.unmap(IOVA, LEN)?;
        let reasons = [FIRST, SECOND, LATER].into_iter().map(|bdf| self.reason(bdf, None)).collect::<Result<Vec<_>, _>>()?;
        let held = unmapped.bytes == LEN && reasons.iter().all(|reason| *reason == Some(FaultReason::NoDomainMapping));
        stage.claim(
            &["T8"],
            "UNMAP says how much it unmapped, and all devices are blocked",
            held,
            Figures::new().bytes("bytes", unmapped.bytes),
        );

        self.container.close();
        let left = self.machine.iommu.census();
        let free = left.containers == 0 && self.machine.iommu.bind_device(self.machine.device(FIRST)?, &self.space, Bind::new(())).is_ok();
        stage.claim(&["U9"], "after the container is closed its groups are free", free, Figures::new());
        Ok(())
    }
}
