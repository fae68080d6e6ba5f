//! `sva topology`, on a small machine written for the purpose.

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
fn the_readiness_table_names_the_gate_that_decides() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let table = topology(&file, "--sva").text();
    let row = |bdf: &str| {
        table.lines().find(|line| line.starts_with(bdf)).map(str::to_owned).expect("a row")
    };
    assert!(
        row("0000:01:00.0").contains(" 20  on   on   yes")
            && row("0000:01:00.0").contains("not known: IOMMU takes PASIDs"),
        "{table}"
    );
    assert!(row("0000:02:00.0").contains("no: PASID capability"), "{table}");
    assert!(!table.contains("\n0000:00:01.0"), "a port issues no requests for a process: {table}");
    let object = object(&file, "");
    let sva = |bdf| device(&object, bdf)["sva"].clone();
    assert_eq!(
        (&sva("0000:01:00.0")["verdict"], &sva("0000:01:00.0")["gate"]),
        (&"unknown".into(), &"iommu-pasid".into())
    );
    assert_eq!(
        (&sva("0000:02:00.0")["verdict"], &sva("0000:02:00.0")["gate"]),
        (&"fails".into(), &"pasid".into())
    );
    assert_eq!(sva("0000:00:01.0"), Value::Null);
    // Without the prefix in the port above nothing below it can send a PASID.
    let edited = machine().replacen("EETLPPrefix+, MaxEETLPPrefixes 1", "EETLPPrefix-", 1);
    let row = topology(&files.with("edited", edited), "--sva").text();
    assert!(row.contains("no: TLP prefix on the path: 0000:00:01.0"), "{row}");
}

#[test]
fn readiness_has_an_object_of_its_own_that_says_what_the_table_says() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let said = topology(&file, "--sva --json").text();
    assert!(said.starts_with("{\"sva_topology_readiness\":1,\"devices\":["), "{said}");
    let readiness = object(&file, "--sva");
    assert_eq!(
        keys(&readiness),
        [
            "devices",
            "disabled_by_settings",
            "host",
            "notes",
            "policy",
            "summary",
            "sva_topology_readiness",
        ]
    );
    let addresses: Vec<&str> = readiness["devices"]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(|device| device["bdf"].as_str())
        .collect();
    assert_eq!(addresses, ["0000:01:00.0", "0000:02:00.0", "0000:02:00.1"], "ports are no devices");
    let card = device(&readiness, "0000:02:00.0");
    assert_eq!(
        keys(card),
        ["bdf", "driver", "finding", "gate", "gates", "group", "ids", "name", "verdict"]
    );
    assert_eq!(
        (&card["verdict"], &card["gate"], &card["finding"], &card["ids"]),
        (&"fails".into(), &"pasid".into(), &"the device has none".into(), &"1234:0020".into())
    );
    assert_eq!(keys(&card["gates"][0]), ["because", "finding", "gate", "outcome", "source"]);
    assert_eq!(
        readiness["summary"],
        serde_json::json!({
            "devices": 3, "ready": 0, "switched_off": 0, "fails": 2, "unknown": 1,
        })
    );
    assert_eq!(readiness["disabled_by_settings"], serde_json::json!([]));
    // The plain listing keeps its own form, and what was asked of a function is in both.
    let plain = object(&file, "");
    assert_eq!(plain["sva_topology_readiness"], Value::Null);
    assert_eq!(device(&plain, "0000:02:00.0")["sva"]["gates"], card["gates"]);
    assert_eq!(plain["notes"], readiness["notes"]);
    let explained = object(&file, "--sva --explain 01:00.0");
    assert_eq!(explained["explanation"], object(&file, "--explain 01:00.0")["explanation"]);
    assert_eq!(explained["explanation"]["bdf"], "0000:01:00.0");
}

#[test]
fn settings_that_shut_gates_are_named_whatever_else_stops_the_devices() {
    let files = Files::new();
    let mut dump: Value =
        serde_json::from_slice(&topology(&files.with("machine", machine()), "--save -").stdout)
            .expect("JSON");
    let options = ["intel_iommu=on,sm_off", "pci=noats"];
    dump["machine"]["host"] = serde_json::json!({ "kernel": "6.12.3", "options": options });
    dump["machine"]["functions"][0]["ids"] = "8086:0001".into();
    let file = files.with("dump", dump.to_string());
    let table = topology(&file, "--sva").text();
    let shut: Vec<&str> =
        table.lines().filter(|line| line.starts_with("shut by a setting")).collect();
    assert!(
        matches!(shut[..], [a, b] if a.contains("intel_iommu=sm_off") && b.contains("pci=noats")),
        "{table}"
    );
    let disabled = object(&file, "--sva")["disabled_by_settings"].clone();
    assert_eq!(
        (&disabled[0]["gate"], &disabled[1]["gate"], disabled.as_array().map(Vec::len)),
        (&"iommu-pasid".into(), &"ats".into(), Some(2)),
        "{disabled}"
    );
    assert!(
        disabled[0]["finding"].as_str().is_some_and(|text| text.contains("intel_iommu=sm_off")),
        "{disabled}"
    );
    dump["machine"]["host"] =
        serde_json::json!({ "options": ["intel_iommu=off"], "iommu_in_use": false });
    let table = topology(&files.with("dump", dump.to_string()), "--sva").text();
    assert!(
        table.contains(
            "shut by a setting of this machine: IOMMU in use: the kernel was told not to use it: \
             boot without intel_iommu=off"
        ),
        "{table}"
    );
}

#[test]
fn notes_name_what_was_assumed_a_log_without_groups_and_an_override_in_the_kernel() {
    let files = Files::new();
    let names_only: String = machine()
        .lines()
        .filter(|line| !line.contains("IOMMU group"))
        .map(|line| format!("{line}\n"))
        .collect();
    // As -v prints it: that the port has ACS, not what is on; so that it and the accelerator below
    // are alone is a guess.
    let terse: String = names_only
        .lines()
        .filter(|line| !line.contains("ACSC"))
        .map(|line| format!("{line}\n"))
        .collect();
    let text = topology(&files.with("terse", terse), "").text();
    assert!(
        text.contains(
            "note: 2 functions are in their groups by something that was assumed, not read: \
             0000:00:01.0, 0000:01:00.0; --explain BDF"
        ),
        "{text}"
    );
    assert!(
        !topology(&files.with("machine", machine()), "").text().contains("assumed"),
        "all of it was read"
    );
    let plain = files.with("plain", names_only);
    let boot = "[    0.0] Linux version 6.18.1\n\
                [    0.0] Command line: quiet pcie_acs_override=downstream\n";
    let log = files.with("log", boot);
    let text = topology(&plain, &format!("--dmesg {}", log.display())).text();
    assert!(
        text.contains("note: the kernel log puts none of these functions into a group"),
        "{text}"
    );
    assert!(text.contains("note: the kernel was given pcie_acs_override"), "{text}");
    let text = topology(&plain, &format!("--dmesg {} --policy override", log.display())).text();
    assert!(!text.contains("given pcie_acs_override"), "{text}");
    let good = files.with("good", "pci 0000:01:00.0: Adding to iommu group 3\n");
    let text = topology(&plain, &format!("--dmesg {}", good.display())).text();
    assert!(!text.contains("kernel log"), "{text}");
    let lines: String = ["01:00.0", "7a:00.0", "7a:00.1"]
        .map(|bdf| format!("pci 0000:{bdf}: Adding to iommu group 3\n"))
        .concat();
    let text =
        topology(&plain, &format!("--dmesg {}", files.with("other", lines).display())).text();
    assert!(
        text.contains("note: 2 of the 3 functions that the kernel log names are not here"),
        "{text}"
    );
}

#[test]
fn the_table_counts_devices_that_it_knows_too_little_of_apart() {
    let files = Files::new();
    let table = topology(&files.with("machine", machine()), "--sva").text();
    assert!(
        table.contains(
            "\n0 of 3 devices can share a process's address space; of 1 it is not known\n"
        ),
        "{table}"
    );
}

#[test]
fn a_saved_dump_tells_the_same_and_can_be_saved_to_standard_output() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let dump = files.path("dump");
    let said = topology(&file, &format!("--save {}", dump.display()));
    assert_eq!((said.code, said.text().as_str()), (0, ""), "{said:?}");
    assert_eq!(object(&dump, ""), object(&file, ""));
    let piped = topology(&file, "--save -");
    assert_eq!(piped.stdout, std::fs::read(&dump).expect("written"));
    let mut command = sva(&["topology", "--from", "-", "--json"]);
    command.stdin(std::fs::File::open(&dump).expect("it is there"));
    assert_eq!(said_json(&mut command), object(&file, ""));
}

/// `ulimit` ends the program in the middle of its write, as a disk that is full or an interrupt
/// would.
#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let files = Files::new();
    let (file, dump) = (files.with("machine", machine()), files.with("dump", "old"));
    std::fs::set_permissions(&dump, Permissions::from_mode(0o640)).expect("it is ours");
    let (link, new) = (files.path("link"), files.path("new"));
    symlink("dump", &link).expect("a link");
    let save = |limit: &str, to: &Path| {
        let mut shell = std::process::Command::new("sh");
        shell.args([
            "-c",
            &format!("umask 027; ulimit -f {limit}; exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_sva"),
            "topology",
            "--from",
        ]);
        shell.arg(&file).arg("--save").arg(to).status().expect("it runs")
    };
    let mode = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map(|found| (found.is_file(), found.mode() & 0o777))
            .expect("it is there")
    };
    assert!(!save("1", &dump).success());
    assert_eq!(std::fs::read_to_string(&dump).expect("it is there"), "old");
    assert!(save("unlimited", &link).success() && save("unlimited", &new).success());
    assert_eq!(object(&dump, ""), object(&file, ""));
    assert_eq!((mode(&dump), mode(&link).0, mode(&new)), ((true, 0o640), false, (true, 0o640)));
    std::fs::set_permissions(&new, Permissions::from_mode(0o604)).expect("it is ours");
    assert!(save("unlimited", &new).success());
    assert_eq!(mode(&new), (true, 0o604), "its own");
    refused(&format!("topology --from {} --save /dev/full", file.display()), "file");
    assert!(save("unlimited", Path::new("/dev/null")).success() && !mode(Path::new("/dev/null")).0);
}

fn said_json(command: &mut std::process::Command) -> Value {
    let said = said(command);
    assert_eq!(said.code, 0, "{said:?}");
    said.json()
}

#[test]
fn pictures_are_written_and_tables_printed_beside_them() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let (svg, html) = (files.path("m.svg"), files.path("m.html"));
    let said = topology(&file, &format!("--svg {} --html {} --sva", svg.display(), html.display()));
    assert!(said.code == 0 && said.text().contains("verdict"), "{said:?}");
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.contains("<svg") && svg.contains("01:00.0"), "{svg:.400}");
    assert!(std::fs::read_to_string(html).expect("written").contains("<html"));
    assert!(topology(&file, "--svg -").text().contains("<svg"));
}

// shows G1
#[test]
fn two_dumps_are_compared_whatever_differs_and_exit_with_0() {
    let files = Files::new();
    let a = files.with("a", machine());
    let b = files.with(
        "b",
        machine().replacen("SrcValid+ TransBlk- ReqRedir+", "SrcValid+ TransBlk- ReqRedir-", 1),
    );
    let diff = |words: &str| run(&format!("topology diff {words}"));
    let same = diff(&format!("{} {}", a.display(), a.display()));
    assert_eq!((same.code, same.text().as_str()), (0, "no difference\n"));
    let said = diff(&format!("{} {}", a.display(), b.display()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.text().contains("regrouped: 0000:01:00.0")
            && said.text().contains("ACS of 0000:00:01.0"),
        "{}",
        said.text()
    );
    let object = diff(&format!("{} {} --json", a.display(), b.display())).json();
    assert_eq!(
        keys(&object),
        ["acs", "added", "policies", "regrouped", "removed", "replaced", "sva"]
    );
    assert_eq!(keys(&object["regrouped"][0]), ["after", "before", "members"]);
    assert_eq!(keys(&object["regrouped"][0]["after"]), ["group", "others", "some"]);
    assert_eq!(keys(&object["acs"][0]), ["after", "bdf", "before"]);
    assert_eq!(object["sva"][0]["after"]["gate"], "redirect");
    // One dump, two policies: the override declares the port without ACS isolated.
    let said = diff(&format!("{} --policies linux override", a.display()));
    assert!(said.code == 0 && said.text().contains("regrouped: 0000:02:00.0"), "{said:?}");
    assert!(diff(&format!("{} {} --policies linux", a.display(), b.display())).code == 2);
}

// shows S2
#[test]
fn what_is_no_machine_is_refused_with_what_to_do() {
    let files = Files::new();
    let folder = files.folder.path().display().to_string();
    for (content, why) in [
        (&b""[..], "lspci -vvv"),
        (b"nothing of the kind\n", "lspci -vvv"),
        (b"\x7fELF\x02\x00\xff\xfe\x1b[31m", "lspci -vvv"),
        (b"{\"sva_topology_dump\": 1, ", "line 1"),
        (b"{\"sva_topology_dump\": 99}", "version 99"),
        (b"{", "line 1"),
    ] {
        let file = files.with("file", content).display().to_string();
        for line in [
            format!("topology --from {file}"),
            format!("topology diff {file} {file}"),
            format!("topology --from {file} --sva"),
        ] {
            let message = refused(&line, "dump");
            assert!(message.contains(why) && message.contains("line "), "{content:?}: {message}");
        }
    }
    assert!(refused("topology --from /dev/zero", "dump").contains("67108864"));
    assert!(refused(&format!("topology --from {folder}"), "machine").contains("lspci -vvv"));
    assert!(refused("topology --from /nonexistent", "file").ends_with("check the path"));
    assert!(
        refused(&format!("topology --from {folder} --dmesg /nonexistent"), "machine")
            .contains("folder")
    );
}

// shows S2
#[test]
fn a_function_that_is_not_there_is_refused_with_near_ones() {
    let files = Files::new();
    let file = files.with("machine", machine()).display().to_string();
    let near = |message: &str, first: &str| {
        assert!(message.contains(&format!("near it are {first}")), "{message}")
    };
    near(
        &refused(&format!("topology --from {file} --explain 02:00.7"), "device"),
        "0000:02:00.0, 0000:02:00.1",
    );
    near(
        &refused(&format!("topology --from {file} --explain 0001:01:00.0"), "device"),
        "0000:01:00.0",
    );
    near(
        &refused(&format!("topology --from {file} --why-not 01:00.0 00:01.7"), "device"),
        "0000:00:01.0",
    );
    assert!(
        refused(&format!("topology --from {file} --explain 2:0"), "usage")
            .contains("segment:bus:device.function")
    );
    refused(&format!("topology --from {file} --why-not 01:00.0"), "usage");
    assert!(
        refused(&format!("topology --from {file} --policy none"), "usage")
            .contains("reachable-set")
    );
    refused("topology --from - --dmesg -", "usage");
    assert!(
        refused(&format!("topology --from {file} --svg - --save -"), "usage").contains("one thing")
    );
    refused(&format!("topology --from {file} --sva diff {file} {file}"), "usage");
    refused(&format!("topology diff {file}"), "usage");
    refused(&format!("topology --from {file} --save /nonexistent/x"), "file");
}

// shows S2
#[test]
fn names_with_terminal_codes_reach_no_terminal() {
    let files = Files::new();
    let file = files.with(
        "machine",
        machine().replace("Example Accelerator", "Example \u{1b}[31m\u{7}Accelerator\u{9b}2J"),
    );
    for words in
        ["", "--sva", "--explain 01:00.0", "--json", "--why-not 01:00.0 02:00.0", "--save -"]
    {
        let said = topology(&file, words);
        assert!(
            said.code == 0 && !said.text().contains(['\u{1b}', '\u{7}', '\u{9b}']),
            "{words}: {}",
            said.text()
        );
    }
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
