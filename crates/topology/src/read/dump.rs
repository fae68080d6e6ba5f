//! Saved dumps: a [`Reading`] in JSON (docs/topology-dump.md).

use serde::{Deserialize, Serialize};

use super::error::{DUMP_VERSION, ReadError};
use super::sanitize::sanitize;
use crate::machine::Reading;

#[derive(Serialize)]
struct Written<'r> {
    sva_topology_dump: u64,
    machine: &'r Reading,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "sva_topology_dump")]
    _version: u64,
    machine: Reading,
}

/// The one field that all versions have.
#[derive(Deserialize)]
struct Version {
    sva_topology_dump: u64,
}

/// Writes a reading as JSON that [`from_text`](super::from_text) reads back to the same machine.
pub fn save(reading: &Reading) -> String {
    let mut text = serde_json::to_string_pretty(&Written {
        sva_topology_dump: DUMP_VERSION,
        machine: reading,
    })
    // Keys are texts and nothing here can fail to be written to memory.
    .unwrap_or_default();
    text.push('\n');
    text
}

/// Reads a dump back.
pub(super) fn parse(text: &[u8]) -> Result<Reading, ReadError> {
    // The version first: a later one may have fields that this program does not know, and that
    // would be a misleading complaint.
    let version: Version = serde_json::from_slice(text).map_err(|error| damaged(&error))?;
    if version.sva_topology_dump != DUMP_VERSION {
        let at =
            text.windows(KEY.len()).position(|window| window == KEY.as_bytes()).unwrap_or_default();
        let (line, column) = place(text, at);
        return Err(ReadError::Version { line, column, found: version.sva_topology_dump });
    }
    let mut reading: Reading =
        serde_json::from_slice::<Read>(text).map_err(|error| damaged(&error))?.machine;
    if reading.functions.is_empty() {
        let (line, column) = place(text, text.len());
        return Err(ReadError::NoFunctions { line, column });
    }
    sanitize_all(&mut reading);
    Ok(reading)
}

const KEY: &str = "\"sva_topology_dump\"";

/// Line and column, from 1, of the byte at `at`.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    (line, before.len() - start + 1)
}

fn damaged(error: &serde_json::Error) -> ReadError {
    let problem = error.to_string();
    // Said already, as line and column.
    let problem = problem.rsplit_once(" at line ").map_or(problem.as_str(), |(problem, _)| problem);
    ReadError::Dump { line: error.line(), column: error.column(), problem: sanitize(problem) }
}

/// Texts of a dump that someone edited may be of any length and kind.
fn sanitize_all(reading: &mut Reading) {
    let host = &mut reading.host;
    let texts =
        host.options.iter_mut().flatten().chain(&mut host.kernel).chain(&mut host.architecture);
    let texts = texts.chain(host.iommus.iter_mut().map(|iommu| &mut iommu.name));
    let functions = reading.functions.iter_mut();
    let names = functions.flat_map(|function| {
        function.name.iter_mut().chain(&mut function.class_name).chain(&mut function.driver)
    });
    for text in texts.chain(names) {
        *text = sanitize(text);
    }
}
