//! Damaged dumps of all kinds: nothing panics, everything ends in good time, errors are short and
//! say where. The seed of a failure is printed; set `SVA_FUZZ_SEED` to it to run that one again,
//! and `SVA_FUZZ_ROUNDS` for longer runs.

#[path = "common/texts.rs"]
mod texts;

use std::time::{Duration, Instant};

use fastrand::Rng;
use sva_topology::machine::Reading;
use sva_topology::read::{add_dmesg, parse, save, scan};
use texts::{ONE_PORT, hex_lines, port_config};

/// Pieces that dumps are made of, right and wrong.
const PIECES: [&[u8]; 40] = [
    b"00:01.0 PCI bridge: x\n",
    b"10000:e0:1f.7 IOMMU: y\n",
    b"ffffffff:ff:1f.7 Host bridge [0600]: [8086:ffff] (rev ff)\n",
    b"00:00.0 0604: ffff:ffff",
    b"Capabilities: [",
    b"Capabilities: <access denied>",
    b"[40] Express (v2) Unknown type 99",
    b" Express (v",
    b"Access Control Services",
    b"ACSCap: SrcValid+",
    b"ACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+",
    b"Bus: primary=00, secondary=00, subordinate=ff,",
    b"Bus: primary=zz, secondary=100, subordinate=,",
    b"Number of VFs: 65535",
    b"VF offset: 1, stride: 1,",
    b"VF offset: 65535, stride: 0,",
    b"Single Root I/O Virtualization",
    b"IOVCtl: Enable+",
    b"Max PASID Width: ff",
    b"Memory at ffffffffffffffff (64-bit, [size=99999999999G]",
    b"Memory behind bridge: ffff-0000",
    b"Region 255: Memory at 0",
    b"IOMMU group: 4294967296",
    b"Physical Function Virtual Function",
    b"\r\n",
    b"\n\n",
    b"\n> > > ",
    b"=3D",
    b"=\n",
    b"DEVSEL=3Dfast",
    b"\xff\xfe",
    b"\0",
    b"00: ff ff ff ff\n",
    b"100: 0d 00 01 22",
    b"{\"sva_topology_dump\":1,",
    b"\"0x",
    b"null",
    b"1e999",
    b"[[[[[[",
    b"...\n[truncated]\n",
];

fn damage(text: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=rng.usize(..8) {
        let at = rng.usize(..=text.len());
        let end = (at + rng.usize(..64)).min(text.len());
        match rng.u8(..7) {
            0 => drop(text.drain(at..end)),
            1 => text.truncate(at.max(1)),
            2 => {
                let again = text[at..end].to_vec();
                text.splice(at..at, again.repeat(rng.usize(1..4)));
            }
            3 if at < text.len() => text[at] ^= 1 << rng.u8(..8),
            4 if at < text.len() => text[at] = rng.u8(..),
            5 => {
                let digits = rng.u64(..).to_string();
                text.splice(at..end.min(at + 2), digits.into_bytes());
            }
            _ => drop(text.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied())),
        }
    }
}

/// Runs `check` with one seed after the other.
fn rounds(usual: u64, check: impl Fn(&mut Rng)) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let (first, rounds) = match number("SVA_FUZZ_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SVA_FUZZ_ROUNDS").unwrap_or(usual)),
    };
    for seed in first..first + rounds {
        let start = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&mut Rng::with_seed(seed))
        }));
        if let Err(panic) = result {
            eprintln!("SVA_FUZZ_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "SVA_FUZZ_SEED={seed} took {:?}",
            start.elapsed()
        );
    }
}

/// Reads, and looks at all that comes of it.
fn exercise(text: &[u8]) {
    match parse(text) {
        Ok(mut reading) => {
            let machine = reading.machine();
            assert!(machine.functions().len() <= reading.functions.len());
            for index in 0..machine.functions().len() {
                assert!(machine.bridges_above(index).count() <= 256, "a walk up ends");
                let function = &machine.functions()[index];
                assert!(function.name.as_ref().is_none_or(
                    |name| name.chars().count() <= 300 && !name.contains(char::is_control)
                ));
            }
            assert_eq!(parse(save(&reading).as_bytes()).expect("what was saved reads"), reading);
            add_dmesg(&mut reading, text).expect("it is short");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1_000 && !message.contains(char::is_control), "{message:?}");
            assert!(message.starts_with("line "), "{message}");
        }
    }
}

// shows S2
#[test]
fn damaged_text_reads_or_is_an_error_that_says_where() {
    let hex = ONE_PORT.replacen("\n\n", &format!("\n\n{}\n", hex_lines(&port_config())), 1);
    rounds(2_000, |rng| {
        let mut text =
            if rng.u8(..8) == 0 { hex.clone() } else { ONE_PORT.to_owned() }.into_bytes();
        damage(&mut text, rng);
        exercise(&text);
    });
}

// shows S2
#[test]
fn damaged_dumps_read_or_are_an_error_that_says_where() {
    let mut reading = parse(ONE_PORT.as_bytes()).expect("it reads");
    add_dmesg(
        &mut reading,
        b"DMAR: dmar0: reg_base_addr 0 cap 1 ecap 2\npci 0000:01:00.0: Adding to iommu group 1\n",
    )
    .expect("it is short");
    let dump = save(&reading);
    rounds(2_000, |rng| {
        let mut text = dump.clone().into_bytes();
        damage(&mut text, rng);
        exercise(&text);
    });
}

// shows S2
#[test]
fn pieces_without_order_read_or_are_an_error_that_says_where() {
    rounds(1_000, |rng| {
        let mut text = Vec::new();
        for _ in 0..rng.usize(..60) {
            text.extend_from_slice(PIECES[rng.usize(..PIECES.len())]);
            text.push(if rng.bool() { b' ' } else { b'\n' });
        }
        exercise(&text);
    });
}

// shows S2: a log is believed only of functions that are there.
#[test]
fn damaged_kernel_logs_place_only_functions_that_are_there() {
    const LOG: &str = "[    0.000000] Linux version 6.18.0 (made up) #1\n\
        [    0.000000] Command line: root=/dev/vda intel_iommu=on pcie_acs_override=downstream\n\
        [    0.010000] DMAR: IOMMU enabled\n\
        [    0.020000] pci 0000:00:01.0: [1af4:0101] type 01 class 0x060400 PCIe Root Port\n\
        [    0.300000] pci 0000:00:02.0: AMD-Vi: Found IOMMU cap 0x40\n\
        [    0.300100] AMD-Vi: Extended features (0x58f77ef22294a5a): PPR NX GT IA PC GA_vAPIC\n\
        Nov 22 10:00:00 host kernel: pci 0000:00:01.0: Adding to iommu group 1\n\
        iommu: Adding device 0000:01:00.0 to group 2\n\
        arm-smmu-v3 2b400000.iommu: ias 44-bit, oas 44-bit (features 0x00001fff)\n";
    let machine = parse(ONE_PORT.as_bytes()).expect("it reads");
    rounds(300, |rng| {
        let (mut log, mut reading) = (LOG.as_bytes().to_vec(), machine.clone());
        damage(&mut log, rng);
        let matched = add_dmesg(&mut reading, &log).expect("it is short");
        let grouped =
            reading.functions.iter().filter(|function| function.kernel_group.is_some()).count();
        assert_eq!((reading.functions.len(), grouped), (machine.functions.len(), matched.placed));
        exercise(save(&reading).as_bytes());
    });
}

// shows S2: bytes of a device, by the text's reader.
#[test]
fn random_configuration_space_is_decoded_to_the_end() {
    rounds(500, |rng| {
        let mut bytes = port_config();
        for _ in 0..rng.usize(1..400) {
            // Mostly where the lists begin and end.
            let at = if rng.bool() {
                rng.usize(..bytes.len())
            } else {
                [0x34, 0x40, 0x41, 0x100, 0x102, 0x220, 0x222][rng.usize(..7)]
            };
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(if rng.bool() { 4096 } else { rng.usize(..4096) });
        exercise(format!("00:01.0 PCI bridge: x\n\n{}", hex_lines(&bytes)).as_bytes());
    });
}

// shows S2: whatever is in the files, of any size.
#[test]
fn random_files_of_a_live_machine_do_not_stop_it() {
    rounds(60, |rng| {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("sys/bus/pci/devices/0000:00:01.0");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::create_dir_all(root.path().join("sys/class/iommu/dmar0/intel-iommu"))
            .expect("a folder");
        let names = [
            "config",
            "resource",
            "class",
            "subsystem_vendor",
            "secondary_bus_number",
            "../../../../class/iommu/dmar0/intel-iommu/ecap",
        ];
        for name in names {
            let bytes: Vec<u8> = (0..rng.usize(..5_000))
                .map(|_| if rng.bool() { rng.u8(..) } else { b"0x1f \n"[rng.usize(..6)] })
                .collect();
            std::fs::write(folder.join(name), bytes).expect("a file");
        }
        std::fs::write(folder.join("vendor"), "0x8086").expect("a file");
        std::fs::write(folder.join("device"), "0x1901").expect("a file");
        let reading: Reading = scan(root.path()).expect("one function is there");
        assert_eq!(reading.machine().functions().len(), 1);
    });
}

// shows S2: time and memory grow with the input, not with what it claims.
#[test]
fn many_functions_take_little_time() {
    let start = Instant::now();
    let claim = "\tFlags: x\n\tBus: primary=00, secondary=01, subordinate=ff, sec-latency=0\n\
                 \tCapabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)\n\
                 \t\tNumber of VFs: 65535,\n\t\tVF offset: 1, stride: 1,\n\n";
    let all: String = (0..20_000_u32)
        .map(|n| {
            format!(
                "{:04x}:{:02x}:{:02x}.{} PCI bridge: Intel Corporation No Such Thing {n}\n{claim}",
                n >> 16,
                n >> 8 & 0xff,
                n >> 3 & 31,
                n & 7
            )
        })
        .collect();
    let reading = parse(all.as_bytes()).expect("it reads");
    assert_eq!(reading.machine().functions().len(), 20_000);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}
