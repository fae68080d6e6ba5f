//! Groups of one owner: MAP and UNMAP, BIND and UNBIND for all of them.

use sva_core::error::{BindError, UnmapError};
use sva_core::{
    AddressSpace, Bind, Container, DmaError, DmaPort, FaultReason, MapRequest, Pasid, Permissions,
};

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};

const FIRST: &str = "01:00.0";
const SECOND: &str = "02:00.0";
const LATER: &str = "03:00.0";
const ALL: [&str; 3] = [FIRST, SECOND, LATER];
const LEN: u64 = 1 << 20;
const IOVA: u64 = 0x20_0000;

/// A container with a process to map and to bind.
struct Shared<'a> {
    machine: &'a Machine,
    container: Container,
    process: Process,
    space: std::sync::Arc<sva_host::HostSpace>,
    buffer: Buffer,
    /// The first whole page of the buffer.
    address: u64,
}

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let container = machine.iommu.create_container();
    container.add(machine.group(FIRST)?)?;
    container.add(machine.group(SECOND)?)?;
    let (mut process, space) = context.process()?;
    let buffer = process.buffer(LEN + 4096, context.seed())?;
    let address = buffer.address.next_multiple_of(4096);
    let mut shared = Shared { machine: &machine, container, process, space, buffer, address };
    shared.map(context)?;
    let pasid = shared.bind(context)?;
    shared.join(context, pasid)?;
    shared.undo(context, pasid)
}

impl Shared<'_> {
    fn port(&self, bdf: &str) -> Result<DmaPort, Failure> {
        self.machine.device(bdf).map(|device| device.port())
    }

    /// Whether all these devices read what the process reads, by IOVA or by PASID.
    fn reads(&mut self, devices: &[&str], pasid: Option<Pasid>) -> Result<bool, Failure> {
        let own = self.process.crc_of(&self.buffer, self.address - self.buffer.address, LEN)?;
        let mut data = vec![0; LEN as usize];
        let mut equal = true;
        for device in devices {
            let read =
                self.port(device)?.read(pasid, pasid.map_or(IOVA, |_| self.address), &mut data);
            equal &= read.is_ok() && crc32c::crc32c(&data) == own;
        }
        Ok(equal)
    }

    /// Whether all these devices are refused for this reason.
    fn refused(
        &self,
        devices: &[&str],
        pasid: Option<Pasid>,
        reason: FaultReason,
    ) -> Result<bool, Failure> {
        let mut all = true;
        for device in devices {
            let read =
                self.port(device)?.read(pasid, pasid.map_or(IOVA, |_| self.address), &mut [0; 8]);
            all &= read
                .err()
                .as_ref()
                .and_then(DmaError::fault)
                .is_some_and(|fault| fault.reason == reason);
        }
        Ok(all)
    }

    fn map(&mut self, context: &mut Context) -> Result<(), Failure> {
        let permissions = Permissions::READ_WRITE;
        self.container.map(&MapRequest::new(IOVA, LEN, &self.space, self.address, permissions))?;
        let equal = self.reads(&[FIRST, SECOND], None)?;
        let figures = Figures::new().bytes("bytes", LEN);
        context.claim(
            &["G2", "T8"],
            "a MAP serves the devices of both groups, without PASID",
            equal,
            figures,
        );

        let split = self.container.unmap(IOVA, LEN / 2).err();
        let refused =
            matches!(split, Some(UnmapError::WouldSplit { .. })) && self.reads(&[FIRST], None)?;
        let figures =
            split.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        context.claim(
            &["T8"],
            "an UNMAP that would split the mapping is refused",
            refused,
            figures,
        );
        Ok(())
    }

    fn bind(&mut self, context: &mut Context) -> Result<Pasid, Failure> {
        let bound = self.container.bind(&self.space, Bind::new(7u32))?;
        let equal = self.reads(&[FIRST, SECOND], Some(bound.pasid))?;
        context.claim(
            &["G2"],
            "a BIND serves the devices of both groups, by one PASID",
            equal,
            Figures::new().pasid("pasid", bound.pasid),
        );

        let again = self.container.bind(&self.space, Bind::new(7u32))?;
        let other = self.container.bind(&self.space, Bind::new(8u32)).err();
        let same = again.already_bound && again.pasid == bound.pasid && other.is_some();
        let figures =
            other.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        context.claim(
            &["B5"],
            "a second BIND answers the same PASID; with other drvdata it is refused",
            same,
            figures,
        );

        let outside = self
            .machine
            .iommu
            .bind_device(self.machine.device(FIRST)?, &self.space, Bind::new(()))
            .err();
        let refused = matches!(outside, Some(BindError::InContainer { .. }));
        let figures =
            outside.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        context.claim(
            &["B1"],
            "bind_device of a device in a container is refused",
            refused,
            figures,
        );
        Ok(bound.pasid)
    }

    fn join(&mut self, context: &mut Context, pasid: Pasid) -> Result<(), Failure> {
        let joined = self.container.add(self.machine.group(LATER)?)?;
        let all = joined.pasids == [pasid]
            && self.reads(&[LATER], None)?
            && self.reads(&[LATER], Some(pasid))?;
        let figures = Figures::new().count("groups", self.container.groups().len() as u64);
        context.claim(
            &["G3"],
            "a group that joins gets all mappings and all bindings",
            all,
            figures,
        );
        Ok(())
    }

    fn undo(mut self, context: &mut Context, pasid: Pasid) -> Result<(), Failure> {
        self.container.unbind(self.space.id())?;
        let held =
            self.refused(&ALL, Some(pasid), FaultReason::NotBound)? && self.reads(&ALL, None)?;
        context.claim(
            &["B5"],
            "one UNBIND ends it on all devices; the mapping stays",
            held,
            Figures::new(),
        );

        let unmapped = self.container.unmap(IOVA, LEN)?;
        let blocked = self.refused(&ALL, None, FaultReason::NoDomainMapping)?;
        let held = unmapped.bytes == LEN && self.container.mappings().is_empty() && blocked;
        context.claim(
            &["T8"],
            "UNMAP says how much it unmapped, and all devices are blocked",
            held,
            Figures::new().bytes("bytes", unmapped.bytes),
        );

        self.container.close();
        let left = self.machine.iommu.object_counts();
        let free = left.containers == 0
            && self
                .machine
                .iommu
                .bind_device(self.machine.device(FIRST)?, &self.space, Bind::new(()))
                .is_ok();
        context.claim(
            &["U9"],
            "after the container is closed its groups are free",
            free,
            Figures::new(),
        );
        Ok(())
    }
}
