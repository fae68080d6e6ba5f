//! Runs the command and makes processes for it to work on.

pub(crate) mod pty;
pub(crate) mod target;

use std::io::Read;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
pub(crate) use target::Target;

/// No run of the command in these tests needs a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }
}

/// The command with these arguments, and without the one variable that colours pipes.
pub(crate) fn sva(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sva"));
    command.args(arguments).stdin(Stdio::null()).env_remove("CLICOLOR_FORCE");
    command
}

/// Runs `sva` with a line of arguments.
pub(crate) fn run(line: &str) -> Said {
    said(&mut sva(&line.split_whitespace().collect::<Vec<_>>()))
}

/// Starts `sva` with a line of arguments, and gives the way to its standard input.
pub(crate) fn fed(line: &str) -> (Child, ChildStdin) {
    let mut child = sva(&line.split_whitespace().collect::<Vec<_>>())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let input = child.stdin.take().expect("piped");
    (child, input)
}

/// Runs a command to its end, which has to come in time, and demands that it did not panic.
pub(crate) fn said(command: &mut Command) -> Said {
    let child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let output = finish(child);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Said { code: output.status.code().expect("no signal ended it"), stdout: output.stdout, stderr }
}

/// Waits for a child, with a bound, and takes what it said.
pub(crate) fn finish(mut child: Child) -> Output {
    fn reader(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).expect("the pipe can be read");
            }
            bytes
        })
    }
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child);
    Output {
        status,
        stdout: stdout.join().expect("no panic"),
        stderr: stderr.join().expect("no panic"),
    }
}

/// Waits for a child, with a bound.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the command did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The sorted keys of an object.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
