//! Completions and manual pages, made from the command line's own definition.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};

use crate::args::Cli;
use crate::error::Error;

/// The completions for `shell`.
pub(crate) fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sva", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The manual page of the command, in roff; with a `folder` its pages and those of all subcommands
/// are written there, and nothing is left to say.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn text(folder: Option<&Path>) -> Result<String, Error> {
    let page = page().map_err(|source| Error::File { path: "standard output".into(), source })?;
    let Some(folder) = folder else { return Ok(page) };
    let failed = |source| Error::File { path: folder.to_path_buf(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    fs::write(folder.join("sva.1"), page).map_err(failed)?;
    Ok(String::new())
}

/// sva(1): the exit codes, which the help has at its end, under their usual heading, and no word of
/// sva-help(1), which nobody writes.
fn page() -> io::Result<String> {
    let mut out = Vec::new();
    let command = Cli::command().disable_help_subcommand(true);
    let codes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    clap_mangen::Man::new(command.after_help(None::<&str>)).render(&mut out)?;
    let mut status = Roff::new();
    status.control("SH", ["EXIT STATUS"]);
    status.text([roman(codes.trim_start_matches("Exit codes: "))]);
    status.to_writer(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
