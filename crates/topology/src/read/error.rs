//! Why something could not be read.

use std::path::PathBuf;

use crate::machine::limit;

/// The version of dumps that is written and read.
pub(super) const DUMP_VERSION: u64 = 1;

/// Why a dump or a live machine could not be read. Lines and columns count from 1; columns are
/// bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The input is longer than is taken.
    #[error(
        "{bytes} bytes are more than the {limit} that are read; give the part with the PCI devices"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// How many are read.
        limit: usize,
    },
    /// No PCI function is in the text.
    #[error(
        "line {line}, column {column}: the text ends here and no PCI function is in it; give the \
         output of `lspci -vvv -nn` (as root), or a file of `sva topology --save`"
    )]
    NoFunctions {
        /// Where the text ends.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// More functions than are taken.
    #[error(
        "line {line}, column {column}: these are more than {} PCI functions; split the text",
        limit::FUNCTIONS
    )]
    TooManyFunctions {
        /// Where the first one too many begins.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// The JSON is no dump.
    #[error("line {line}, column {column}: this is no dump of `sva topology --save`: {problem}")]
    Dump {
        /// The line.
        line: usize,
        /// Where in that line.
        column: usize,
        /// What is wrong, in short.
        problem: String,
    },
    /// A dump of another version.
    #[error(
        "line {line}, column {column}: the dump has version {found}, and this program reads \
         version {}; save it anew with this program's `sva topology --save`",
        DUMP_VERSION
    )]
    Version {
        /// The line.
        line: usize,
        /// Where in that line.
        column: usize,
        /// The version that it gives.
        found: u64,
    },
    /// A file or folder of the live machine could not be read.
    #[error("cannot read {}; is /sys mounted, and does this kernel have PCI?", path.display())]
    Live {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}
