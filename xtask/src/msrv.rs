//! The workspace checks with the oldest toolchain that it promises.

use std::path::Path;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};
use crate::{scan, toolchain};

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let manifest = scan::read(&context.root, Path::new("Cargo.toml"))?;
    let version = promised(&manifest).ok_or("Cargo.toml promises no rust-version")?;
    let toolchain =
        if version.matches('.').count() == 1 { format!("{version}.0") } else { version.to_owned() };
    if let Err(why) = toolchain::install(context, &toolchain) {
        return Ok(Outcome::Skipped(why));
    }
    // What is published, and what it depends on. Tests may use what is newer.
    let words = ["check", "--workspace", "--exclude", "xtask", "--locked"];
    let mut command = toolchain::cargo(context, &toolchain, &words);
    command.env("CARGO_TARGET_DIR", context.target.join("msrv"));
    context.run(command, minutes(10))?;
    println!("checked with {toolchain}");
    Ok(Outcome::Passed)
}

/// The `rust-version` of the workspace.
fn promised(manifest: &str) -> Option<&str> {
    let value = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "))?;
    Some(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_is_read_from_the_manifest() {
        assert_eq!(promised("[workspace.package]\nrust-version = \"1.88\"\n"), Some("1.88"));
        assert_eq!(promised("[workspace.package]\n# rust-version = \"1.88\"\n"), None);
    }
}
