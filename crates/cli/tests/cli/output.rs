//! What it prints beside the work: fabric, regions, completions, manual.

use std::process::Stdio;

use crate::support::{Target, finish, keys, run, sva};

const SEED: u64 = 0x5eed_0004;

#[test]
fn the_fabric_is_drawn_and_the_example_draws_the_same() {
    let built_in = run("fabric");
    assert_eq!(built_in.code, 0, "{built_in:?}");
    assert!(built_in.text().contains("0000:01:00.0") && built_in.text().contains("group"), "{}", built_in.text());
    assert!(built_in.text().lines().all(|line| line.chars().count() <= 100), "it fits a terminal");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fabric.toml");
    std::fs::write(&file, run("fabric --example").stdout).expect("written");
    assert_eq!(run(&format!("fabric --config {}", file.display())).text(), built_in.text());
    let json = run(&format!("fabric --json --config {}", file.display()));
    assert!(json.code == 0 && json.json().is_object(), "{json:?}");
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
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let hex = |text| u64::from_str_radix(text, 16).map(|n| format!("{n:#x}")).expect("hexadecimal");
        assert_eq!((&region["start"], &region["end"]), (&hex(from).into(), &hex(to).into()), "{line}");
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
        assert!(output.status.code() == Some(141) && !stderr.contains("panicked") && !stderr.contains("sva:"), "{line}: {output:?}");
    }
}

#[test]
fn completions_and_manual_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&format!("completions {shell}"));
        assert!(said.code == 0 && said.text().contains("crc32c") && said.text().contains("region"), "{shell}");
    }
    let manual = run("man").text();
    assert!(manual.contains(".TH sva 1"));
    assert!(manual.contains(".SH \"EXIT STATUS\"\n0 done;") && !manual.contains("EXTRA"), "{manual}");
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
        let text = std::fs::read_to_string(page.expect("a page").path()).expect("written").replace("\\-", "-");
        for named in text.split(|c: char| c.is_whitespace()).filter_map(|word| word.strip_suffix("(1)")) {
            let named = named.trim_start_matches("\\fB").replace("\\fR", "");
            assert!(folder.path().join(format!("man1/{named}.1")).exists(), "a page speaks of {named}(1), which is not written");
        }
    }
    assert_eq!(run("--help").code, 0);
    assert_eq!(run("dma copy --help").code, 0);
    assert_eq!(run("").code, 2);
}
