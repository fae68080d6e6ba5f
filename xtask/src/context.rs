//! Where things are, and how commands are run: shown, bounded in time, without input.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where things are.
pub(crate) struct Context {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Its build folder.
    pub(crate) target: PathBuf,
}

/// The exit status and the output of a command.
pub(crate) struct CommandOutput {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The same of a command that may pass its limit.
pub(crate) struct Captured {
    /// None where it passed its limit and was ended.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Context {
    /// The workspace that this program was built from.
    pub(crate) fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("xtask lies at the top of the file system")?
            .to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            return Err(format!("{} is no longer a workspace; build xtask again", root.display()));
        }
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// A cargo command in the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// The same with other compiler flags, which need a build folder of their own lest each run
    /// throws the other's away.
    pub(crate) fn cargo_with_flags(
        &self,
        flags: &str,
        folder: &str,
        arguments: &[&str],
    ) -> Command {
        let mut command = self.cargo(arguments);
        command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", self.target.join(folder));
        command
    }

    /// Runs `command` with its output shown; an error where it fails or passes `limit`.
    pub(crate) fn run(&self, mut command: Command, limit: Duration) -> Result<(), String> {
        show(&command);
        let child = spawn(&mut command)?;
        let status = wait(child, &command, limit, || ())?.ok_or_else(|| late(&command, limit))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", text(&command)))
        }
    }

    /// Runs `command` and returns its output; an error only where it cannot be run or passes
    /// `limit`.
    pub(crate) fn output_of(
        &self,
        mut command: Command,
        limit: Duration,
    ) -> Result<CommandOutput, String> {
        show(&command);
        let Captured { status, stdout, stderr } = self.capture(&mut command, limit)?;
        let status = status.ok_or_else(|| late(&command, limit))?;
        Ok(CommandOutput { status, stdout, stderr })
    }

    /// Runs `command` and keeps its output, without a word of its own; passing `limit` is an
    /// outcome like any other.
    pub(crate) fn capture(
        &self,
        command: &mut Command,
        limit: Duration,
    ) -> Result<Captured, String> {
        // Files, not pipes: nothing has to read while it waits, and a killed run leaves what it
        // said.
        let (out_path, out) = self.file("stdout")?;
        let (err_path, err) = self.file("stderr")?;
        let child = spawn(command.stdout(out).stderr(err))?;
        let status = wait(child, command, limit, || ())?;
        let (stdout, stderr) = (read(&out_path)?, read(&err_path)?);
        Ok(Captured { status, stdout, stderr })
    }

    /// Runs `command` with its output shown and captured, standard error among standard output; an
    /// error where it fails or passes `limit`.
    pub(crate) fn tee(&self, mut command: Command, limit: Duration) -> Result<String, String> {
        show(&command);
        let (path, out) = self.file("output")?;
        let err = out.try_clone().map_err(|e| format!("{}: {e}", path.display()))?;
        let mut seen = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let child = spawn(command.stdout(out).stderr(err))?;
        let mut echo = move || {
            let mut new = Vec::new();
            // What cannot be shown now is in the answer.
            if seen.read_to_end(&mut new).is_ok_and(|n| n > 0) {
                let _ = io::stdout().write_all(&new).and_then(|()| io::stdout().flush());
            }
        };
        let status = wait(child, &command, limit, &mut echo)?;
        echo();
        let said = read(&path)?;
        let status = status.ok_or_else(|| late(&command, limit))?;
        if status.success() {
            Ok(said)
        } else {
            Err(format!("{} ended with {status}", text(&command)))
        }
    }

    /// A new file for the output of a command. Another thread has another file, and so has another
    /// `xtask` that runs at the same time.
    fn file(&self, name: &str) -> Result<(PathBuf, File), String> {
        let (process, thread) = (std::process::id(), std::thread::current().id());
        let folder = self.target.join("xtask");
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let path = folder.join(format!("{name}-{process}-{thread:?}"));
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok((path, file))
    }
}

/// The file of an output, which is removed.
fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    // A file that stays does no harm.
    let _ = fs::remove_file(path);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn show(command: &Command) {
    let flags =
        command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    let flags: String = flags
        .filter(|(name, _)| name.contains("FLAGS"))
        .map(|(name, value)| format!("{name}=\"{value}\" "))
        .collect();
    println!("$ {flags}{}", text(command));
}

/// In CI each command leads a process group, so that passing its limit ends all that it started. At
/// a terminal it stays in the terminal's own group: Ctrl-C must reach it.
fn grouped() -> bool {
    std::env::var_os("CI").is_some()
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command.stdin(Stdio::null());
    if grouped() {
        command.process_group(0);
    }
    command.spawn().map_err(|e| format!("cannot run {}: {e}", text(command)))
}

fn late(command: &Command, limit: Duration) -> String {
    format!("{} took longer than {} s and was ended", text(command), limit.as_secs())
}

/// Waits for the child, or ends it and answers none; calls `meanwhile` again and again.
fn wait(
    mut child: Child,
    command: &Command,
    limit: Duration,
    mut meanwhile: impl FnMut(),
) -> Result<Option<ExitStatus>, String> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) if started.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(50));
                meanwhile();
            }
            Ok(None) => {
                end(&mut child);
                return Ok(None);
            }
            Err(e) => return Err(format!("waiting for {}: {e}", text(command))),
        }
    }
}

fn end(child: &mut Child) {
    if grouped() {
        // The child is not reaped yet, so the number of its group is still its own.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}
