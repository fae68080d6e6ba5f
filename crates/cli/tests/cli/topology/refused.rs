//! What `sva topology` refuses, and what to do instead.

use super::*;

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
