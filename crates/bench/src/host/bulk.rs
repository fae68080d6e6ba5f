//! A live process's memory through bind and data mover, beside the bare system calls.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use sva_bench::row::{Goal, Rows, median};
use sva_bench::system::{RemoteIoVec, read_process, write_process};
use sva_core::{Access, Segment};

use super::mover::BoundMover;
use crate::target::Target;

const MIB: usize = 1 << 20;
const PIECES: usize = 1024;
const PIECE: usize = 64;

pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let sizes: &[usize] = if quick { &[MIB] } else { &[MIB, 16 * MIB, 256 * MIB] };
    let rounds = if quick { 5 } else { 40 };
    for &size in sizes {
        let target = Target::start(size)?;
        let space = sva_host::attach(target.pid())?;
        let bound = BoundMover::new(&(space as _))?;
        let repeats = (64 * MIB / size).clamp(1, 64);
        let rate = (size * repeats) as f64 / MIB as f64;
        read(&target, &bound, size, rounds, repeats, rate, rows)?;
        write(&target, &bound, size, rounds, repeats, rate, rows)?;
    }
    gather(rounds * 20, rows)
}

/// The medians of two things done in turn, in units a second: `work` units are done by each call.
fn in_turn(
    rounds: usize,
    work: f64,
    mut value: impl FnMut() -> Result<(), Box<dyn Error>>,
    mut baseline: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(f64, f64), Box<dyn Error>> {
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    // Once unmeasured: the buffers' pages are made.
    value()?;
    baseline()?;
    for _ in 0..rounds {
        let start = Instant::now();
        value()?;
        values.push(work / start.elapsed().as_secs_f64());
        let start = Instant::now();
        baseline()?;
        baselines.push(work / start.elapsed().as_secs_f64());
    }
    Ok((median(&mut values), median(&mut baselines)))
}

fn read(
    target: &Target,
    bound: &BoundMover,
    size: usize,
    rounds: usize,
    repeats: usize,
    rate: f64,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let (mut buf, mut bare) = (vec![0; size], vec![0; size]);
    let (value, baseline) = in_turn(
        rounds,
        rate,
        || {
            for _ in 0..repeats {
                bound.mover.export(
                    Some(bound.bond.pasid()),
                    target.address,
                    black_box(&mut buf),
                    &mut |_| (),
                )?;
            }
            Ok(())
        },
        || {
            for _ in 0..repeats {
                let remote = [RemoteIoVec { base: target.address as usize, len: size }];
                let done = read_process(target.pid(), black_box(&mut bare), &remote)?;
                assert_eq!(done, size);
            }
            Ok(())
        },
    )?;
    assert_eq!(buf, bare, "both read the same");
    rows.add(
        format!("read {} MiB, bare process_vm_readv", size / MIB),
        "MiB/s",
        value,
        baseline,
        Goal::RatioAtLeast(0.9),
    );
    Ok(())
}

fn write(
    target: &Target,
    bound: &BoundMover,
    size: usize,
    rounds: usize,
    repeats: usize,
    rate: f64,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let data = vec![7; size];
    let (value, baseline) = in_turn(
        rounds,
        rate,
        || {
            for _ in 0..repeats {
                bound.mover.import(
                    Some(bound.bond.pasid()),
                    target.address,
                    black_box(&data),
                    &mut |_| (),
                )?;
            }
            Ok(())
        },
        || {
            for _ in 0..repeats {
                let remote = [RemoteIoVec { base: target.address as usize, len: size }];
                let done = write_process(target.pid(), black_box(&data), &remote)?;
                assert_eq!(done, size);
            }
            Ok(())
        },
    )?;
    rows.add(
        format!("write {} MiB, bare process_vm_writev", size / MIB),
        "MiB/s",
        value,
        baseline,
        Goal::RatioAtLeast(0.9),
    );
    Ok(())
}

/// 1,024 pieces of 64 bytes, one a page, in one gather: beside one bare call with as many pieces,
/// and beside as many bare calls.
fn gather(rounds: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let target = Target::start(PIECES * 4096)?;
    let space = sva_host::attach(target.pid())?;
    let bound = BoundMover::new(&(space as _))?;
    let address = |n: usize| target.address as usize + n * 4096 + (n * 192) % 4032;
    let pieces: Vec<Segment> =
        (0..PIECES).map(|n| Segment { address: address(n) as u64, len: PIECE as u64 }).collect();
    let remote: Vec<RemoteIoVec> =
        (0..PIECES).map(|n| RemoteIoVec { base: address(n), len: PIECE }).collect();
    let port = bound.device.port();
    let (mut buf, mut bare, mut single) =
        (vec![0; PIECES * PIECE], vec![0; PIECES * PIECE], vec![0; PIECES * PIECE]);
    let mut sva =
        || Ok(port.gather(Some(bound.bond.pasid()), black_box(&pieces), &mut buf, Access::READ)?);
    let one_call = || {
        assert_eq!(read_process(target.pid(), &mut bare, black_box(&remote))?, PIECES * PIECE);
        Ok(())
    };
    let (value, baseline) = in_turn(rounds, PIECES as f64, &mut sva, one_call)?;
    rows.add(
        "gather 1024 x 64 B, one bare call of 1024 pieces",
        "pieces/s",
        value,
        baseline,
        Goal::RatioAtLeast(0.9),
    );
    let single_calls = || {
        for (piece, into) in remote.iter().zip(single.chunks_mut(PIECE)) {
            read_process(target.pid(), into, black_box(std::slice::from_ref(piece)))?;
        }
        Ok(())
    };
    let (value, baseline) = in_turn(rounds / 4, PIECES as f64, &mut sva, single_calls)?;
    rows.add("gather 1024 x 64 B, 1024 bare single calls", "pieces/s", value, baseline, Goal::None);
    assert!(buf == bare && bare == single, "all read the same");
    Ok(())
}
