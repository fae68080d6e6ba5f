//! What is refused: exit code 2, a message that says what to do next, and with `--json` an object.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::{Target, keys, run, said, sva, wait};

const SEED: u64 = 0x5eed_0003;

/// Runs it, demands the exit code 2 and the error object of this kind; answers the message.
fn refused(line: &str, kind: &str) -> String {
    let plain = run(line);
    assert_eq!(plain.code, 2, "{line}: {plain:?}");
    assert!(plain.stdout.is_empty() && plain.stderr.starts_with("sva: "), "{line}: {plain:?}");
    let said = run(&format!("{line} --json"));
    assert_eq!(said.code, 2, "{line}: {said:?}");
    let object = said.json();
    assert_eq!(
        (keys(&object), keys(&object["error"])),
        (vec!["error"], vec!["kind", "message"]),
        "{object}"
    );
    assert_eq!(object["error"]["kind"], kind, "{line}: {object}");
    object["error"]["message"].as_str().expect("text").to_owned()
}

// shows S2
#[test]
fn wrong_numbers_are_refused_before_anything_is_bound() {
    for (arguments, why) in [
        ("read --pid 1 --addr 0x1000 --len 0", "nothing to do"),
        ("read --pid 1 --addr 0x1000 --len 99999999999999999999", "99999999999999999999"),
        ("read --pid 1 --addr 7f00 --len 1", "0x"),
        ("read --pid 0 --addr 1 --len 1", "`0` is not a process number; ps -e"),
        ("read --pid -1 --addr 1 --len 1", "`-1` is not a process number"),
        ("read --pid self --addr 1 --len 1", "`self` is not a process number"),
        ("read --pid 4294967296 --addr 1 --len 1", "`4294967296` is not a process number"),
        ("fill --pid 1 --addr 1 --len 1 --byte 256", "0x100"),
        ("read --pid 1 --addr 1 --len 1 --device 1:2", "1:2"),
        ("crc32c --pid 1", "--region"),
        ("crc32c --pid 1 --addr 1", "--len"),
        ("crc32c --pid 1 --len 1", "--addr"),
        ("crc32c --pid 1 --addr 1 --len 1 --region [heap]", "--region"),
        ("crc32c --pid 1 --region=", "name a region"),
        ("frobnicate --pid 1", "frobnicate"),
    ] {
        let message = refused(&format!("dma {arguments}"), "usage");
        assert!(message.contains(why), "{arguments}: {message}");
    }
}

// shows S2
#[test]
fn lengths_that_wrap_are_refused() {
    let target = Target::new(SEED);
    let pid = target.pid();
    for line in [
        format!("dma read --pid {pid} --addr 0xfffffffffffff000 --len 0x1001"),
        format!("dma crc32c --pid {pid} --addr 2 --len 0xffffffffffffffff"),
        format!("dma copy --pid {pid} --src 0x1000 --dst 0xffffffffffffff00 --len 4K"),
        format!("dma copy --pid {pid} --src 0xffffffffffffff00 --dst 0x1000 --len 4K"),
        format!("dma compare --pid {pid} --a 0x1000 --b 0xffffffffffffff00 --len 4K"),
        format!("dma fill --pid {pid} --addr 0xffffffffffffffff --len 2 --byte 0"),
    ] {
        assert!(refused(&line, "usage").contains("wrap"), "{line}");
    }
}

// shows S1
#[test]
fn a_process_that_does_not_exist_any_more_is_refused() {
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .arg("--list")
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = child.id();
    wait(&mut child);
    let message = refused(&format!("dma read --pid {pid} --addr 0x1000 --len 1"), "attach");
    assert!(message.contains(&pid.to_string()) && message.contains("ps -e"), "{message}");
    assert!(refused(&format!("regions --pid {pid}"), "regions").contains("ps -e"));
}

#[test]
fn a_refusal_is_one_object_where_a_program_reads() {
    // Standard output belongs to the bytes: the object is alone on standard error.
    let said = run("dma read --pid 4194305 --addr 0 --len 1 --out - --json");
    assert_eq!((said.code, said.stdout.len()), (2, 0), "{said:?}");
    let object: serde_json::Value =
        serde_json::from_str(&said.stderr).expect("one object and nothing else");
    assert_eq!(object["error"]["kind"], "attach");
    // Too long to be shown; refused before the process is looked at.
    let long = run("dma read --pid 4194305 --addr 0 --len 65537 --json");
    assert_eq!((long.code, &long.json()["error"]["kind"]), (2, &"usage".into()), "{long:?}");
    assert!(long.stderr.contains("--out"), "{long:?}");
    assert_eq!(run("--json").json()["error"]["kind"], "usage");
}

// shows S1
#[test]
fn a_process_of_another_user_is_refused_with_what_to_do() {
    let target = Target::new(SEED);
    let uid = std::fs::read_to_string("/proc/self/status").expect("readable");
    if !uid.lines().any(|line| line.starts_with("Uid:\t0\t0")) {
        eprintln!("SKIPPED: only root can take another user's name");
        return;
    }
    // A copy in a place that everybody may enter.
    let folder = tempfile::Builder::new()
        .prefix("sva-cli-test")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a folder");
    let program = folder.path().join("sva");
    // By a process of its own: a file that this one had open for writing, and that a test in
    // another thread forked with, could not be started (ETXTBSY).
    assert!(
        Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_sva"))
            .arg(&program)
            .status()
            .expect("cp starts")
            .success()
    );
    let mut command = Command::new(&program);
    command.args([
        "dma",
        "read",
        "--len",
        "16",
        "--json",
        "--addr",
        &target.base.to_string(),
        "--pid",
        &target.pid().to_string(),
    ]);
    let said = said(command.stdin(Stdio::null()).uid(65534).gid(65534).current_dir("/"));
    assert_eq!(said.code, 2, "{said:?}");
    assert_eq!(said.json()["error"]["kind"], "attach", "{said:?}");
    assert!(
        said.stderr.contains("same user") && said.stderr.contains("CAP_SYS_PTRACE"),
        "{said:?}"
    );
    assert_eq!(target.status("TracerPid"), "0");
}

// shows B1
#[test]
fn a_device_that_shares_its_group_is_refused_by_name_and_bound_with_its_group() {
    let mut target = Target::new(SEED);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fabric.toml");
    std::fs::write(&file, SHARED).expect("written");
    let place = format!(
        "--pid {} --addr {} --len 1M --config {}",
        target.pid(),
        target.base,
        file.display()
    );
    let message = refused(&format!("dma crc32c {place} --device 02:00.0"), "bind");
    assert!(message.contains("0000:02:00.1") && message.contains("--group"), "{message}");
    let message = refused(&format!("dma crc32c {place}"), "device");
    assert!(message.contains("--group"), "{message}");
    let said = run(&format!("dma crc32c {place} --device 02:00.0 --group --json"));
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()["result"], format!("0x{:08x}", target.crc(0..1 << 20)));
    let message = refused(&format!("dma crc32c {place} --device 02:00.1 --group"), "device");
    assert!(message.contains("no data mover"), "{message}");
    let message = refused(&format!("dma crc32c {place} --device 77:00.0"), "device");
    assert!(message.contains("sva fabric"), "{message}");

    std::fs::write(&file, SHARED.replace("data-mover", "memory")).expect("written");
    for words in ["", " --group", " --device 02:00.0"] {
        let message = refused(&format!("dma crc32c {place}{words}"), "device");
        assert!(
            message.contains("has no data mover") && message.contains("model = \"data-mover\""),
            "{message}"
        );
        assert!(!message.contains("--device"), "{message}");
    }
}

/// Two functions of one device without ACS between them; only one has PASIDs.
const SHARED: &str = r#"
policy = "permissive"

[[host_bridge]]
id = "rc0"
windows = [{ address = "0x80000000", size = "1G" }]

[[port]]
id = "rp1"
parent = "rc0"
kind = "root-port"
bdf = "00:01.0"
secondary = 0x02
acs = ["SV", "RR", "CR", "UF"]

[[device]]
parent = "rp1"
bdf = "02:00.0"
model = "data-mover"
pasid = { width = 20 }
page_faults = true

[[device]]
parent = "rp1"
bdf = "02:00.1"
model = "memory"
"#;

// shows S2
#[test]
fn a_file_that_is_no_fabric_is_refused_with_the_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fabric.toml");
    let whole = run("fabric --example").text();
    let twice = format!(
        "{whole}\n{}",
        whole.lines().find(|line| line.starts_with("policy")).expect("it states its policy")
    );
    for (text, why) in [
        ("policy = ", "line 1"),
        ("colour = \"red\"", "colour"),
        (&twice, "policy"),
        ("", "host"),
        ("\u{0}", "line 1"),
    ] {
        std::fs::write(&file, text).expect("written");
        for line in ["fabric --config", "dma read --pid 1 --addr 0 --len 1 --config"] {
            let message = refused(&format!("{line} {}", file.display()), "config");
            assert!(message.contains(why) && message.contains("fabric.toml"), "{text}: {message}");
        }
    }
    let message =
        refused(&format!("fabric --config {}", folder.path().join("missing").display()), "file");
    assert!(message.ends_with("check the path"), "{message}");
    std::fs::write(&file, format!("policy = \"\u{1b}[31m{}", "x".repeat(200_000)))
        .expect("written");
    let message = refused(&format!("fabric --config {}", file.display()), "config");
    assert!(
        message.len() < 600
            && message.matches("line 1").count() == 1
            && !message.contains('\u{1b}'),
        "{message:.600}"
    );
    let message = refused("fabric --config /dev/zero", "config");
    assert!(message.contains("bytes"), "{message}");
    std::fs::write(&file, b"policy\xff\xfe").expect("written");
    let message = refused(&format!("fabric --config {}", file.display()), "config");
    assert!(message.contains("byte 6 ") && message.contains("--example"), "{message}");
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let target = Target::new(SEED);
    let place = format!("--pid {} --addr {}", target.pid(), target.base);
    for line in [
        format!("dma write {place} --in /nonexistent"),
        format!("dma read {place} --len 1 --out /"),
        format!("dma write {place} --in /"),
    ] {
        let message = refused(&line, "file");
        assert!(
            message.contains("; check the path") || message.contains("; name a file"),
            "{line}"
        );
    }
    let full = said(&mut sva(&format!("dma read {place} --len 1M --out /dev/full")
        .split(' ')
        .collect::<Vec<_>>()));
    assert_eq!(full.code, 2, "{full:?}");
    assert!(full.stderr.contains("/dev/full") && full.stderr.contains("make room"), "{full:?}");
}
