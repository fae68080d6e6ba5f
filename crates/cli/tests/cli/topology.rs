//! `sva topology`, on a small machine written for the purpose.

mod files;
mod readiness;
mod refused;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{keys, run, said, sva};

/// The lines that every function has.
const CONTROL: &str = "\tControl: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- \
                       Stepping- SERR- FastB2B- DisINTx-\n\tIOMMU group: GROUP\n";
const PREFIX: &str = "\t\t\t 10BitTagComp- 10BitTagReq- OBFF Not Supported, ExtFmt+ \
                      EETLPPrefix+, MaxEETLPPrefixes 1\n";
const NO_PREFIX: &str =
    "\t\t\t 10BitTagComp- 10BitTagReq- OBFF Not Supported, ExtFmt- EETLPPrefix-\n";
const NOTHING_ELSE: &str =
    "\tCapabilities: [100 v1] Vendor Specific Information: ID=0001 Rev=1 Len=010 <?>\n";

/// One function as `lspci -vvv -nn` writes it.
fn function(title: &str, group: u32, rest: &str) -> String {
    format!("{title}\n{}{rest}\n", CONTROL.replace("GROUP", &group.to_string()))
}

fn express(kind: &str, prefix: &str) -> String {
    format!(
        "\tCapabilities: [40] Express (v2) {kind}, MSI 00\n\
         \t\tDevCap2: Completion Timeout: Not Supported, TimeoutDis- NROPrPrP- LTR-\n{prefix}"
    )
}

/// A root port that isolates with an accelerator below, and one without ACS with a network card of
/// two functions.
fn machine() -> String {
    let bus =
        |bus| format!("\tBus: primary=00, secondary={bus}, subordinate={bus}, sec-latency=0\n");
    let acs = "\tCapabilities: [100 v1] Access Control Services\n\
               \t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ \
               EgressCtrl- DirectTrans+\n\
               \t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ \
               EgressCtrl- DirectTrans-\n";
    let shared = "\tCapabilities: [140 v1] Address Translation Service (ATS)\n\
                  \t\tATSCap:\tInvalidate Queue Depth: 00\n\
                  \t\tATSCtl:\tEnable+, Smallest Translation Unit: 00\n\
                  \tCapabilities: [150 v1] Page Request Interface (PRI)\n\
                  \t\tPRICtl: Enable+ Reset-\n\t\tPRISta: RF- UPRGI- Stopped-\n\
                  \t\tPage Request Capacity: 00000020, Page Request Allocation: 00000020\n\
                  \tCapabilities: [160 v1] Process Address Space ID (PASID)\n\
                  \t\tPASIDCap: Exec- Priv-, Max PASID Width: 14\n\
                  \t\tPASIDCtl: Enable+ Exec- Priv-\n";
    let port = express("Root Port (Slot+)", PREFIX);
    [
        function("00:00.0 Host bridge [0600]: Example Root Complex [1234:0001]", 0, ""),
        function(
            "00:01.0 PCI bridge [0604]: Example Root Port [1234:0002]",
            1,
            &format!("{}{port}{acs}", bus("01")),
        ),
        function(
            "00:02.0 PCI bridge [0604]: Example Port without ACS [1234:0003]",
            2,
            &format!("{}{port}{NOTHING_ELSE}", bus("02")),
        ),
        function(
            "01:00.0 Processing accelerators [1200]: Example Accelerator [1234:0010]",
            3,
            &(express("Endpoint", PREFIX) + shared),
        ),
        function(
            "02:00.0 Ethernet controller [0200]: Example Network Card [1234:0020]",
            2,
            &(express("Endpoint", NO_PREFIX) + NOTHING_ELSE),
        ),
        function(
            "02:00.1 Ethernet controller [0200]: Example Network Card [1234:0020]",
            2,
            &(express("Endpoint", NO_PREFIX) + NOTHING_ELSE),
        ),
    ]
    .concat()
}

/// A folder with files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn with(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).expect("written");
        self.path(name)
    }
}

fn topology(file: &Path, words: &str) -> crate::support::Said {
    run(&format!("topology --from {} {words}", file.display()))
}

fn object(file: &Path, words: &str) -> Value {
    let said = topology(file, &format!("--json {words}"));
    assert_eq!(said.code, 0, "{said:?}");
    said.json()
}

/// The device of an object.
fn device<'a>(object: &'a Value, bdf: &str) -> &'a Value {
    object["devices"]
        .as_array()
        .expect("an array")
        .iter()
        .find(|device| device["bdf"] == bdf)
        .expect("it is there")
}

/// Exit code 2, no result, the error object of this kind; answers the message.
fn refused(line: &str, kind: &str) -> String {
    let plain = run(line);
    assert_eq!((plain.code, plain.stdout.is_empty()), (2, true), "{line}: {plain:?}");
    let object = run(&format!("{line} --json")).json();
    assert_eq!(
        (keys(&object["error"]), object["error"]["kind"].as_str()),
        (vec!["kind", "message"], Some(kind)),
        "{line}: {object}"
    );
    let message = object["error"]["message"].as_str().expect("text").to_owned();
    assert!(message.len() < 600 && !message.contains('\u{1b}'), "{line}: {message}");
    message
}

// shows G1
#[test]
fn the_object_has_the_keys_that_are_promised_in_their_order() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let said = topology(&file, "--json");
    assert!(
        said.text().starts_with(r#"{"devices":[{"bdf":"0000:00:00.0","group":0,"#),
        "{}",
        said.text()
    );
    assert!(
        said.text().contains(r#"],"groups":[{"id":0,"members":["0000:00:00.0"],"reasons":[]},"#),
        "{}",
        said.text()
    );
    let object = said.json();
    assert_eq!(keys(&object), ["devices", "groups", "host", "notes", "policy", "self_check"]);
    assert_eq!(
        keys(device(&object, "0000:01:00.0")),
        [
            "acs",
            "bdf",
            "class",
            "driver",
            "group",
            "ids",
            "kernel_group",
            "kind",
            "multifunction",
            "name",
            "parent",
            "sva"
        ]
    );
    assert_eq!(keys(&object["groups"][2]), ["id", "members", "reasons"]);
    assert_eq!(
        keys(&object["groups"][2]["reasons"][0]),
        ["because", "member", "source", "text", "with"]
    );
    assert_eq!(keys(&object["self_check"]), ["agrees", "compared", "differences"]);
    assert_eq!(
        keys(&object["host"]),
        ["architecture", "iommu_described", "iommu_in_use", "iommus", "kernel", "options"]
    );
    assert_eq!(keys(&device(&object, "0000:01:00.0")["sva"]), ["gate", "gates", "verdict"]);
    assert_eq!(
        keys(&device(&object, "0000:01:00.0")["sva"]["gates"][0]),
        ["because", "finding", "gate", "outcome", "source"]
    );
    assert_eq!(keys(&device(&object, "0000:00:01.0")["acs"]), ["because", "source", "value"]);
    assert_eq!(object["policy"], "linux");
    assert_eq!(object["self_check"]["agrees"], true);
    let parent = |bdf| device(&object, bdf)["parent"].as_str();
    assert_eq!((parent("0000:00:01.0"), parent("0000:01:00.0")), (None, Some("0000:00:01.0")));
}

// shows G1
#[test]
fn groups_and_devices_of_the_object_say_the_same() {
    let files = Files::new();
    let object = object(&files.with("machine", machine()), "");
    for group in object["groups"].as_array().expect("an array") {
        for member in group["members"].as_array().expect("an array") {
            assert_eq!(device(&object, member.as_str().expect("text"))["group"], group["id"]);
        }
    }
    let members = |bdf| {
        let group = device(&object, bdf)["group"].as_u64().expect("a number");
        object["groups"][usize::try_from(group).expect("small")]["members"].clone()
    };
    assert_eq!(
        members("0000:02:00.1"),
        serde_json::json!(["0000:00:02.0", "0000:02:00.0", "0000:02:00.1"])
    );
    assert_eq!(members("0000:01:00.0"), serde_json::json!(["0000:01:00.0"]));
}

// shows G1
#[test]
fn a_difference_from_the_kernels_groups_comes_first_and_names_who() {
    let files = Files::new();
    let same = topology(&files.with("same", machine()), "").text();
    assert!(same.starts_with("The kernel's own groups of 6 functions are the same."), "{same}");
    let edited = machine().replacen("IOMMU group: 3", "IOMMU group: 1", 1);
    let file = files.with("edited", edited);
    let text = topology(&file, "").text();
    let first = text.lines().take(2).collect::<Vec<_>>().join("\n");
    assert!(
        first.contains("differ")
            && first.contains("0000:00:01.0")
            && first.contains("0000:01:00.0"),
        "{text}"
    );
    let check = object(&file, "")["self_check"].clone();
    assert_eq!(
        (&check["agrees"], check["differences"].as_array().map(Vec::len)),
        (&Value::Bool(false), Some(1)),
        "{check}"
    );
    assert_eq!(
        check["differences"][0]["members"],
        serde_json::json!(["0000:00:01.0", "0000:01:00.0"])
    );
    // Nothing to compare with is not the same as no difference.
    let silent = machine()
        .lines()
        .filter(|line| !line.contains("IOMMU group"))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let file = files.with("silent", silent);
    assert_eq!(object(&file, "")["self_check"]["agrees"], Value::Null);
    assert!(!topology(&file, "").text().contains("kernel's own"));
}

// shows G1
#[test]
fn a_kernel_log_gives_the_groups_to_compare_with() {
    let files = Files::new();
    let silent: String = machine()
        .lines()
        .filter(|line| !line.contains("IOMMU group"))
        .map(|line| format!("{line}\n"))
        .collect();
    let log: String = [
        ("00:00.0", 0),
        ("00:01.0", 1),
        ("00:02.0", 2),
        ("01:00.0", 3),
        ("02:00.0", 2),
        ("02:00.1", 4),
    ]
    .iter()
    .map(|(bdf, group)| format!("[    0.5{group}] pci 0000:{bdf}: Adding to iommu group {group}\n"))
    .collect();
    let check = object(
        &files.with("machine", silent),
        &format!("--dmesg {}", files.with("log", log).display()),
    )["self_check"]
        .clone();
    assert_eq!((&check["compared"], &check["agrees"]), (&6.into(), &Value::Bool(false)), "{check}");
}

// shows G1
#[test]
fn an_explanation_names_the_hop_and_a_pair_what_goes_along() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let text = topology(&file, "--explain 02:00.1").text();
    assert!(text.contains("0000:00:02.0 is a root port without the ACS capability"), "{text}");
    assert!(
        text.contains("PASID capability") && text.contains("the device has none"),
        "all gates: {text}"
    );
    let text = topology(&file, "--why-not 02:00.0 01:00.0").text();
    assert!(
        text.contains("0000:02:00.0 is in group 2, 0000:01:00.0 in group 3")
            && text.contains("0000:02:00.1"),
        "{text}"
    );
    let object = object(&file, "--explain 02:00.1 --why-not 02:00.0 02:00.1");
    assert_eq!(keys(&object["explanation"]), ["advice", "bdf", "group", "lines", "others"]);
    assert_eq!(
        object["explanation"]["others"],
        serde_json::json!(["0000:00:02.0", "0000:02:00.0"])
    );
    assert_eq!(
        keys(&object["why_not"]),
        ["a", "along_with_a", "along_with_b", "b", "lines", "together"]
    );
    assert_eq!(object["why_not"]["together"], true);
}

#[test]
fn this_machine_is_read_or_it_is_said_that_it_has_no_pci() {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").map(Iterator::count).unwrap_or(0);
    let said = run("topology --json");
    if devices == 0 {
        assert_eq!((said.code, &said.json()["error"]["kind"]), (2, &"machine".into()), "{said:?}");
        assert!(said.stderr.contains("--from"), "{said:?}");
    } else {
        assert_eq!(
            (said.code, said.json()["devices"].as_array().map(Vec::len)),
            (0, Some(devices)),
            "{said:?}"
        );
    }
}
