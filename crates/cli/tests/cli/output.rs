//! What it prints beside the work: fabric, regions, completions, manual.

use std::process::Stdio;

use crate::support::{Target, finish, keys, run, sva};

const SEED: u64 = 0x5eed_0004;

#[test]
fn the_fabric_is_drawn_and_the_example_draws_the_same() {
    let built_in = run("fabric");
    assert_eq!(built_in.code, 0, "{built_in:?}");
    assert!(
        built_in.text().contains("0000:01:00.0") && built_in.text().contains("group"),
        "{}",
        built_in.text()
    );
    assert!(built_in.text().lines().all(|line| line.chars().count() <= 100), "it fits a terminal");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fabric.toml");
    std::fs::write(&file, run("fabric --example").stdout).expect("written");
    assert_eq!(run(&format!("fabric --config {}", file.display())).text(), built_in.text());
    let json = run(&format!("fabric --json --config {}", file.display()));
    assert!(json.code == 0 && json.json().is_object(), "{json:?}");
}

/// Two root ports of one device without ACS, each with a card; the second card is a DMA engine with
/// PASIDs.
const DUMP: &str = "\
00:01.0 PCI bridge [0604]: Example Port [1af4:0001] (prog-if 00 [Normal decode])
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0
\tMemory behind bridge: 80000000-800fffff [size=1M] [32-bit]
\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00

00:01.1 PCI bridge [0604]: Example Port [1af4:0001] (prog-if 00 [Normal decode])
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=00, secondary=02, subordinate=02, sec-latency=0
\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00

01:00.0 Ethernet controller [0200]: Example Card [1af4:0002]
\tFlags: bus master, fast devsel, latency 0
\tRegion 0: Memory at 80000000 (32-bit, non-prefetchable) [size=4K]
\tRegion 2: Memory at 90000000 (32-bit, non-prefetchable) [size=4K]
\tCapabilities: [40] Express (v2) Endpoint, MSI 00

02:00.0 System peripheral [0880]: Example Engine [1af4:0003]
\tFlags: bus master, fast devsel, latency 0
\tCapabilities: [40] Express (v2) Endpoint, MSI 00
\tCapabilities: [100 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec- Priv-, Max PASID Width: 14
\t\tPASIDCtl: Enable- Exec- Priv-

";

// shows G1
#[test]
fn a_dump_becomes_a_fabric_with_the_kernel_s_groups_and_a_list_of_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dump, file) = (folder.path().join("lspci.txt"), folder.path().join("fabric.toml"));
    std::fs::write(&dump, DUMP).expect("written");
    let drawn = run(&format!("fabric --from {}", dump.display()));
    assert_eq!(drawn.code, 0, "{drawn:?}");
    let (fabric, differs) = drawn
        .text()
        .split_once("\nwhat differs from the machine\n")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("two parts");
    assert!(fabric.contains("0000:01:00.0 0000:02:00.0"), "one group: {fabric}");
    assert!(differs.contains("BAR 2 of 0000:01:00.0 at 0x90000000 left out"), "{differs}");
    let toml = run(&format!("fabric --from {} --toml", dump.display()));
    std::fs::write(&file, &toml.stdout).expect("written");
    assert_eq!(run(&format!("fabric --config {}", file.display())).text(), fabric);
    let object = run(&format!("fabric --from {} --json", dump.display())).json();
    assert_eq!(object["notes"].as_array().map(Vec::len), Some(differs.lines().count()));
    // The kernel's groups are not those of the override.
    let apart = run(&format!("fabric --from {} --policy override", dump.display()));
    assert!(!apart.text().contains("0000:01:00.0 0000:02:00.0"), "{}", apart.text());
}

// shows B1
#[test]
fn a_device_of_a_dump_is_bound_as_on_the_machine() {
    let target = Target::new(SEED);
    let folder = tempfile::tempdir().expect("a folder");
    let dump = folder.path().join("lspci.txt");
    std::fs::write(&dump, DUMP).expect("written");
    let said = run(&format!(
        "dma crc32c --pid {} --addr {:#x} --len 4K --device 02:00.0 --from {}",
        target.pid(),
        target.base,
        dump.display()
    ));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("0000:01:00.0"), "the sibling is named: {said:?}");
    assert!(said.stderr.contains("sva fabric --from lists"), "{said:?}");
}

// shows S2
#[test]
fn what_is_no_dump_is_refused_with_its_place() {
    let said = run("fabric --from /dev/null --json");
    assert_eq!((said.code, said.json()["error"]["kind"].clone()), (2, "dump".into()));
    let folder = tempfile::tempdir().expect("a folder");
    let dump = folder.path().join("lspci.txt");
    std::fs::write(&dump, "00:00.0 Host bridge [0600]: Example Bridge [1af4:0001]\n")
        .expect("written");
    let said = run(&format!("fabric --from {}", dump.display()));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("can be in a fabric"), "{said:?}");
}

#[test]
fn regions_are_those_of_the_process() {
    let target = Target::new(SEED);
    let said = run(&format!("regions --pid {} --json", target.pid()));
    assert_eq!(said.code, 0, "{said:?}");
    let regions = said.json();
    let regions = regions.as_array().expect("an array");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("it lives");
    assert_eq!(regions.len(), maps.lines().count());
    for (region, line) in regions.iter().zip(maps.lines()) {
        assert_eq!(keys(region), ["device", "end", "name", "offset", "rights", "start", "why"]);
        let (from, to) =
            line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let hex =
            |text| u64::from_str_radix(text, 16).map(|n| format!("{n:#x}")).expect("hexadecimal");
        assert_eq!(
            (&region["start"], &region["end"]),
            (&hex(from).into(), &hex(to).into()),
            "{line}"
        );
        assert_eq!(region["rights"], line.split(' ').nth(1).expect("rights"), "{line}");
    }
    let text = run(&format!("regions --pid {}", target.pid())).text();
    assert!(text.contains("[stack]") && text.lines().count() > maps.lines().count(), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let target = Target::new(SEED);
    let pid = target.pid();
    for line in [
        format!("regions --pid {pid}"),
        "fabric".to_owned(),
        "man".to_owned(),
        format!("dma read --pid {pid} --addr {} --len 8M --out -", target.base),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = sva(&words).stdout(writer).stderr(Stdio::piped()).spawn().expect("it starts");
        let output = finish(child);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(141)
                && !stderr.contains("panicked")
                && !stderr.contains("sva:"),
            "{line}: {output:?}"
        );
    }
}

#[test]
fn completions_and_manual_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&format!("completions {shell}"));
        assert!(
            said.code == 0 && said.text().contains("crc32c") && said.text().contains("region"),
            "{shell}"
        );
    }
    let manual = run("man").text();
    assert!(manual.contains(".TH sva 1"));
    assert!(
        manual.contains(".SH \"EXIT STATUS\"\n0 done;") && !manual.contains("EXTRA"),
        "{manual}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(&format!("man --out {}", folder.path().join("man1").display())).code, 0);
    for page in [
        "sva.1",
        "sva-fabric.1",
        "sva-regions.1",
        "sva-topology.1",
        "sva-topology-diff.1",
        "sva-dma.1",
        "sva-dma-crc32c.1",
        "sva-dma-write.1",
    ] {
        assert!(folder.path().join("man1").join(page).exists(), "{page}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("man1/sva.1")).expect("written"), manual);
    for page in std::fs::read_dir(folder.path().join("man1")).expect("a folder") {
        let text = std::fs::read_to_string(page.expect("a page").path())
            .expect("written")
            .replace("\\-", "-");
        for named in
            text.split(|c: char| c.is_whitespace()).filter_map(|word| word.strip_suffix("(1)"))
        {
            let named = named.trim_start_matches("\\fB").replace("\\fR", "");
            assert!(
                folder.path().join(format!("man1/{named}.1")).exists(),
                "a page speaks of {named}(1), which is not written"
            );
        }
    }
    assert_eq!(run("--help").code, 0);
    assert_eq!(run("dma copy --help").code, 0);
    assert_eq!(run("").code, 2);
}
