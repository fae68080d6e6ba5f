//! Where a machine comes from: this one, a folder with a copy of its `/sys` and `/proc`, a dump,
//! the text of lspci; and a kernel log beside it.

use std::path::Path;

use sva_core::Bdf;
use sva_topology::machine::{Machine, Reading};
use sva_topology::read::{self, LogMatch};

use crate::error::Error;
use crate::fabric::bytes;

/// What a folder has to hold, to be taken for the copy of a machine's files.
const DEVICES: &str = "sys/bus/pci/devices";

/// How many functions are named where one was not found.
const NEAR: usize = 5;

/// What is read of the machine in the file or folder `from`, or of this one.
///
/// # Errors
/// A file cannot be read or is no dump; this machine shows no PCI devices.
pub(super) fn reading(from: Option<&Path>) -> Result<Reading, Error> {
    match from {
        None => read::scan(Path::new("/")).map_err(Error::NoPci),
        Some(path) => of_path(path),
    }
}

/// The same with what the kernel log `dmesg` says, and how far it is about these functions.
///
/// # Errors
/// As [`reading`]; the log cannot be read.
pub(super) fn reading_with(
    from: Option<&Path>,
    dmesg: &Path,
) -> Result<(Reading, LogMatch), Error> {
    if from.is_some_and(is_standard) && is_standard(dmesg) {
        return Err(Error::StandardInputTwice);
    }
    let mut reading = reading(from)?;
    let log = bytes(dmesg, read::LONGEST)?;
    let matched = read::add_dmesg(&mut reading, &log)
        .map_err(|source| Error::Dump { path: name(dmesg), source })?;
    Ok((reading, matched))
}

fn of_path(path: &Path) -> Result<Reading, Error> {
    let dump = |source| Error::Dump { path: name(path), source };
    if path.is_dir() && !path.join(DEVICES).is_dir() {
        return Err(Error::NoMachineIn { path: path.to_path_buf(), wanted: DEVICES });
    }
    if path.is_dir() {
        read::scan(path).map_err(dump)
    } else {
        read::parse(&bytes(path, read::LONGEST)?).map_err(dump)
    }
}

pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn name(path: &Path) -> std::path::PathBuf {
    if is_standard(path) { "standard input".into() } else { path.to_path_buf() }
}

/// Where in the machine's functions the one at `bdf` is.
///
/// # Errors
/// There is none; the error names near ones.
pub(super) fn find(machine: &Machine, bdf: Bdf) -> Result<usize, Error> {
    machine
        .find(bdf)
        .ok_or_else(|| Error::NoSuchFunction { function: bdf, near: near(machine, bdf) })
}

/// The functions that are nearest to an address that there is none at: in another segment, in the
/// same slot, on the same bus, and then any.
fn near(machine: &Machine, bdf: Bdf) -> Vec<Bdf> {
    let distance = |other: &Bdf| {
        let (bus, slot) = (other.bus() == bdf.bus(), other.device() == bdf.device());
        let segment = other.segment() == bdf.segment();
        match (segment, bus, slot) {
            (false, true, true) if other.function() == bdf.function() => 0,
            (true, true, true) => 1,
            (true, true, false) => 2,
            (true, false, true) => 3,
            _ => 4,
        }
    };
    let mut all: Vec<Bdf> = machine.functions().iter().map(|function| function.bdf).collect();
    all.sort_by_key(|other| (distance(other), *other));
    all.truncate(NEAR);
    all
}
