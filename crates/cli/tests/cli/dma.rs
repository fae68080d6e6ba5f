//! What the data mover does is what the process itself sees.

use std::io::Write;

use crate::support::target::{LEN, pattern};
use crate::support::{Target, fed, finish, keys, run, said, sva};

const SEED: u64 = 0x5eed_0001;

#[test]
fn crc32c_is_what_the_process_computes_itself_also_over_many_descriptors() {
    let mut target = Target::new(SEED);
    for (from, len) in [(0, LEN), (3, 1), (1, (16 << 20) + 1), (4095, 4097)] {
        let said = run(&format!(
            "dma crc32c --pid {} --addr {} --len {len} --json",
            target.pid(),
            target.base + from as u64
        ));
        assert_eq!(said.code, 0, "{said:?}");
        let report = said.json();
        assert_eq!(
            keys(&report),
            ["bytes", "device", "elapsed_ns", "fault", "misrouted", "overlaps", "pasid", "result"]
        );
        assert_eq!(report["result"], format!("0x{:08x}", target.crc(from..from + len)));
        assert_eq!(report["bytes"], len);
        assert!(
            report["fault"].is_null()
                && report["pasid"].as_u64() > Some(0)
                && report["elapsed_ns"].as_u64() > Some(0),
            "{report}"
        );
    }
}

#[test]
fn a_region_is_found_by_its_name() {
    let target = Target::new(SEED);
    let said = run(&format!("dma crc32c --pid {} --region [stack] --json", target.pid()));
    assert_eq!(said.code, 0, "{said:?}");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("it lives");
    let stack = maps
        .lines()
        .find(|line| line.ends_with("[stack]"))
        .and_then(|line| line.split(' ').next())
        .expect("a stack");
    let (from, to) = stack.split_once('-').expect("a range");
    let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
    assert_eq!(said.json()["bytes"], hex(to) - hex(from));

    let said = run(&format!("dma crc32c --pid {} --region no-such-name", target.pid()));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("no-such-name"), "{said:?}");
}

#[test]
fn read_gives_the_bytes_to_a_file_to_a_pipe_and_as_a_dump() {
    let target = Target::new(SEED);
    let bytes = pattern(SEED);
    let (from, len) = (12_345, (17 << 20) + 5);
    let wanted = &bytes[from..from + len];
    let place =
        format!("--pid {} --addr {:#x} --len {len}", target.pid(), target.base + from as u64);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("out");
    let said = run(&format!("dma read {place} --out {}", file.display()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(std::fs::read(&file).expect("written") == wanted);

    let said = run(&format!("dma read {place} --out - --json"));
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout == wanted);
    let report: serde_json::Value =
        serde_json::from_str(&said.stderr).expect("the report goes to standard error");
    assert_eq!(report["bytes"], len);

    let said = run(&format!("dma read --pid {} --addr {} --len 20", target.pid(), target.base));
    assert_eq!(said.code, 0, "{said:?}");
    let first: Vec<String> = bytes[..16].iter().map(|b| format!("{b:02x}")).collect();
    let line = format!("{:016x}  {}  {}", target.base, first[..8].join(" "), first[8..].join(" "));
    assert!(said.text().starts_with(&line), "{} should begin with {line}", said.text());

    let said =
        run(&format!("dma read --pid {} --addr {} --len 3 --json", target.pid(), target.base));
    assert_eq!(said.json()["result"], first[..3].concat());
}

#[test]
fn write_takes_a_file_or_standard_input_whole() {
    let mut target = Target::new(SEED);
    let mut wanted = pattern(SEED);
    let new = pattern(SEED + 1);
    let len = (17 << 20) + 3;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("in");
    std::fs::write(&file, &new[..len]).expect("written");

    let said = run(&format!(
        "dma write --pid {} --addr {} --in {} --json",
        target.pid(),
        target.base + 7,
        file.display()
    ));
    assert_eq!((said.code, said.json()["bytes"].as_u64()), (0, Some(len as u64)), "{said:?}");
    wanted[7..7 + len].copy_from_slice(&new[..len]);
    assert_eq!(target.crc(0..LEN), crc32c::crc32c(&wanted));

    let place =
        format!("dma write --pid {} --addr {} --in - --json", target.pid(), target.base + 1);
    let (child, mut input) = fed(&place);
    let piece = new[100..100 + (3 << 20)].to_vec();
    wanted[1..=piece.len()].copy_from_slice(&piece);
    let feeder = std::thread::spawn(move || input.write_all(&piece));
    let output = finish(child);
    feeder.join().expect("no panic").expect("all of it was taken");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(target.crc(0..LEN), crc32c::crc32c(&wanted));
}

#[test]
fn copies_of_overlapping_ranges_larger_than_a_descriptor_come_out_right_in_both_directions() {
    for (src, dst) in [(0, 5 << 20), (5 << 20, 0), (1, 2), (2, 1), (0, 20 << 20)] {
        let mut target = Target::new(SEED);
        let len = 20 << 20;
        let said = run(&format!(
            "dma copy --pid {} --src {} --dst {} --len {len} --json",
            target.pid(),
            target.base + src as u64,
            target.base + dst as u64
        ));
        assert_eq!((said.code, said.json()["bytes"].as_u64()), (0, Some(len as u64)), "{said:?}");
        let mut wanted = pattern(SEED);
        wanted.copy_within(src..src + len, dst);
        assert_eq!(target.crc(0..LEN), crc32c::crc32c(&wanted), "from {src} to {dst}");
    }
}

#[test]
fn fill_fills_its_range_and_no_byte_beside_it() {
    let mut target = Target::new(SEED);
    let (from, len) = (4093, (16 << 20) + 7);
    let said = run(&format!(
        "dma fill --pid {} --addr {} --len {len} --byte 0xa5",
        target.pid(),
        target.base + from as u64
    ));
    assert_eq!(said.code, 0, "{said:?}");
    let mut wanted = pattern(SEED);
    wanted[from..from + len].fill(0xa5);
    assert_eq!(target.crc(0..LEN), crc32c::crc32c(&wanted));
}

#[test]
fn compare_says_where_the_first_difference_is() {
    let target = Target::new(SEED);
    let line = |a: u64, b: u64, len: u64| {
        format!(
            "dma compare --pid {} --a {} --b {} --len {len} --json",
            target.pid(),
            target.base + a,
            target.base + b
        )
    };
    let copied = run(&format!(
        "dma copy --pid {} --src {} --dst {} --len 18M",
        target.pid(),
        target.base,
        target.base + (20 << 20)
    ));
    assert_eq!(copied.code, 0, "{copied:?}");
    let said = run(&line(0, 20 << 20, 18 << 20));
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!(
        keys(&report),
        [
            "bytes",
            "device",
            "difference_at",
            "elapsed_ns",
            "fault",
            "misrouted",
            "overlaps",
            "pasid",
            "result"
        ]
    );
    assert_eq!(
        (&report["result"], report["difference_at"].is_null()),
        (&true.into(), true),
        "{report}"
    );

    for at in [0, 1, (16 << 20) - 1, 16 << 20, (18 << 20) - 1] {
        let byte = pattern(SEED)[at] ^ 0x80;
        let mark = format!(
            "dma fill --pid {} --addr {} --len 1 --byte {byte}",
            target.pid(),
            target.base + at as u64
        );
        assert_eq!(run(&mark).code, 0);
        let said = run(&line(0, 20 << 20, 18 << 20));
        assert_eq!(said.code, 0, "a difference is a result, no fault: {said:?}");
        assert_eq!(
            (&said.json()["result"], &said.json()["difference_at"]),
            (&false.into(), &at.into()),
            "{said:?}"
        );
        let restore = format!(
            "dma fill --pid {} --addr {} --len 1 --byte {}",
            target.pid(),
            target.base + at as u64,
            byte ^ 0x80
        );
        assert_eq!(run(&restore).code, 0);
    }
}

// shows B7
#[test]
fn a_peer_that_decodes_the_process_s_addresses_is_named_before_and_after_and_swallows_the_write() {
    let mut target = Target::new(SEED);
    let unit = 1 << 20;
    let window = target.base.next_multiple_of(unit) + unit;
    let inside = usize::try_from(window - target.base).expect("small");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fabric.toml");
    std::fs::write(&file, PEER.replace("WINDOW", &format!("{window:#x}"))).expect("written");
    let place =
        format!("--pid {} --addr {:#x} --config {}", target.pid(), target.base, file.display());
    let said = run(&format!("dma fill {place} --len 8M --byte 0x5a --group"));
    assert_eq!(said.code, 0, "{said:?}");
    let warnings: Vec<&str> = said
        .stderr
        .lines()
        .filter(|line| line.starts_with("sva: warning:") && line.contains("0000:05:00.0"))
        .collect();
    assert_eq!(warnings.len(), 2, "at the bind, and for what was misrouted: {said:?}");
    let mut wanted = pattern(SEED);
    wanted[..inside].fill(0x5a);
    wanted[inside + (1 << 20)..8 << 20].fill(0x5a);
    assert_eq!(
        target.crc(0..LEN),
        crc32c::crc32c(&wanted),
        "all was filled but for the peer's window"
    );

    let object = run(&format!("dma fill {place} --len 8M --byte 0x5a --group --json")).json();
    let last = window + unit - 1;
    let overlap = serde_json::json!({
        "device": "0000:04:00.0",
        "address": format!("{window:#x}"),
        "last": format!("{last:#x}"),
        "decoder": "0000:05:00.0",
    });
    assert_eq!(object["overlaps"], serde_json::json!([overlap]));
    assert!(object["misrouted"].as_u64().is_some_and(|count| count > 0), "{object}");
    let clean = run(&format!(
        "dma fill --pid {} --addr {:#x} --len 1M --byte 0x5a --json",
        target.pid(),
        target.base
    ))
    .json();
    assert_eq!(
        (&clean["overlaps"], &clean["misrouted"]),
        (&serde_json::json!([]), &0.into()),
        "{clean}"
    );
}

/// A data mover and a peer below a switch that does not redirect; the peer's BAR lies where the
/// process has memory.
const PEER: &str = r#"
policy = "permissive"

[[host_bridge]]
id = "rc0"
windows = [{ address = "WINDOW", size = "1M" }]

[[port]]
id = "rp"
parent = "rc0"
kind = "root-port"
bdf = "00:01.0"
secondary = 0x01
acs = ["SV", "RR", "CR", "UF"]

[[port]]
id = "up"
parent = "rp"
kind = "upstream"
bdf = "01:00.0"
secondary = 0x02

[[port]]
id = "a"
parent = "up"
kind = "downstream"
bdf = "02:00.0"
secondary = 0x04

[[port]]
id = "b"
parent = "up"
kind = "downstream"
bdf = "02:01.0"
secondary = 0x05

[[device]]
parent = "a"
bdf = "04:00.0"
model = "data-mover"
pasid = { width = 20 }
page_faults = true

[[device]]
parent = "b"
bdf = "05:00.0"
model = "memory"
bars = [{ address = "WINDOW", size = "1M" }]
"#;

#[test]
fn the_target_is_left_as_it_was() {
    let mut target = Target::new(SEED);
    let before = (
        target.status("Threads"),
        target.status("SigPnd"),
        target.status("SigBlk"),
        target.crc(0..LEN),
    );
    let maps = |target: &Target| {
        std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("it lives")
    };
    let descriptors = |target: &Target| {
        std::fs::read_dir(format!("/proc/{}/fd", target.pid())).expect("it lives").count()
    };
    let (maps_before, descriptors_before) = (maps(&target), descriptors(&target));
    for _ in 0..5 {
        let said = said(&mut sva(&[
            "dma",
            "crc32c",
            "--pid",
            &target.pid().to_string(),
            "--region",
            "[stack]",
        ]));
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(maps(&target), maps_before);
    assert_eq!(descriptors(&target), descriptors_before);
    assert_eq!(target.status("TracerPid"), "0");
    assert_eq!(
        (
            target.status("Threads"),
            target.status("SigPnd"),
            target.status("SigBlk"),
            target.crc(0..LEN)
        ),
        before
    );
}
