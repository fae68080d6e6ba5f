//! The fence around `unsafe`: it stands in the files named here and nowhere else, and every other
//! crate forbids it to itself.

use crate::Outcome;
use crate::context::Context;
use crate::scan;

/// Files and folders in which `unsafe` may stand, with the reason.
const ALLOWED: &[(&str, &str)] = &[
    (
        "crates/host/src/linux/sys/",
        "the system calls that no safe crate wraps, and a process that shares our memory",
    ),
    (
        "crates/host/src/linux/anchor/tracer_process.rs",
        "starts that process, and answers for what its code must not do",
    ),
    ("crates/host/tests/", "targets that make mappings, clones and traps of their own"),
];

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let mut wrong = Vec::new();
    let mut used = 0;
    for path in scan::files(&context.root, "rs")? {
        let name = path.to_string_lossy().into_owned();
        let source = scan::read(&context.root, &path)?;
        let code = scan::code_only(&source);
        let lines: Vec<usize> = code
            .lines()
            .enumerate()
            .filter(|(_, line)| scan::has_word(line, "unsafe"))
            .map(|(n, _)| n + 1)
            .collect();
        if ALLOWED.iter().any(|(allowed, _)| name.starts_with(allowed)) {
            used += lines.len();
        } else {
            wrong.extend(lines.iter().map(|line| {
                format!("{name}:{line}: unsafe outside the files that xtask/src/fence.rs names")
            }));
        }
        wrong.extend(
            missing_attribute(&name, &code)
                .map(|attribute| format!("{name}: no #![{attribute}] at its head")),
        );
    }
    println!("{used} lines with unsafe where it may stand:");
    ALLOWED.iter().for_each(|(name, why)| println!("    {name}: {why}"));
    if wrong.is_empty() { Ok(Outcome::Passed) } else { Err(wrong.join("\n!!! ")) }
}

/// The attribute that a crate's root file lacks.
fn missing_attribute(name: &str, code: &str) -> Option<&'static str> {
    let root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let fenced = name.rsplit_once("src/").is_some_and(|(krate, _)| {
        ALLOWED.iter().any(|(allowed, _)| allowed.starts_with(&format!("{krate}src/")))
    });
    let wanted = if fenced { "deny(unsafe_code)" } else { "forbid(unsafe_code)" };
    (root && !code.contains(wanted)).then_some(wanted)
}
