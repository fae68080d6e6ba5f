//! Other toolchains than the pinned one, by rustup.

use std::process::Command;
use std::time::Duration;

use crate::context::Context;
use crate::outcome::minutes;

/// A cargo command of another toolchain, in the workspace.
pub(crate) fn cargo(context: &Context, toolchain: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]).args(arguments).current_dir(&context.root);
    // What `cargo xtask` was started with names the pinned toolchain.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command
}

/// Why `cargo WORDS` of this toolchain cannot be run; none where it can.
pub(crate) fn unavailable(context: &Context, toolchain: &str, words: &[&str]) -> Option<String> {
    let asked = context.output_of(cargo(context, toolchain, words), minutes(1));
    match asked {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = output.stderr.lines().next().unwrap_or("it says nothing").to_owned();
            Some(format!("`cargo {}` of {toolchain}: {said}", words.join(" ")))
        }
        Err(why) => Some(why),
    }
}

/// Has rustup add a toolchain, unless it is there or `SVA_CI_INSTALL` is 0.
pub(crate) fn install(context: &Context, toolchain: &str) -> Result<(), String> {
    if unavailable(context, toolchain, &["--version"]).is_none() {
        return Ok(());
    }
    if std::env::var("SVA_CI_INSTALL").is_ok_and(|value| value == "0") {
        return Err(format!("the toolchain {toolchain} is not there, and SVA_CI_INSTALL=0"));
    }
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", toolchain, "--profile", "minimal"]);
    context
        .run(command, Duration::from_secs(300))
        .map_err(|why| format!("the toolchain {toolchain} cannot be had: {why}"))
}
