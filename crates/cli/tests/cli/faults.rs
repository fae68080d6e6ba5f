//! A fault is data: exit code 1, the address, the access, the reason, and the bytes done before.

use crate::support::target::{LEN, pattern};
use crate::support::{Target, keys, run};

const SEED: u64 = 0x5eed_0002;

// shows T1
#[test]
fn a_write_to_a_read_only_page_faults_and_changes_nothing() {
    let mut target = Target::new(SEED);
    let before = target.constant_crc();
    let (address, len) = target.constant;
    let said = run(&format!(
        "dma fill --pid {} --addr {address} --len {len} --byte 0 --json",
        target.pid()
    ));
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!((report["bytes"].as_u64(), report["result"].is_null()), (Some(0), true), "{report}");
    assert_eq!(keys(&report["fault"]), ["access", "address", "reason"]);
    assert_eq!(report["fault"]["address"], format!("{address:#x}"));
    assert_eq!(report["fault"]["access"], "write");
    assert_eq!(target.constant_crc(), before);
}

// shows T5
#[test]
fn a_hole_faults_at_its_first_byte_and_the_bytes_before_it_are_done() {
    let target = Target::new(SEED);
    let hole = target.edge(8192);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("out");
    let said = run(&format!(
        "dma read --pid {} --addr {} --len 8192 --out {} --json",
        target.pid(),
        hole - 5000,
        file.display()
    ));
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!(
        (report["bytes"].as_u64(), &report["fault"]["address"]),
        (Some(5000), &format!("{hole:#x}").into()),
        "{report}"
    );
    assert_eq!(report["fault"]["access"], "read");
    assert_eq!(std::fs::metadata(&file).expect("written").len(), 5000);
    assert!(said.stderr.contains(&format!("{hole:#x}")), "people are told too: {said:?}");

    let said =
        run(&format!("dma crc32c --pid {} --addr {} --len 8K --json", target.pid(), hole - 5000));
    assert_eq!(
        (said.code, said.json()["result"].is_null()),
        (1, true),
        "no checksum of a part: {said:?}"
    );
    assert_eq!(said.json()["fault"]["address"], format!("{hole:#x}"));
}

// shows S2
#[test]
fn kernel_and_non_canonical_addresses_fault_for_every_operation() {
    let mut target = Target::new(SEED);
    let pid = target.pid();
    let good = target.base;
    for bad in [
        "0",
        "0x7ffffffff000",
        "0x800000000000",
        "0x8000000000000000",
        "0xffff800000000000",
        "0xffffffff81000000",
        "0xfffffffffffff000",
    ] {
        for line in [
            format!("dma crc32c --pid {pid} --addr {bad} --len 4K --json"),
            format!("dma read --pid {pid} --addr {bad} --len 4K --json"),
            format!("dma fill --pid {pid} --addr {bad} --len 4K --byte 1 --json"),
            format!("dma write --pid {pid} --addr {bad} --in /proc/self/status --json"),
            format!("dma copy --pid {pid} --src {bad} --dst {good} --len 4K --json"),
            format!("dma copy --pid {pid} --src {good} --dst {bad} --len 4K --json"),
            format!("dma compare --pid {pid} --a {good} --b {bad} --len 4K --json"),
        ] {
            let said = run(&line);
            assert_eq!(said.code, 1, "{line}: {said:?}");
            let fault = &said.json()["fault"];
            let address =
                fault["address"].as_str().and_then(|text| u64::from_str_radix(&text[2..], 16).ok());
            assert_eq!(address, sva_pci::parse_address(bad).ok(), "{line}: {said:?}");
        }
    }
    assert_eq!(target.crc(0..LEN), crc32c::crc32c(&pattern(SEED)));
}
