//! Other machines: the whole workspace is checked for targets that are not this one. Only the
//! provider of live processes is x86-64 Linux only, and stands in for itself elsewhere.

use std::path::Path;
use std::process::Command;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};

/// Another processor with the same system, and another system.
const TARGETS: [&str; 2] = ["aarch64-unknown-linux-gnu", "aarch64-apple-darwin"];

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let mut missing = Vec::new();
    for target in TARGETS {
        match add(context, target)? {
            Ok(()) => {
                let words =
                    ["check", "--workspace", "--all-targets", "--locked", "--target", target];
                context.run(context.cargo(&words), minutes(15))?;
            }
            Err(why) => missing.push(format!("{target} ({why})")),
        }
    }
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Skipped(format!(
        "the toolchain lacks the standard library of {}, and it could not be added",
        missing.join(" and of ")
    )))
}

/// Adds the standard library of a target to the toolchain where it lacks that. The inner error is
/// why it cannot be added.
fn add(context: &Context, target: &str) -> Result<Result<(), String>, String> {
    if is_installed(context, target)? {
        return Ok(Ok(()));
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", target]).current_dir(&context.root);
    match context.output_of(rustup, minutes(5)) {
        Ok(output) if output.status.success() && is_installed(context, target)? => Ok(Ok(())),
        Ok(output) => {
            let word = output.stderr.lines().rfind(|line| line.starts_with("error"));
            Ok(Err(word.unwrap_or("rustup target add failed").to_owned()))
        }
        Err(why) => Ok(Err(why)),
    }
}

fn is_installed(context: &Context, target: &str) -> Result<bool, String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", target]).current_dir(&context.root);
    let output = context.output_of(rustc, minutes(1))?;
    let has_library = std::fs::read_dir(Path::new(output.stdout.trim())).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    });
    Ok(output.status.success() && has_library)
}
