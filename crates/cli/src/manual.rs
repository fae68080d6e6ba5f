//! Completions and manual pages, made from the command line's own definition.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;

/// The completions for `shell`.
pub(crate) fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sva", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The manual page of the command, in roff; with a `folder` its pages and those of all subcommands are written there, and nothing is left to say.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn text(folder: Option<&Path>) -> Result<String, Error> {
    let Some(folder) = folder else {
        let mut out = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut out).map_err(|source| Error::File { path: "standard output".into(), source })?;
        return Ok(String::from_utf8_lossy(&out).into_owned());
    };
    let failed = |source| Error::File { path: folder.to_path_buf(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(String::new())
}
