//! Why the command did not do what it was asked. A fault is no such error: it is part of a report.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use serde_json::json;
use sva_core::Bdf;
use sva_core::error::{BindError, BindGroupError, PlugError, Refusal};
use sva_core::port::DmaCause;
use sva_devices::CompletionRecord;
use sva_host::{AttachError, FindError, RegionsError};
use sva_pci::ConfigError;
use sva_pci::mirror::MirrorError;
use sva_topology::read::ReadError;

use crate::interrupt::Interrupted;
use crate::stream::StreamError;

/// Why nothing was done, or the work was not finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The fabric's file is no fabric.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The fabric's file is no text.
    #[error(
        "{}: byte {at} is not UTF-8 text; a fabric file is TOML, and sva fabric --example prints \
         one",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The offset of the first byte that is no text.
        at: usize,
    },
    /// The dump of a machine is none.
    #[error("{}: {source}", path.display())]
    Dump {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ReadError,
    },
    /// The machine of a dump cannot be made a fabric.
    #[error("{}: {source}", path.display())]
    Mirror {
        /// The dump.
        path: PathBuf,
        /// Why.
        source: MirrorError,
    },
    /// A file cannot be opened, read or written.
    #[error("{}: {source}{}", path.display(), hint(source))]
    File {
        /// The file, or `standard input`, `standard output`.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// This machine shows no PCI devices.
    #[error(
        "this machine shows no PCI devices ({0}); a container or a virtual machine can be without: \
         give a dump of another one with --from"
    )]
    NoPci(#[source] ReadError),
    /// The folder is no copy of a machine's files.
    #[error(
        "{} is a folder without {wanted}; give a file: a dump of sva topology --save, or the text \
         of lspci -vvv -nn",
        path.display()
    )]
    NoMachineIn {
        /// The folder.
        path: PathBuf,
        /// What it would have to hold.
        wanted: &'static str,
    },
    /// The machine has no such function.
    #[error("there is no PCI function {function}; near it are {}", list(near))]
    NoSuchFunction {
        /// What was named.
        function: Bdf,
        /// The functions that are nearest.
        near: Vec<Bdf>,
    },
    /// Two inputs cannot both be standard input.
    #[error("standard input can be read once only; name a file for the other one")]
    StandardInputTwice,
    /// Standard output takes one thing.
    #[error("standard output can take one thing only; name files for the others")]
    OutputTwice,
    /// The fabric has no such device.
    #[error("the fabric has no device {device}; sva fabric shows those that it has")]
    NoSuchDevice {
        /// What was named.
        device: Bdf,
    },
    /// The device is something else.
    #[error("{device} is no data mover; name one of {}", list(movers))]
    NotAMover {
        /// What was named.
        device: Bdf,
        /// The data movers that there are.
        movers: Vec<Bdf>,
    },
    /// The fabric has no data mover at all.
    #[error(
        "the fabric has no data mover; a function is one by `model = \"data-mover\"` in the \
         fabric's file (docs/fabric-config.md), or in a real machine's by its PASID capability"
    )]
    NoMoverAtAll,
    /// The fabric has no data mover that can be bound alone.
    #[error(
        "the fabric has no data mover that can be bound alone; name a device with --device, or \
         take its whole group with --group"
    )]
    NoMover,
    /// `--group` binds, but not this member of the group.
    #[error("{device} is left out of its group's bond: {}", list(why))]
    LeftOut {
        /// The device.
        device: Bdf,
        /// Who was left out, and why.
        why: Vec<Refusal>,
    },
    /// A device of the fabric could not be plugged in.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The process cannot be made an address space.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The device cannot be bound to it.
    #[error(transparent)]
    Bind(BindError),
    /// The same, where `--group` would help.
    #[error("{0} (here: --group binds them all, and every member gets the access)")]
    BindShared(BindError),
    /// The device's group cannot be bound to it.
    #[error(transparent)]
    BindGroup(#[from] BindGroupError),
    /// The process's mappings cannot be listed.
    #[error(transparent)]
    Regions(#[from] RegionsError),
    /// No mapping, or several, have the name.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The range wraps.
    #[error("{len:#x} bytes at {address:#x} wrap past the last address; give a smaller length")]
    Wraps {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// More bytes than a JSON object should hold.
    #[error(
        "{len} bytes are more than the {limit} that --json shows; write them to a file with --out"
    )]
    TooLongForJson {
        /// What was asked for.
        len: u64,
        /// The most.
        limit: u64,
    },
    /// The work failed for a reason that says nothing about the process's memory.
    #[error(
        "after {done} bytes: {source}; this is no fault of the process's memory: try again, and \
         report it where it stays"
    )]
    Dma {
        /// Bytes done before.
        done: u64,
        /// What failed.
        source: DmaCause,
    },
    /// The bond was ended from elsewhere.
    #[error("after {done} bytes the device was told to stop; try again")]
    Abandoned {
        /// Bytes done before.
        done: u64,
    },
    /// The data mover refused a descriptor: this command and the data mover disagree.
    #[error("the data mover refused its work ({record}); report this")]
    Rejected {
        /// Its completion record.
        record: CompletionRecord,
    },
    /// Whoever read our output is gone.
    #[error("the reader of the output is gone")]
    BrokenPipe,
    /// A signal came before anything was done.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The demonstration's child does not work.
    #[error("the demonstration cannot begin: {source}; try again, and report it where it stays")]
    Demo {
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(#[source] io::Error),
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; run as a user who may use it",
        io::ErrorKind::IsADirectory => "; name a file",
        io::ErrorKind::StorageFull => "; make room, or name another file",
        _ => "",
    }
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io { path, source } => Self::File { path, source },
            StreamError::BrokenPipe => Self::BrokenPipe,
            StreamError::Interrupted(interrupted) => Self::Interrupted(interrupted),
        }
    }
}

/// Exit codes (docs/cli.md).
pub(crate) mod exit {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// The device reported a fault, or a claim failed.
    pub(crate) const FAULT: u8 = 1;
    /// Wrong usage, or refused.
    pub(crate) const REFUSED: u8 = 2;

    /// Ended by a signal, as shells say it.
    pub(crate) fn signal(signal: i32) -> u8 {
        u8::try_from(128 + signal).unwrap_or(REFUSED)
    }
}

impl Error {
    /// A stable word for programs (docs/cli.md).
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Config { .. } | Self::NotText { .. } => "config",
            Self::Dump { .. } | Self::Mirror { .. } => "dump",
            Self::NoPci(_) | Self::NoMachineIn { .. } => "machine",
            Self::File { .. } | Self::BrokenPipe => "file",
            Self::NoSuchDevice { .. }
            | Self::NoSuchFunction { .. }
            | Self::NotAMover { .. }
            | Self::NoMoverAtAll
            | Self::NoMover
            | Self::Plug(_) => "device",
            Self::Attach(_) => "attach",
            Self::Bind(_) | Self::BindShared(_) | Self::BindGroup(_) | Self::LeftOut { .. } => {
                "bind"
            }
            Self::Regions(_) | Self::Find(_) => "regions",
            Self::StandardInputTwice
            | Self::OutputTwice
            | Self::Wraps { .. }
            | Self::TooLongForJson { .. } => "usage",
            Self::Dma { .. }
            | Self::Abandoned { .. }
            | Self::Rejected { .. }
            | Self::Signals(_)
            | Self::Demo { .. } => "host",
            Self::Interrupted(_) => "interrupted",
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Interrupted(interrupted) => exit::signal(interrupted.signal),
            Self::BrokenPipe => exit::signal(signal_hook::consts::SIGPIPE),
            _ => exit::REFUSED,
        }
    }

    /// The message with every cause that it does not already name.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        message
    }
}

/// The object that `--json` prints for an error.
pub(crate) fn object(kind: &str, message: &str) -> String {
    json!({ "error": { "kind": kind, "message": message } }).to_string()
}
