//! Where texts go: results to standard output, everything beside them to standard error. Neither
//! panics when its reader is gone.

use std::io::{self, Write};

use crate::error::{self, Error, exit};
use crate::terminal::{Palette, Role, Terminal};

/// Where the texts of this run go, and in which form.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Output {
    /// Objects instead of sentences.
    pub(crate) json: bool,
    /// Standard output carries the bytes of memory; everything else goes to standard error.
    pub(crate) bytes_on_stdout: bool,
    /// Standard output, for texts for people.
    pub(crate) terminal: Terminal,
    /// The colours of standard error.
    pub(crate) errors: Palette,
}

impl Output {
    /// Objects with `json`; colour as `--color` says.
    pub(crate) fn new(json: bool, color: clap::ColorChoice) -> Self {
        Self {
            json,
            bytes_on_stdout: false,
            terminal: Terminal::of(color),
            errors: Palette::of_stderr(color),
        }
    }

    /// Prints a result, where there is one; a missing line feed is added.
    ///
    /// # Errors
    /// Nobody reads it any more, or it cannot be written.
    pub(crate) fn print(self, text: &str) -> Result<(), Error> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        if self.bytes_on_stdout {
            print_error(&format!("{text}{end}"));
            return Ok(());
        }
        let mut out = io::stdout().lock();
        write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(|source| {
            match source.kind() {
                io::ErrorKind::BrokenPipe => Error::BrokenPipe,
                _ => Error::File { path: "standard output".into(), source },
            }
        })
    }

    /// Prints what stands beside the result, such as what became of the work.
    pub(crate) fn note(self, text: &str) {
        print_error(&format!("sva: {text}\n"));
    }

    /// Prints a warning beside the result.
    pub(crate) fn warn(self, text: &str) {
        self.note(&format!("{}: {text}", self.errors.paint(Role::Warning, "warning")));
    }

    /// Prints why nothing was done; answers the exit code.
    pub(crate) fn fail(self, error: &Error) -> u8 {
        // Whoever closed the pipe knows it.
        if !matches!(error, Error::BrokenPipe) {
            self.refuse(error.kind(), &error.message());
        }
        error.code()
    }

    /// The same for what has no [`Error`].
    pub(crate) fn refuse(self, kind: &str, message: &str) -> u8 {
        let object = error::object(kind, message);
        let sentence = format!("{} {message}\n", self.errors.paint(Role::Bad, "sva:"));
        match self {
            // One object, and nothing else beside it, where a program reads.
            Self { json: true, bytes_on_stdout: true, .. } => print_error(&format!("{object}\n")),
            Self { json: true, bytes_on_stdout: false, .. } => {
                print_error(&sentence);
                // Where this fails, the sentence above is all that can be said.
                let _ = self.print(&object);
            }
            _ => print_error(&sentence),
        }
        exit::REFUSED
    }
}

/// Writes to standard error. Where that is closed, nobody can be told.
pub(crate) fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
