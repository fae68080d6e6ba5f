//! The object of `sva topology --sva --json`. Its keys are described in docs/topology.md: keys may
//! be added, never renamed or removed; a change of what a key means raises [`VERSION`].

use serde::Serialize;
use sva_core::Bdf;
use sva_topology::ready::{Gate, Readiness, Verdict};

use super::analysis::Analysis;
use super::json::{Asked, GateObject, HostObject, address, ids};
use super::sva;

/// The version of the object.
const VERSION: u64 = 1;

#[derive(Serialize)]
pub(super) struct Object {
    sva_topology_readiness: u64,
    devices: Vec<Device>,
    summary: Summary,
    disabled_by_settings: Vec<Setting>,
    policy: String,
    host: HostObject,
    notes: Vec<String>,
    #[serde(flatten)]
    asked: Asked,
}

impl Object {
    /// The readiness of all devices of a machine, with what is to be said of it.
    pub(super) fn new(analysis: &Analysis, notes: Vec<String>, asked: Asked) -> Self {
        let Analysis { machine, grouping, readiness, .. } = analysis;
        Self {
            sva_topology_readiness: VERSION,
            devices: readiness.iter().filter_map(|row| Device::new(analysis, row)).collect(),
            summary: Summary::new(readiness),
            disabled_by_settings: sva::disabled_by_settings(readiness)
                .map(|check| Setting {
                    gate: check.gate.word(),
                    finding: check.finding.to_string(),
                })
                .collect(),
            policy: grouping.policy().to_string(),
            host: HostObject::new(machine),
            notes,
            asked,
        }
    }
}

/// A device that issues requests for a process.
#[derive(Serialize)]
struct Device {
    #[serde(serialize_with = "address")]
    bdf: Bdf,
    name: Option<String>,
    ids: Option<String>,
    driver: Option<String>,
    group: Option<u32>,
    verdict: &'static str,
    gate: Option<&'static str>,
    finding: Option<String>,
    gates: Vec<GateObject>,
}

impl Device {
    fn new(analysis: &Analysis, row: &Readiness) -> Option<Self> {
        let function = analysis.machine.functions().get(row.function)?;
        let verdict = row.verdict();
        Some(Self {
            bdf: function.bdf,
            name: function.name.clone(),
            ids: function.ids.map(|fact| ids(fact.value)),
            driver: function.driver.clone(),
            group: analysis.grouping.of(row.function),
            verdict: verdict.word(),
            gate: verdict.gate().map(Gate::word),
            finding: row.decisive().map(|check| check.finding.to_string()),
            gates: row.checks.iter().map(GateObject::new).collect(),
        })
    }
}

/// How many devices have each verdict.
#[derive(Default, Serialize)]
struct Summary {
    devices: usize,
    ready: usize,
    switched_off: usize,
    fails: usize,
    unknown: usize,
}

impl Summary {
    fn new(rows: &[Readiness]) -> Self {
        let mut summary = Self { devices: rows.len(), ..Self::default() };
        for row in rows {
            *match row.verdict() {
                Verdict::Ready => &mut summary.ready,
                Verdict::SwitchedOff(_) => &mut summary.switched_off,
                Verdict::Fails(_) => &mut summary.fails,
                Verdict::Unknown(_) => &mut summary.unknown,
            } += 1;
        }
        summary
    }
}

/// A setting of the machine that shuts a gate for its devices.
#[derive(Serialize)]
struct Setting {
    gate: &'static str,
    finding: String,
}
