//! A peer's window lies at the address of a buffer of the process. Addresses of the bus and of a
//! process are assigned independently, and only ACS redirection keeps them apart.

use std::sync::Arc;

use sva_core::error::{BindError, BindGroupError, Refusal};
use sva_core::event::Overlap;
use sva_core::topology::{PathDefect, PathPolicy};
use sva_core::{AddrRange, AddressSpace, Bdf, Bind, Event};

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};

/// Bytes of the peer's BAR.
const BAR: u64 = 1 << 20;
const MOVER: &str = "03:00.0";
const PEER: &str = "04:00.0";

/// A switch with a data mover and a peer with memory, and `acs` enabled in its downstream ports.
fn switch(policy: PathPolicy, acs: &str, window: u64) -> String {
    format!(
        r#"
        policy = "{policy}"
        host_bridge = [{{ id = "rc", windows = [{{ address = "{window:#x}", size = "{BAR}" }}] }}]
        port = [
            {{ id = "rp", parent = "rc", kind = "root-port", bdf = "00:01.0", secondary = 1, acs = [
                "SV", "RR", "CR", "UF",
            ] }},
            {{ id = "sw", parent = "rp", kind = "upstream", bdf = "01:00.0", secondary = 2 }},
            {{ id = "a", parent = "sw", kind = "downstream", bdf = "02:00.0", secondary = 3, acs = [
                {acs}
            ] }},
            {{ id = "b", parent = "sw", kind = "downstream", bdf = "02:01.0", secondary = 4, acs = [
                {acs}
            ] }},
        ]

        [[device]]
        parent = "a"
        bdf = "{MOVER}"
        model = "data-mover"
        pasid = {{ width = 20 }}
        page_faults = true

        [[device]]
        parent = "b"
        bdf = "{PEER}"
        model = "memory"
        bars = [{{ address = "{window:#x}", size = "{BAR}" }}]
        "#
    )
}

/// A data mover alone below a root port with this ACS control.
fn root_port(acs: &str) -> String {
    format!(
        r#"
        host_bridge = [{{ id = "rc", windows = [{{ address = "0x80000000", size = "1M" }}] }}]

        [[port]]
        id = "rp"
        parent = "rc"
        kind = "root-port"
        bdf = "00:01.0"
        secondary = 3
        acs = [{acs}]

        [[device]]
        parent = "rp"
        bdf = "{MOVER}"
        model = "data-mover"
        pasid = {{ width = 20 }}
        page_faults = true
        "#
    )
}

/// A process with memory where a peer has its BAR.
struct Overlapped {
    process: Process,
    space: Arc<dyn AddressSpace>,
    buffer: Buffer,
    window: AddrRange,
    /// What is written into the window.
    data: Vec<u8>,
}

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let (mut process, space) = context.process()?;
    // Twice the size, so that a naturally aligned window lies inside.
    let buffer = process.buffer(2 * BAR, context.seed())?;
    let window = AddrRange::new(buffer.address.next_multiple_of(BAR), BAR)
        .ok_or_else(|| missing("window"))?;
    let data = std::iter::repeat_with(|| context.rng.u8(..)).take(4096).collect();
    let mut overlapped = Overlapped { process, space, buffer, window, data };
    overlapped.without_redirect(context)?;
    overlapped.with_redirect(context)?;

    let text = "bind_device without request redirect on the path (ACS RR) is refused";
    overlapped.refused(context, text, r#""SV", "CR", "UF""#, PathDefect::NoRequestRedirect)?;
    let text = "bind_device without upstream forwarding (ACS UF) is refused";
    overlapped.refused(context, text, r#""SV", "RR", "CR""#, PathDefect::NoUpstreamForwarding)
}

fn missing(what: &str) -> Failure {
    Failure::Missing { what: what.to_owned() }
}

impl Overlapped {
    fn without_redirect(&mut self, context: &mut Context) -> Result<(), Failure> {
        let strict = Machine::new(&switch(PathPolicy::Strict, "", self.window.first()))?;
        let machine = Machine::new(&switch(PathPolicy::Permissive, "", self.window.first()))?;
        let (mover, peer) = (machine.device(MOVER)?, machine.device(PEER)?);
        let refusal =
            strict.iommu.bind_group(strict.group(MOVER)?, &self.space, Bind::new(())).err();
        let bond = machine.iommu.bind_group(mover.group(), &self.space, Bind::new(()))?;
        let by_policy = matches!(refusal, Some(BindGroupError::Device(Refusal::Path { .. })));
        let figures =
            refusal.map_or_else(Figures::new, |refusal| Figures::new().said("refusal", refusal));
        context.claim(
            &["B1"],
            "without ACS redirect only a fabric with the policy `permissive` binds",
            by_policy,
            figures,
        );

        let expected = Overlap { device: mover.bdf(), range: self.window, decoder: peer.bdf() };
        let told = bond.overlaps() == [expected];
        let figures = bond
            .overlaps()
            .iter()
            .fold(Figures::new(), |figures, overlap| figures.said("overlap", overlap));
        context.claim(&["B7"], "the bind told which memory a peer's window hides", told, figures);

        let before = self.process.crc(&self.buffer)?;
        let _earlier = machine.iommu.drain_events();
        mover.port().write(Some(bond.pasid()), self.window.first(), &self.data)?;
        let in_peer = machine
            .fabric
            .memory(peer.bdf(), 0)
            .ok_or_else(|| missing("peer's memory"))?
            .peek(0, self.data.len());
        let swallowed = in_peer == self.data && self.process.crc(&self.buffer)? == before;
        let misrouted = |event: &Event| {
            matches!(
                event,
                Event::Misrouted { decoder, claimed: true, .. } if *decoder == peer.bdf()
            )
        };
        let logged =
            machine.iommu.drain_events().events.iter().filter(|event| misrouted(event)).count()
                as u64;
        let figures = Figures::new().bytes("bytes", self.data.len() as u64);
        context.claim(
            &["B7"],
            "a write there lands in the peer and never reaches the process",
            swallowed && logged > 0,
            figures,
        );
        Ok(())
    }

    fn with_redirect(&mut self, context: &mut Context) -> Result<(), Failure> {
        let machine = Machine::new(&switch(
            PathPolicy::Strict,
            r#""SV", "RR", "CR", "UF""#,
            self.window.first(),
        ))?;
        let mover = machine.device(MOVER)?;
        let bond = machine.iommu.bind_device(mover, &self.space, Bind::new(()))?;
        mover.port().write(Some(bond.pasid()), self.window.first(), &self.data)?;
        let offset = self.window.first() - self.buffer.address;
        let arrived = self.process.crc_of(&self.buffer, offset, self.data.len() as u64)?
            == crc32c::crc32c(&self.data);
        let peer = machine
            .fabric
            .memory(machine.device(PEER)?.bdf(), 0)
            .ok_or_else(|| missing("peer's memory"))?;
        let held = arrived && peer.writes() == 0 && bond.overlaps().is_empty();
        let figures = Figures::new().bytes("bytes", self.data.len() as u64);
        context.claim(
            &["B7"],
            "with ACS redirect the same write reaches the process, not the peer",
            held,
            figures,
        );
        Ok(())
    }

    fn refused(
        &self,
        context: &mut Context,
        text: &'static str,
        acs: &str,
        defect: fn(Bdf) -> PathDefect,
    ) -> Result<(), Failure> {
        let machine = Machine::new(&root_port(acs))?;
        let device = machine.device(MOVER)?;
        let port = "00:01.0".parse().map_err(|_| missing("port"))?;
        let bound = machine.iommu.bind_device(device, &self.space, Bind::new(()));
        let expected = Refusal::Path { device: device.bdf(), defect: defect(port) };
        let refused = matches!(&bound, Err(BindError::Device(refusal)) if *refusal == expected);
        let figures = bound
            .map_or_else(|refusal| Figures::new().said("refusal", refusal), |_| Figures::new());
        context.claim(&["B1"], text, refused, figures);
        Ok(())
    }
}
