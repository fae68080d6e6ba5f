//! The object of `sva topology --json`. Its keys are described in docs/topology.md: keys may be
//! added, never renamed or removed.

use serde::{Serialize, Serializer};
use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::groups::{
    self, Difference, Explanation, Group, Grouping, Pair, PairVerdict, SelfCheck,
};
use sva_topology::machine::{Fact, Ids, Machine, PciFunction, Source};
use sva_topology::ready::{Check, Readiness};

use super::analysis::Analysis;

#[derive(Serialize)]
pub(super) struct Object {
    devices: Vec<Device>,
    groups: Vec<GroupObject>,
    self_check: SelfCheckObject,
    policy: String,
    host: HostObject,
    notes: Vec<String>,
    #[serde(flatten)]
    asked: Asked,
}

/// What was asked of one function and of a pair; each key is left out where nothing was.
#[derive(Serialize)]
pub(super) struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<ExplanationObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<PairObject>,
}

impl Asked {
    /// The explanation of one function and of a pair, given as indexes.
    pub(super) fn new(
        analysis: &Analysis,
        explained: Option<usize>,
        pair: Option<(usize, usize)>,
    ) -> Self {
        let Analysis { machine, grouping, .. } = analysis;
        let explanation = |function| {
            ExplanationObject::new(machine, &groups::explain(machine, grouping, function))
        };
        let pair_object =
            |(a, b)| PairObject::new(machine, &groups::why_not(machine, grouping, a, b));
        Self { explanation: explained.map(explanation), why_not: pair.map(pair_object) }
    }
}

impl Object {
    /// All of a machine, and what is to be said of it.
    pub(super) fn new(analysis: &Analysis, notes: Vec<String>, asked: Asked) -> Self {
        let Analysis { machine, grouping, check, readiness, .. } = analysis;
        Self {
            devices: devices(machine, grouping, readiness),
            groups: grouping
                .groups()
                .iter()
                .map(|group| GroupObject::new(machine, grouping, group))
                .collect(),
            self_check: SelfCheckObject::new(machine, check),
            policy: grouping.policy().to_string(),
            host: HostObject::new(machine),
            notes,
            asked,
        }
    }
}

#[derive(Serialize)]
struct Device {
    #[serde(serialize_with = "address")]
    bdf: Bdf,
    group: Option<u32>,
    name: Option<String>,
    ids: Option<String>,
    class: Option<String>,
    kind: Option<&'static str>,
    #[serde(serialize_with = "optional_address")]
    parent: Option<Bdf>,
    driver: Option<String>,
    multifunction: Sourced<bool>,
    acs: Sourced<Option<AcsObject>>,
    /// Left out where the source does not list the kernel's groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_group: Option<Option<u32>>,
    sva: Option<SvaObject>,
}

/// A value with its source.
#[derive(Serialize)]
struct Sourced<T> {
    value: T,
    source: &'static str,
    because: Option<String>,
}

impl<T> Sourced<T> {
    fn new(value: T, source: Source) -> Self {
        Self {
            value,
            source: source.word(),
            because: source.basis().map(|basis| basis.to_string()),
        }
    }
}

#[derive(Serialize)]
struct AcsObject {
    implemented: Vec<&'static str>,
    enabled: Vec<&'static str>,
}

#[derive(Serialize)]
struct SvaObject {
    verdict: &'static str,
    gate: Option<&'static str>,
    gates: Vec<GateObject>,
}

#[derive(Serialize)]
pub(super) struct GateObject {
    gate: &'static str,
    outcome: &'static str,
    finding: String,
    source: &'static str,
    because: Option<String>,
}

fn devices(machine: &Machine, grouping: &Grouping, readiness: &[Readiness]) -> Vec<Device> {
    let mut rows = readiness.iter().peekable();
    let functions = machine.functions().iter().enumerate();
    // Both lists are in the order of addresses.
    functions
        .map(|(index, function)| {
            Device::new(
                machine,
                grouping,
                index,
                function,
                rows.next_if(|row| row.function == index),
            )
        })
        .collect()
}

impl Device {
    fn new(
        machine: &Machine,
        grouping: &Grouping,
        index: usize,
        function: &PciFunction,
        row: Option<&Readiness>,
    ) -> Self {
        let acs = function.acs.value.map(|acs| AcsObject {
            implemented: names(acs.implemented),
            enabled: names(acs.enabled),
        });
        let read = function
            .acs
            .value
            .map_or(function.acs.source, |acs| acs.implemented.source.weaker(acs.enabled.source));
        Self {
            bdf: function.bdf,
            group: grouping.of(index),
            name: function.name.clone(),
            ids: function.ids.map(|fact| ids(fact.value)),
            class: function.class.map(|fact| format!("{:06x}", fact.value.0)),
            kind: function.express.value.map(|express| express.kind.name()),
            parent: machine
                .bridges_above(index)
                .next()
                .and_then(|bridge| machine.functions().get(bridge))
                .map(|bridge| bridge.bdf),
            driver: function.driver.clone(),
            multifunction: Sourced::new(
                function.multifunction.value,
                function.multifunction.source,
            ),
            acs: Sourced::new(acs, function.acs.source.weaker(read)),
            kernel_group: function.kernel_group,
            sva: row.map(SvaObject::new),
        }
    }
}

/// Vendor and device, such as `8086:0d57`.
pub(super) fn ids(ids: Ids) -> String {
    ids.to_string()
}

fn names(bits: Fact<AcsBits>) -> Vec<&'static str> {
    bits.value.names().collect()
}

impl SvaObject {
    fn new(row: &Readiness) -> Self {
        let verdict = row.verdict();
        Self {
            verdict: verdict.word(),
            gate: verdict.gate().map(|gate| gate.word()),
            gates: row.checks.iter().map(GateObject::new).collect(),
        }
    }
}

impl GateObject {
    pub(super) fn new(check: &Check) -> Self {
        Self {
            gate: check.gate.word(),
            outcome: check.outcome().word(),
            finding: check.finding.to_string(),
            source: check.source.word(),
            because: check.source.basis().map(|basis| basis.to_string()),
        }
    }
}

#[derive(Serialize)]
struct GroupObject {
    id: u32,
    members: Vec<String>,
    reasons: Vec<ReasonObject>,
}

#[derive(Serialize)]
struct ReasonObject {
    member: String,
    with: String,
    text: String,
    source: &'static str,
    because: Option<String>,
}

impl GroupObject {
    fn new(machine: &Machine, grouping: &Grouping, group: &Group) -> Self {
        let reason = |reason: &groups::Reason| ReasonObject {
            member: text(machine, reason.member),
            with: text(machine, reason.with),
            text: reason.describe(machine, grouping),
            source: reason.source.word(),
            because: reason.source.basis().map(|basis| basis.to_string()),
        };
        Self {
            id: group.id,
            members: texts(machine, &group.members),
            reasons: group.reasons.iter().map(reason).collect(),
        }
    }
}

#[derive(Serialize)]
struct SelfCheckObject {
    compared: usize,
    agrees: Option<bool>,
    differences: Vec<DifferenceObject>,
}

#[derive(Serialize)]
struct DifferenceObject {
    text: String,
    members: Vec<String>,
}

impl SelfCheckObject {
    fn new(machine: &Machine, check: &SelfCheck) -> Self {
        let difference = |difference: &Difference| DifferenceObject {
            text: difference.describe(machine),
            members: concerned(machine, difference),
        };
        Self {
            compared: check.compared,
            agrees: (check.compared > 0).then(|| check.agrees()),
            differences: check.differences.iter().map(difference).collect(),
        }
    }
}

/// All functions that a difference is about.
fn concerned(machine: &Machine, difference: &Difference) -> Vec<String> {
    match difference {
        Difference::KernelJoins { parts, .. } => {
            parts.iter().flat_map(|(_, members)| texts(machine, members)).collect()
        }
        Difference::KernelSplits { parts, .. } => {
            parts.iter().flat_map(|(_, members)| texts(machine, members)).collect()
        }
        Difference::OnlyKernel { function, .. } => texts(machine, &[*function]),
        _ => Vec::new(),
    }
}

#[derive(Serialize)]
pub(super) struct HostObject {
    kernel: Option<String>,
    architecture: Option<String>,
    options: Option<Vec<String>>,
    iommu_in_use: Option<Sourced<bool>>,
    iommu_described: Option<Sourced<bool>>,
    iommus: Vec<String>,
}

impl HostObject {
    pub(super) fn new(machine: &Machine) -> Self {
        let host = machine.host();
        Self {
            kernel: host.kernel.clone(),
            architecture: host.architecture.clone(),
            options: host.options.clone(),
            iommu_in_use: host.iommu_in_use.map(|fact| Sourced::new(fact.value, fact.source)),
            iommu_described: host.iommu_described.map(|fact| Sourced::new(fact.value, fact.source)),
            iommus: host.iommus.iter().map(|unit| unit.name.clone()).collect(),
        }
    }
}

#[derive(Serialize)]
struct ExplanationObject {
    bdf: String,
    group: Option<u32>,
    others: Vec<String>,
    lines: Vec<String>,
    advice: Vec<String>,
}

impl ExplanationObject {
    fn new(machine: &Machine, explanation: &Explanation) -> Self {
        Self {
            bdf: text(machine, explanation.function),
            group: explanation.group,
            others: texts(machine, &explanation.others),
            lines: explanation.lines(machine),
            advice: explanation.advice.iter().map(|advice| advice.describe(machine)).collect(),
        }
    }
}

#[derive(Serialize)]
struct PairObject {
    a: String,
    b: String,
    together: Option<bool>,
    along_with_a: Vec<String>,
    along_with_b: Vec<String>,
    lines: Vec<String>,
}

impl PairObject {
    fn new(machine: &Machine, pair: &Pair) -> Self {
        let together = match pair.verdict {
            PairVerdict::Same | PairVerdict::Together { .. } => Some(true),
            PairVerdict::Apart { .. } => Some(false),
            _ => None,
        };
        Self {
            a: text(machine, pair.a),
            b: text(machine, pair.b),
            together,
            along_with_a: texts(machine, &pair.along_with_a),
            along_with_b: texts(machine, &pair.along_with_b),
            lines: pair.lines(machine),
        }
    }
}

fn text(machine: &Machine, function: usize) -> String {
    machine.functions().get(function).map(|function| function.bdf.to_string()).unwrap_or_default()
}

fn texts(machine: &Machine, functions: &[usize]) -> Vec<String> {
    functions.iter().map(|function| text(machine, *function)).collect()
}

pub(super) fn address<S: Serializer>(bdf: &Bdf, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(bdf)
}

fn optional_address<S: Serializer>(bdf: &Option<Bdf>, serializer: S) -> Result<S::Ok, S::Error> {
    match bdf {
        Some(bdf) => address(bdf, serializer),
        None => serializer.serialize_none(),
    }
}
