//! `sva demo`, run as users run it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What the contract of the command states.
const LIMIT: Duration = Duration::from_secs(15);

fn demo(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sva"));
    command
        .arg("demo")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for the end, with a bound; what it says fits into a pipe.
fn finish(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().expect("a child can be waited for").is_none() {
        if begun.elapsed() > 2 * LIMIT {
            let _ = child.kill();
            panic!("it did not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("it can be read")
}

fn json(words: &[&str]) -> Value {
    let output = finish(demo(words).spawn().expect("it starts"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn claims(report: &Value) -> &[Value] {
    report["claims"].as_array().expect("claims")
}

fn texts(report: &Value) -> Vec<String> {
    claims(report)
        .iter()
        .map(|claim| format!("{} {} {}", claim["chapter"], claim["rules"], claim["claim"]))
        .collect()
}

/// The children that `parent` has now.
fn children(parent: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Every process that has `mark` in its environment: children, their images after exec, and what
/// attaches them.
fn marked(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc")
        .expect("it is there")
        .filter_map(|entry| Some(entry.ok()?.path()));
    let has = |path: &std::path::PathBuf| {
        std::fs::read(path.join("environ"))
            .is_ok_and(|all| all.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()))
    };
    entries.filter(has).map(|path| path.display().to_string()).collect()
}

#[test]
fn every_claim_of_the_story_is_made_and_holds() {
    let report = json(&["--json", "--seed", "7"]);
    assert_eq!(report["seed"], 7);
    assert_eq!(report["failed"], 0);
    assert_eq!(report["held"], claims(&report).len());
    assert!(
        report["elapsed_ms"].as_u64().is_some_and(|ms| u128::from(ms) < LIMIT.as_millis()),
        "{}",
        report["elapsed_ms"]
    );
    for claim in claims(&report) {
        assert_eq!(claim["held"], true, "{claim}");
    }
    // The chapter, a rule that it shows (none where the contract has no number for it), and words
    // of the sentence.
    let story = [
        ("pasids", "B1", "two devices has one PASID"),
        ("pasids", "B1", "another process has another"),
        ("pasids", "B8", "not bound to cannot reach"),
        ("compute", "", "CRC32C"),
        ("compute", "", "moves"),
        ("compute", "", "linked list"),
        ("compute", "", "breadth-first search"),
        ("groups", "B1", "refused: by whom, and why"),
        ("groups", "B2", "bind_group binds"),
        ("groups", "B2", "left out and listed"),
        ("windows", "B1", "policy `permissive`"),
        ("windows", "B7", "the bind told"),
        ("windows", "B7", "lands in the peer"),
        ("windows", "B7", "with ACS redirect"),
        ("windows", "B1", "ACS RR"),
        ("windows", "B1", "ACS UF"),
        ("protection", "T1", "read-only page"),
        ("protection", "T5", "exact byte"),
        ("endings", "U2", "when unbind returns"),
        ("endings", "T2", "munmap in the middle"),
        ("endings", "U4", "execs in the middle"),
        ("endings", "U7", "untouched"),
        ("endings", "B6", "ran once, with its drvdata"),
        ("endings", "U5", "held as long as"),
        ("endings", "U6", "new generation"),
        ("endings", "U6", "late transaction"),
        ("endings", "U4", "kill -9"),
        ("hotplug", "G4", "mappings"),
        ("hotplug", "G4", "joins the group's bond"),
        ("hotplug", "G5", "surprise removal"),
        ("containers", "T8", "a MAP serves"),
        ("containers", "G2", "a BIND serves"),
        ("containers", "B5", "one UNBIND"),
        ("containers", "T8", "UNMAP says"),
    ];
    for (chapter, rule, words) in story {
        let tells = |claim: &&Value| {
            claim["chapter"] == chapter
                && claim["claim"].as_str().is_some_and(|text| text.contains(words))
        };
        let claim = claims(&report)
            .iter()
            .find(tells)
            .unwrap_or_else(|| panic!("{chapter}: no claim says `{words}`"));
        let rules = claim["rules"].as_array().expect("a list");
        assert!(
            rule.is_empty() || rules.iter().any(|shown| shown == rule),
            "{claim} does not show {rule}"
        );
    }
}

#[test]
fn the_figures_are_of_this_run() {
    let report = json(&["--json"]);
    let figures = |words: &str| {
        let found = claims(&report)
            .iter()
            .find(|claim| claim["claim"].as_str().is_some_and(|text| text.contains(words)));
        found.unwrap_or_else(|| panic!("{words}"))["figures"].clone()
    };
    assert!(
        figures("execs in the middle")["writes"].as_u64().is_some_and(|writes| writes >= 16 * 256),
        "a round of 256 writes each"
    );
    assert!(figures("kill -9")["writes"].as_u64().is_some_and(|writes| writes >= 256));
    assert!(figures("CRC32C")["gigabytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(
        figures("refused: by whom")["refusal"]
            .as_str()
            .is_some_and(|said| said.contains("0000:07:00.0") && said.contains("ACS"))
    );
    assert!(
        figures("left out")["left_out"]
            .as_str()
            .is_some_and(|said| said.contains("0000:07:00.0") && said.contains("PASID"))
    );
}

#[test]
fn one_seed_tells_one_story() {
    let (a, b, other) = (
        json(&["--json", "--seed", "1"]),
        json(&["--json", "--seed", "1"]),
        json(&["--json", "--seed", "2"]),
    );
    assert_eq!(texts(&a), texts(&b));
    assert_eq!(texts(&a), texts(&other), "sentences do not depend on the data");
    let reached = |report: &Value| {
        let found = claims(report).iter().find(|claim| {
            claim["claim"].as_str().is_some_and(|text| text.contains("breadth-first"))
        });
        found.and_then(|claim| claim["figures"]["vertices"].as_u64()).expect("a count")
    };
    assert_eq!(reached(&a), reached(&b), "the data depends on the seed");
    assert_ne!(reached(&a), reached(&other), "and on nothing else");
}

#[test]
fn people_get_a_line_a_claim_and_a_sum() {
    let output = finish(demo(&["--seed", "3"]).spawn().expect("it starts"));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.lines().next().is_some_and(|line| line.contains("seed 3")), "{text}");
    let lines = text.lines().filter(|line| line.trim_start().starts_with('✓')).count();
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with(&format!("{lines} claims, all held"))),
        "{text}"
    );
    assert_eq!(text.lines().find(|line| line.chars().count() > 100), None);
}

#[test]
fn no_child_is_left_behind_whatever_ends_it() {
    // By itself, by Ctrl-C, and by a kill that it cannot know of.
    for signal in [None, Some("INT"), Some("KILL")] {
        let mark = format!("{}-{signal:?}", std::process::id());
        let mut child =
            demo(&["--seed", "4"]).env("SVA_DEMO_TEST", &mark).spawn().expect("it starts");
        let (pid, mark) = (child.id(), format!("SVA_DEMO_TEST={mark}"));
        let (mut seen, mut signalled, begun) = (BTreeSet::new(), false, Instant::now());
        while child.try_wait().expect("a child can be waited for").is_none() {
            assert!(begun.elapsed() < 2 * LIMIT, "it did not end");
            seen.extend(children(pid));
            if let (Some(signal), false, true) = (signal, signalled, seen.len() > 3) {
                let sent =
                    Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
                signalled = sent.expect("kill runs").success();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().expect("it can be read");
        match signal {
            None => assert_eq!(output.status.code(), Some(0)),
            Some("INT") => assert_eq!(
                output.status.code(),
                Some(130),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            ),
            Some(_) => assert_eq!(output.status.signal(), Some(9)),
        }
        assert!(seen.len() > 3, "children were seen: {seen:?}");
        // After a kill they notice the end of their input.
        let begun = Instant::now();
        while !marked(&mark).is_empty() {
            assert!(begun.elapsed() < LIMIT, "left behind: {:?}", marked(&mark));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn every_claim_of_the_storm_is_made_and_holds() {
    let report = json(&["--faults", "--json", "--seed", "7"]);
    assert_eq!(
        (&report["seed"], &report["failed"]),
        (&Value::from(7), &Value::from(0)),
        "{report}"
    );
    let rules = ["F1", "S3", "F3", "F5", "U4", "U1", "U2", "T1", "T2", "F2"];
    for rule in rules {
        let shows = |claim: &&Value| {
            claim["rules"].as_array().is_some_and(|rules| rules.iter().any(|shown| shown == rule))
        };
        assert!(claims(&report).iter().any(|claim| shows(&claim)), "no claim shows {rule}");
    }
    assert!(
        claims(&report).iter().all(|claim| claim["held"] == true && claim["chapter"] == "storm"),
        "{report}"
    );
    // Three devices and five spaces; each bond has had faults, and the parts of them are in order.
    let bonds = report["bonds"].as_array().expect("times");
    assert_eq!(bonds.len(), 15);
    for bond in bonds {
        assert!(bond["responses"].as_u64().is_some_and(|count| count > 0), "{bond}");
        for part in ["request", "resolve", "response", "retry"] {
            let of = |key: &str| bond[part][key].as_f64().expect("a time");
            assert!(
                0.0 < of("p50_us")
                    && of("p50_us") <= of("p99_us")
                    && of("p99_us") <= of("longest_us"),
                "{part}: {bond}"
            );
        }
    }
}

#[test]
fn people_get_a_table_of_times_after_the_storm() {
    let output = finish(demo(&["--faults", "--seed", "3"]).spawn().expect("it starts"));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.lines().next().is_some_and(|line| line.contains("seed 3")), "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("01:00.0")
                || line.starts_with("02:00.0")
                || line.starts_with("03:00.0"))
            .count(),
        15
    );
    assert_eq!(text.lines().find(|line| line.chars().count() > 100), None);
}

#[test]
fn a_trace_says_which_device_asked_for_which_address_of_which_pasid() {
    let mut command = demo(&["--faults", "--trace", "--seed", "3"]);
    // Into a file: nobody reads a pipe meanwhile.
    let events = tempfile::NamedTempFile::new().expect("a file");
    let output =
        finish(command.stderr(events.reopen().expect("the file")).spawn().expect("it starts"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let events = std::fs::read_to_string(events.path()).expect("text");
    let tells = |line: &str| {
        ["page requests answered", "device=0000:0", "pasid=", "address=", "code=success"]
            .iter()
            .all(|word| line.contains(word))
    };
    assert!(events.lines().any(tells), "{}", events.lines().take(5).collect::<String>());
    assert!(events.lines().any(|line| line.contains("page response") && line.contains("group=")));
}

#[test]
fn a_signal_ends_the_storm_and_its_process() {
    let mark = format!("{}-storm", std::process::id());
    let mut child =
        demo(&["--faults", "--seed", "4"]).env("SVA_DEMO_TEST", &mark).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    // In the middle: the storm rages from its first claim to its last.
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains("fault in four spaces"))),
        "it begins"
    );
    let sent =
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    assert!(
        lines.all(|line| line.is_ok_and(|line| !line.contains('✗') && !line.contains("all held"))),
        "no claim fails for it"
    );
    assert_eq!(finish(child).status.code(), Some(130));
    let (mark, begun) = (format!("SVA_DEMO_TEST={mark}"), Instant::now());
    while !marked(&mark).is_empty() {
        assert!(begun.elapsed() < LIMIT, "left behind: {:?}", marked(&mark));
        std::thread::sleep(Duration::from_millis(5));
    }
}
