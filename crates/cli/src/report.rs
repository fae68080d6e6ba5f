//! Results of the data mover: one line for people, one object for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sva_core::event::Overlap;
use sva_core::{Bdf, Fault, Pasid};

use crate::error::Error;

/// What came of a data mover's work. Its JSON form is described in docs/cli.md and stable.
#[derive(Debug, Serialize)]
pub(crate) struct DmaReport<'a> {
    /// The device, as `ssss:bb:dd.f`.
    #[serde(serialize_with = "text")]
    pub(crate) device: Bdf,
    /// The PASID that its transactions carried.
    #[serde(serialize_with = "number")]
    pub(crate) pasid: Pasid,
    /// Bytes done, exactly, up to the fault where there was one.
    pub(crate) bytes: u64,
    /// What was computed; null where nothing is computed, or the work did not come to its end.
    pub(crate) result: Value,
    /// Compare only: the first address offset at which the ranges differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) difference_at: Option<Value>,
    /// The fault that ended the work early.
    #[serde(serialize_with = "fault")]
    pub(crate) fault: Option<Fault>,
    /// Memory of the process that a peer decodes.
    #[serde(serialize_with = "overlaps")]
    pub(crate) overlaps: &'a [Overlap],
    /// How many transactions peers caught, at least.
    pub(crate) misrouted: u64,
    /// How long the work took, files included, attaching and binding not.
    #[serde(rename = "elapsed_ns", serialize_with = "nanoseconds")]
    pub(crate) elapsed: Duration,
}

fn text<S: serde::Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn number<S: serde::Serializer>(pasid: &Pasid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(pasid.get())
}

fn nanoseconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
}

fn fault<S: serde::Serializer>(fault: &Option<Fault>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shape {
        address: String,
        access: String,
        reason: String,
    }
    let shape = |f: Fault| Shape {
        address: format!("{:#x}", f.address),
        access: f.access.to_string(),
        reason: f.reason.to_string(),
    };
    fault.map(shape).serialize(serializer)
}

fn overlaps<S: serde::Serializer>(overlaps: &&[Overlap], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shape {
        device: String,
        address: String,
        last: String,
        decoder: String,
    }
    serializer.collect_seq(overlaps.iter().map(|overlap| Shape {
        device: overlap.device.to_string(),
        address: format!("{:#x}", overlap.range.first()),
        last: format!("{:#x}", overlap.range.last()),
        decoder: overlap.decoder.to_string(),
    }))
}

impl DmaReport<'_> {
    /// One line for people; `verb` such as `copied`.
    pub(crate) fn line(&self, verb: &str) -> String {
        let mut line = String::new();
        if let Some(result) = self.result_text() {
            let _ = write!(line, "{result}  ");
        }
        let _ = write!(
            line,
            "{verb} {}  {} PASID {}  {}",
            bytes(self.bytes),
            self.device,
            self.pasid,
            duration(self.elapsed)
        );
        let seconds = self.elapsed.as_secs_f64();
        if self.bytes >= 1 << 20 && seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = self.bytes as f64 / seconds / 1e9;
            let _ = write!(line, "  {rate:.2} GB/s");
        }
        line
    }

    fn result_text(&self) -> Option<String> {
        match (&self.result, &self.difference_at) {
            (Value::Bool(true), _) => Some("equal".to_owned()),
            (Value::Bool(false), Some(Value::Number(at))) => {
                Some(format!("different at offset {at}"))
            }
            (Value::String(text), _) => Some(text.clone()),
            _ => None,
        }
    }
}

fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

fn duration(value: Duration) -> String {
    let ns = value.as_nanos();
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", value.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", value.as_secs_f64()),
    }
}

/// Any value as the line of JSON that `--json` prints.
///
/// # Errors
/// None in practice: every map here has strings for keys.
pub(crate) fn object(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|e| Error::File { path: "standard output".into(), source: e.into() })
}

/// Shows bytes as lines of address, hexadecimal and text: sixteen a line, or eight where the line
/// would be too long.
#[derive(Debug)]
pub(crate) struct HexDump {
    next: u64,
    per_line: usize,
    /// The bytes of the line that is not complete.
    begun: Vec<u8>,
}

impl HexDump {
    /// Columns of a line of sixteen bytes.
    const COLUMNS: usize = 86;

    /// From `address` on, in lines of at most so many columns.
    pub(crate) fn new(address: u64, columns: usize) -> Self {
        let per_line = if columns < Self::COLUMNS { 8 } else { 16 };
        Self { next: address, per_line, begun: Vec::with_capacity(per_line) }
    }

    /// The lines that `data` completes.
    pub(crate) fn push(&mut self, data: &[u8]) -> String {
        let mut out = String::with_capacity(data.len() / 16 * 80);
        for &byte in data {
            self.begun.push(byte);
            if self.begun.len() == self.per_line {
                out.push_str(&self.finish());
            }
        }
        out
    }

    /// The last, shorter line.
    pub(crate) fn finish(&mut self) -> String {
        if self.begun.is_empty() {
            return String::new();
        }
        let mut out = format!("{:016x} ", self.next);
        for at in 0..self.per_line {
            let gap = if at == 8 { " " } else { "" };
            let _ = match self.begun.get(at) {
                Some(byte) => write!(out, "{gap} {byte:02x}"),
                None => write!(out, "{gap}   "),
            };
        }
        let text: String = self
            .begun
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        let _ = writeln!(out, "  |{text}|");
        self.next = self.next.wrapping_add(self.begun.len() as u64);
        self.begun.clear();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hex_dump_cut_anywhere_is_the_same() {
        let data: Vec<u8> = (0..100).collect();
        let whole = {
            let mut d = HexDump::new(0x1000, 100);
            d.push(&data) + &d.finish()
        };
        for cut in 0..=data.len() {
            let mut dump = HexDump::new(0x1000, 100);
            let parts = dump.push(&data[..cut]) + &dump.push(&data[cut..]) + &dump.finish();
            assert_eq!(parts, whole);
        }
        assert_eq!(whole.lines().count(), 7);
        let third = whole.lines().nth(2).and_then(|line| line.split_once("  |"));
        let bytes = "0000000000001020  20 21 22 23 24 25 26 27  28 29 2a 2b 2c 2d 2e 2f";
        assert_eq!(third, Some((bytes, " !\"#$%&'()*+,-./|")));
        assert_eq!(
            whole.lines().last(),
            Some("0000000000001060  60 61 62 63                                       |`abc|")
        );
    }

    #[test]
    fn a_narrow_terminal_gets_eight_bytes_a_line() {
        let longest = |columns| {
            let mut dump = HexDump::new(0, columns);
            let lines = dump.push(&[0; 32]);
            lines.lines().map(str::len).max()
        };
        assert_eq!((longest(85), longest(86)), (Some(53), Some(HexDump::COLUMNS)));
    }

    #[test]
    fn the_object_has_exactly_the_keys_that_it_promises() {
        let device = Bdf::new(0, 1, 0, 0).expect("in range");
        let pasid = Pasid::new(7).expect("in range");
        let fault = Fault {
            device,
            pasid: Some(pasid),
            address: 0x1000,
            access: sva_core::Access::READ,
            reason: sva_core::FaultReason::NotMapped,
        };
        let report = DmaReport {
            device,
            pasid,
            bytes: 3,
            result: Value::Null,
            difference_at: None,
            fault: Some(fault),
            overlaps: &[],
            misrouted: 0,
            elapsed: Duration::from_nanos(5),
        };
        let json = serde_json::to_string(&report).expect("serialises");
        let expected = [
            r#"{"device":"0000:01:00.0","pasid":7,"bytes":3,"result":null,"#,
            r#""fault":{"address":"0x1000","access":"read","reason":"nothing is mapped there"},"#,
            r#""overlaps":[],"misrouted":0,"elapsed_ns":5}"#,
        ];
        assert_eq!(json, expected.concat());
    }
}
