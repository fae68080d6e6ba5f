//! The data mover and the walker beside what the process computes itself.

use std::time::Instant;

use sva_core::Bind;
use sva_devices::{CompletionRecord, Descriptor, Status};

use crate::demo::claim::Figures;
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;

const LEN: u64 = 16 << 20;
const NODES: u64 = 20_000;
const VERTICES: u32 = 30_000;
const EDGES: u64 = 120_000;

pub(super) fn run(context: &mut Context) -> Result<(), Failure> {
    let machine = Machine::built_in()?;
    let (mut process, space) = context.process()?;
    let bond = machine.iommu.bind_device(machine.device("01:00.0")?, &space, Bind::new(()))?;
    let walking = machine.iommu.bind_device(machine.device("03:00.0")?, &space, Bind::new(()))?;
    let pasid = Some(bond.pasid());
    let mover = machine.mover("01:00.0")?;

    let source = process.buffer(LEN, context.seed())?;
    let begun = Instant::now();
    let completion = mover
        .execute(pasid, &Descriptor::crc(source.address, source.size(), 0).block_on_fault())?;
    let time = begun.elapsed();
    let own = process.crc(&source)?;
    let equal = completion.is_success() && completion.record.crc() == own;
    context.claim(
        &[],
        "the CRC32C by the data mover is the one that the process computes",
        equal,
        Figures::new().rate(LEN, time),
    );

    let destination = process.buffer(LEN, context.seed())?;
    let record = process.buffer(64, context.seed())?;
    let before = process.crc(&destination)?;
    // A record is 32-byte aligned; one of the two places in 64 bytes is.
    let place = record.address.next_multiple_of(32);
    let descriptor = Descriptor::memory_move(source.address, destination.address, source.size())
        .block_on_fault();
    let begun = Instant::now();
    let completion = mover.execute(pasid, &descriptor.with_completion(place))?;
    let time = begun.elapsed();
    let moved = completion.is_success()
        && process.crc(&destination)? == own
        && process.crc(&source)? == own
        && before != own;
    context.claim(
        &[],
        "what the data mover moves is there for the process, byte for byte",
        moved,
        Figures::new().rate(LEN, time),
    );

    // Success, all bytes done, nothing else (linux/idxd.h, struct dsa_completion_record).
    let mut expected = [0; CompletionRecord::SIZE];
    expected[0] = Status::SUCCESS.0;
    expected[4..8].copy_from_slice(&source.size().to_le_bytes());
    let found = process.crc_of(&record, place - record.address, expected.len() as u64)?;
    let written = found == crc32c::crc32c(&expected);
    context.claim(
        &[],
        "its completion record is in the process's memory",
        written,
        Figures::new().bytes("bytes", expected.len() as u64),
    );

    let walker = machine.walker("03:00.0")?;
    let list = process.build_list(NODES, context.seed())?;
    let begun = Instant::now();
    let walk = walker.walk_list(Some(walking.pasid()), &list, |_, _| {})?;
    let time = begun.elapsed();
    let equal = (walk.nodes, walk.checksum) == process.walk_list()? && walk.nodes == NODES;
    let figures = Figures::new().count("nodes", walk.nodes).time("elapsed_us", time);
    context.claim(&[], "the walker finds in a linked list what the process finds", equal, figures);

    let graph = process.build_graph(VERTICES, EDGES, context.seed())?;
    let begun = Instant::now();
    let search = walker.search_graph(Some(walking.pasid()), &graph)?;
    let time = begun.elapsed();
    let (reached, depth, wrong) = process.search_graph(graph.source)?;
    let equal = wrong == 0 && (search.reached, search.depth) == (reached, depth) && reached > 1;
    let figures = Figures::new().count("vertices", reached).time("elapsed_us", time);
    context.claim(
        &[],
        "its breadth-first search finds the distances the process finds",
        equal,
        figures,
    );
    Ok(())
}
