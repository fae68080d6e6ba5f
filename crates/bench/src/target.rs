//! A process with memory to be measured on: this program again, under another subcommand.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

/// The target's side: has memory, says where, and stays until its input closes.
pub(crate) fn run(bytes: usize) -> Result<(), Box<dyn Error>> {
    let mut memory = vec![0u8; bytes];
    // Touched, so that no page has to be made while somebody measures.
    for (n, page) in memory.chunks_mut(4096).enumerate() {
        page.fill(n as u8 | 1);
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}", memory.as_ptr() as usize)?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(memory);
    Ok(())
}

/// A running target.
pub(crate) struct Target {
    child: Child,
    /// Where its memory begins.
    pub(crate) address: u64,
}

impl Target {
    /// Starts one with `bytes` of touched memory.
    pub(crate) fn start(bytes: usize) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("target")
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("the target has no output")?).read_line(&mut line)?;
        let address = line.trim().parse()?;
        Ok(Self { child, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends when its input closes; there is nobody to tell where it does not.
        let _ = self.child.wait();
    }
}
