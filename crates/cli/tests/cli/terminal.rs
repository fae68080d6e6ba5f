//! Columns and colours: as the terminal has them, and none of either where there is no terminal.

use std::path::{Path, PathBuf};

use crate::support::pty::on_terminal;
use crate::support::{Target, run, said, sva};

const SEED: u64 = 0x5eed_0005;

/// A machine with long names: a bridge without ACS, and two cards that share its group.
fn machine(folder: &Path) -> PathBuf {
    let name = "Example Corporation Quite Extraordinarily Long Name of a Network Controller";
    let dump = format!(
        "00:01.0 PCI bridge [0604]: {name} [1af4:0001] (prog-if 00 [Normal decode])\n\
         \tBus: primary=00, secondary=01, subordinate=01, sec-latency=0\n\
         \tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00\n\
         \tCapabilities: [100 v1] Vendor Specific Information: ID=0001 Rev=1 Len=010 <?>\n\n\
         01:00.0 Ethernet controller [0200]: {name} [1af4:0002]\n\
         \tCapabilities: [40] Express (v2) Endpoint, MSI 00\n\
         \tCapabilities: [100 v1] Vendor Specific Information: ID=0001 Rev=1 Len=010 <?>\n\n\
         01:00.1 Ethernet controller [0200]: {name} [1af4:0002]\n\
         \tCapabilities: [40] Express (v2) Endpoint, MSI 00\n\
         \tCapabilities: [100 v1] Vendor Specific Information: ID=0001 Rev=1 Len=010 <?>\n\n"
    );
    let path = folder.join("lspci.txt");
    std::fs::write(&path, dump).expect("written");
    path
}

/// Commands that print for people, all of what there is in many lines.
fn commands(dump: &Path, target: &Target) -> Vec<String> {
    let (dump, pid, base) = (dump.display(), target.pid(), target.base);
    vec![
        "fabric".to_owned(),
        format!("fabric --from {dump}"),
        format!("topology --from {dump}"),
        format!("topology --from {dump} --sva"),
        format!("topology --from {dump} --explain 01:00.0"),
        format!("topology --from {dump} --why-not 01:00.0 01:00.1"),
        format!("topology diff {dump} --policies linux override"),
        format!("regions --pid {pid}"),
        format!("dma read --pid {pid} --addr {base:#x} --len 100"),
    ]
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Without escape sequences, which take no columns.
fn plain(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece.split_once('m').expect("a colour's sequence ends with m").1
    })
}

#[test]
fn what_is_printed_fits_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::new(SEED);
    for line in commands(&machine(folder.path()), &target) {
        for columns in [80, 120, 200] {
            let text = on_terminal(columns, &mut sva(&words(&line)));
            let long = plain(&text)
                .lines()
                .find(|line| line.chars().count() > usize::from(columns))
                .map(str::to_owned);
            assert_eq!(long, None, "sva {line}, {columns} columns");
            assert!(text.lines().count() > 1, "sva {line}: {text}");
        }
    }
}

#[test]
fn columns_in_the_environment_are_the_terminal_s_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("topology --from {}", machine(folder.path()).display());
    let (piped, narrow) = (run(&line).text(), said(sva(&words(&line)).env("COLUMNS", "50")).text());
    assert_eq!(piped, narrow, "no terminal: the text is the same on every machine");
    assert!(piped.lines().any(|line| line.chars().count() > 80), "{piped}");
}

#[test]
fn colour_is_there_on_a_terminal_and_nowhere_that_it_is_not_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::new(SEED);
    let has_colour = |text: &str| text.contains('\u{1b}');
    let on = |line: &str| on_terminal(100, sva(&words(line)).env_remove("NO_COLOR"));
    for line in commands(&machine(folder.path()), &target) {
        if line.starts_with("dma") {
            continue;
        }
        assert!(has_colour(&on(&line)), "sva {line}");
        let bare = on_terminal(100, sva(&words(&line)).env("NO_COLOR", "1"));
        assert!(!has_colour(&bare), "NO_COLOR, sva {line}: {bare}");
        assert_eq!(plain(&on(&line)), bare, "sva {line}: colour changes nothing else");
        assert!(!has_colour(&on(&format!("{line} --color never"))), "sva {line}");
        assert!(!has_colour(&run(&line).text()), "no terminal, sva {line}");
        assert!(has_colour(&run(&format!("{line} --color always")).text()), "sva {line}");
        if !line.contains("explain") && !line.contains("why-not") {
            let object = run(&format!("{line} --json --color always"));
            assert!(!has_colour(&object.text()) && object.code == 0, "sva {line}: {object:?}");
        }
    }
}

#[test]
fn refusals_have_colour_as_the_rest() {
    let refused = run("dma crc32c --pid 1 --addr 0 --len 0 --color always");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.starts_with("\u{1b}[31msva:\u{1b}[0m "), "{refused:?}");
    let plain = run("dma crc32c --pid 1 --addr 0 --len 0");
    assert!(plain.stderr.starts_with("sva: "), "{plain:?}");
    assert!(run("--help --color=always").text().contains('\u{1b}'));
    assert!(!run("--help").text().contains('\u{1b}'));
}
