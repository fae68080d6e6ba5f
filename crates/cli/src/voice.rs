//! Where things are said: results on standard output, complaints on standard error, and neither
//! panics when nobody listens.

use std::io::{self, Write};

use crate::error::{self, Error, exit};

/// How this run talks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Voice {
    /// Objects instead of sentences.
    pub(crate) json: bool,
    /// Standard output carries the bytes of memory; everything else goes to standard error.
    pub(crate) bytes_on_stdout: bool,
}

impl Voice {
    /// Says a result, where there is one; a missing line feed is added.
    ///
    /// # Errors
    /// Nobody reads it any more, or it cannot be written.
    pub(crate) fn say(self, text: &str) -> Result<(), Error> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        if self.bytes_on_stdout {
            complain(&format!("{text}{end}"));
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

    /// Says what stands beside the result: warnings, and what became of the work.
    pub(crate) fn note(self, text: &str) {
        complain(&format!("sva: {text}\n"));
    }

    /// Says why nothing was done; answers the exit code.
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
        match self {
            // One object, and nothing else beside it, where a program reads.
            Self { json: true, bytes_on_stdout: true } => complain(&format!("{object}\n")),
            Self { json: true, bytes_on_stdout: false } => {
                complain(&format!("sva: {message}\n"));
                // Nothing is left to be said where this fails.
                let _ = self.say(&object);
            }
            _ => complain(&format!("sva: {message}\n")),
        }
        exit::REFUSED
    }
}

/// Writes to standard error; where that is closed nobody can be told.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
