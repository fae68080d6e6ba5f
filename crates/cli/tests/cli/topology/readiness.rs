//! `sva topology --ready`: the table, its object and its notes.

use super::*;

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
