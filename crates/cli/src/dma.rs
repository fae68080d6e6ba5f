//! `sva dma`: bind, work, report, unbind.

use std::fmt::Write as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;
use std::time::Instant;

use serde_json::Value;
use sva_core::{AddrRange, FaultReason};

use crate::args::{DmaCommand, ReadArgs};
use crate::error::{Error, exit};
use crate::fabric;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::report::{self, DmaReport, HexDump};
use crate::session::Session;
use crate::stream::Stream;
use crate::work::{Halt, Work};

/// The most bytes that a JSON object shows.
const JSON_BYTES: u64 = 64 << 10;

/// Runs it; answers the exit code.
pub(crate) fn run(command: &DmaCommand, output: Output) -> u8 {
    let to_stdout = |args: &ReadArgs| args.out.as_deref() == Some(Path::new("-"));
    let bytes_on_stdout = matches!(command, DmaCommand::Read(args) if to_stdout(args));
    let output = Output { bytes_on_stdout, ..output };
    perform(command, output).unwrap_or_else(|error| output.fail(&error))
}

impl DmaCommand {
    fn verb(&self) -> &'static str {
        match self {
            Self::Crc32c(_) => "checksummed",
            Self::Read(_) => "read",
            Self::Write(_) => "wrote",
            Self::Copy(_) => "copied",
            Self::Fill(_) => "filled",
            Self::Compare(_) => "compared",
        }
    }

    /// What can be refused without looking at the process.
    fn check(&self) -> Result<(), Error> {
        if let Self::Read(ReadArgs { out: None, len, target, .. }) = self
            && target.json
            && *len > JSON_BYTES
        {
            return Err(Error::TooLongForJson { len: *len, limit: JSON_BYTES });
        }
        let ranges: &[(u64, u64)] = match self {
            Self::Crc32c(args) => &[(args.addr.unwrap_or(0), args.len.unwrap_or(1))],
            Self::Read(args) => &[(args.addr, args.len)],
            Self::Write(_) => &[],
            Self::Copy(args) => &[(args.src, args.len), (args.dst, args.len)],
            Self::Fill(args) => &[(args.addr, args.len)],
            Self::Compare(args) => &[(args.a, args.len), (args.b, args.len)],
        };
        match ranges.iter().find(|(address, len)| AddrRange::new(*address, *len).is_none()) {
            Some(&(address, len)) => Err(Error::Wraps { address, len }),
            None => Ok(()),
        }
    }
}

/// What an operation found, as the report shows it.
#[derive(Default)]
struct Found {
    result: Value,
    difference_at: Option<Value>,
}

fn perform(command: &DmaCommand, output: Output) -> Result<u8, Error> {
    command.check()?;
    // Opened while a signal still ends the command at once: a FIFO makes it wait for a writer.
    let input = match command {
        DmaCommand::Write(args) => Some(Stream::input(&args.input)?),
        _ => None,
    };
    let target = command.target();
    let (fabric, hint) = fabric::of(target)?;
    hint.iter().for_each(|hint| output.note(&format!("note: {hint}")));
    let interrupts = Interrupts::install().map_err(Error::Signals)?;
    let session = Session::open(target, fabric, &interrupts)?;
    session.overlaps().iter().for_each(|overlap| output.warn(&overlap.to_string()));

    let mut work = Work::new(&session, &interrupts, output.bytes_on_stdout);
    let begun = Instant::now();
    // On a thread of its own: this one stays free to take signals while the target keeps an access
    // waiting.
    let outcome = thread::scope(|scope| {
        let working = scope.spawn(|| operate(command, input, &session, &mut work, output));
        working.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    let (bytes, elapsed) = (work.finish(), begun.elapsed());
    let misrouted = session.misrouted();
    misrouted.sentences().for_each(|caught| output.warn(&caught));

    let (found, fault, signal) = match outcome {
        Ok(found) => (found, None, None),
        Err(Halt::Fault(fault)) => (command.nothing_found(), Some(fault), None),
        Err(Halt::Interrupted(interrupted)) => (command.nothing_found(), None, Some(interrupted)),
        Err(Halt::Failed(error)) => return Err(error),
    };
    let Found { result, difference_at } = found;
    let report = DmaReport {
        device: session.device(),
        pasid: session.pasid(),
        bytes,
        result,
        difference_at,
        fault,
        overlaps: session.overlaps(),
        misrouted: misrouted.count(),
        elapsed,
    };
    output.print(&if output.json {
        report::object(&report)?
    } else {
        report.line(command.verb())
    })?;
    if let Some(interrupted) = signal {
        output.note(&format!("{interrupted} after {bytes} bytes"));
        return Ok(exit::signal(interrupted.signal));
    }
    let Some(fault) = fault else { return Ok(exit::DONE) };
    let next = match fault.reason {
        FaultReason::SpaceEnded => "the process has exited or replaced its image".to_owned(),
        _ => format!("sva regions --pid {} shows what it may access", target.pid),
    };
    output.note(&format!("after {bytes} bytes the device reported a fault: {fault}; {next}"));
    Ok(exit::FAULT)
}

impl DmaCommand {
    fn nothing_found(&self) -> Found {
        Found {
            result: Value::Null,
            difference_at: matches!(self, Self::Compare(_)).then_some(Value::Null),
        }
    }
}

fn operate(
    command: &DmaCommand,
    input: Option<Stream>,
    session: &Session,
    work: &mut Work<'_>,
    output: Output,
) -> Result<Found, Halt> {
    let mut found = command.nothing_found();
    match command {
        DmaCommand::Crc32c(args) => {
            let (address, len) = match (&args.region, args.addr, args.len) {
                (Some(name), ..) => session.region(name).map_err(Halt::Failed)?,
                // The command line has both or neither.
                (None, address, len) => (address.unwrap_or(0), len.unwrap_or(0)),
            };
            found.result = format!("0x{:08x}", work.crc(address, len)?).into();
        }
        DmaCommand::Read(args) => found.result = read(args, work, output)?,
        DmaCommand::Write(args) => {
            input.map_or(Ok(()), |mut input| work.write(args.addr, &mut input))?
        }
        DmaCommand::Copy(args) => work.copy(args.src, args.dst, args.len)?,
        DmaCommand::Fill(args) => work.fill(args.addr, args.len, args.byte)?,
        DmaCommand::Compare(args) => {
            let difference = work.compare(args.a, args.b, args.len)?;
            found = Found {
                result: difference.is_none().into(),
                difference_at: Some(difference.into()),
            };
        }
    }
    Ok(found)
}

/// Reads to where it was asked for; answers the report's result.
fn read(args: &ReadArgs, work: &mut Work<'_>, output: Output) -> Result<Value, Halt> {
    let interrupts = work.interrupts();
    if let Some(path) = &args.out {
        let mut file = Stream::output(path)?;
        return work
            .read(args.addr, args.len, |bytes| Ok(file.drain(bytes, interrupts)?))
            .map(|()| Value::Null);
    }
    if output.json {
        let mut text = String::new();
        work.read(args.addr, args.len, |bytes| {
            for byte in bytes {
                // A string takes everything.
                let _ = write!(text, "{byte:02x}");
            }
            Ok(())
        })?;
        return Ok(text.into());
    }
    let mut stdout = Stream::output(Path::new("-"))?;
    let mut dump = HexDump::new(args.addr, output.terminal.columns_or_standard());
    let outcome = work.read(args.addr, args.len, |bytes| {
        Ok(stdout.drain(dump.push(bytes).as_bytes(), interrupts)?)
    });
    // The line that a fault cut short; after a signal nothing more is written.
    if !matches!(outcome, Err(Halt::Interrupted(_))) {
        stdout.drain(dump.finish().as_bytes(), interrupts)?;
    }
    outcome.map(|()| Value::Null)
}
