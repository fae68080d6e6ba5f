//! Files that `sva topology` writes and compares: dumps and pictures.

use super::*;

#[test]
fn a_saved_dump_tells_the_same_and_can_be_saved_to_standard_output() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let dump = files.path("dump");
    let said = topology(&file, &format!("--save {}", dump.display()));
    assert_eq!((said.code, said.text().as_str()), (0, ""), "{said:?}");
    assert_eq!(object(&dump, ""), object(&file, ""));
    let piped = topology(&file, "--save -");
    assert_eq!(piped.stdout, std::fs::read(&dump).expect("written"));
    let mut command = sva(&["topology", "--from", "-", "--json"]);
    command.stdin(std::fs::File::open(&dump).expect("it is there"));
    assert_eq!(said_json(&mut command), object(&file, ""));
}

/// `ulimit` ends the program in the middle of its write, as a disk that is full or an interrupt
/// would.
#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let files = Files::new();
    let (file, dump) = (files.with("machine", machine()), files.with("dump", "old"));
    std::fs::set_permissions(&dump, Permissions::from_mode(0o640)).expect("it is ours");
    let (link, new) = (files.path("link"), files.path("new"));
    symlink("dump", &link).expect("a link");
    let save = |limit: &str, to: &Path| {
        let mut shell = std::process::Command::new("sh");
        shell.args([
            "-c",
            &format!("umask 027; ulimit -f {limit}; exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_sva"),
            "topology",
            "--from",
        ]);
        shell.arg(&file).arg("--save").arg(to).status().expect("it runs")
    };
    let mode = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map(|found| (found.is_file(), found.mode() & 0o777))
            .expect("it is there")
    };
    assert!(!save("1", &dump).success());
    assert_eq!(std::fs::read_to_string(&dump).expect("it is there"), "old");
    assert!(save("unlimited", &link).success() && save("unlimited", &new).success());
    assert_eq!(object(&dump, ""), object(&file, ""));
    assert_eq!((mode(&dump), mode(&link).0, mode(&new)), ((true, 0o640), false, (true, 0o640)));
    std::fs::set_permissions(&new, Permissions::from_mode(0o604)).expect("it is ours");
    assert!(save("unlimited", &new).success());
    assert_eq!(mode(&new), (true, 0o604), "its own");
    refused(&format!("topology --from {} --save /dev/full", file.display()), "file");
    assert!(save("unlimited", Path::new("/dev/null")).success() && !mode(Path::new("/dev/null")).0);
}

fn said_json(command: &mut std::process::Command) -> Value {
    let said = said(command);
    assert_eq!(said.code, 0, "{said:?}");
    said.json()
}

#[test]
fn pictures_are_written_and_tables_printed_beside_them() {
    let files = Files::new();
    let file = files.with("machine", machine());
    let (svg, html) = (files.path("m.svg"), files.path("m.html"));
    let said = topology(&file, &format!("--svg {} --html {} --sva", svg.display(), html.display()));
    assert!(said.code == 0 && said.text().contains("verdict"), "{said:?}");
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.contains("<svg") && svg.contains("01:00.0"), "{svg:.400}");
    assert!(std::fs::read_to_string(html).expect("written").contains("<html"));
    assert!(topology(&file, "--svg -").text().contains("<svg"));
}

// shows G1
#[test]
fn two_dumps_are_compared_whatever_differs_and_exit_with_0() {
    let files = Files::new();
    let a = files.with("a", machine());
    let b = files.with(
        "b",
        machine().replacen("SrcValid+ TransBlk- ReqRedir+", "SrcValid+ TransBlk- ReqRedir-", 1),
    );
    let diff = |words: &str| run(&format!("topology diff {words}"));
    let same = diff(&format!("{} {}", a.display(), a.display()));
    assert_eq!((same.code, same.text().as_str()), (0, "no difference\n"));
    let said = diff(&format!("{} {}", a.display(), b.display()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.text().contains("regrouped: 0000:01:00.0")
            && said.text().contains("ACS of 0000:00:01.0"),
        "{}",
        said.text()
    );
    let object = diff(&format!("{} {} --json", a.display(), b.display())).json();
    assert_eq!(
        keys(&object),
        ["acs", "added", "policies", "regrouped", "removed", "replaced", "sva"]
    );
    assert_eq!(keys(&object["regrouped"][0]), ["after", "before", "members"]);
    assert_eq!(keys(&object["regrouped"][0]["after"]), ["group", "others", "some"]);
    assert_eq!(keys(&object["acs"][0]), ["after", "bdf", "before"]);
    assert_eq!(object["sva"][0]["after"]["gate"], "redirect");
    // One dump, two policies: the override declares the port without ACS isolated.
    let said = diff(&format!("{} --policies linux override", a.display()));
    assert!(said.code == 0 && said.text().contains("regrouped: 0000:02:00.0"), "{said:?}");
    assert!(diff(&format!("{} {} --policies linux", a.display(), b.display())).code == 2);
}
