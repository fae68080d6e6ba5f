//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sva_core::Bdf;
use sva_topology::groups::Policy;

use crate::number;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sva",
    version,
    about = "Shared virtual addressing without hardware: software devices work on the memory of \
             live processes",
    propagate_version = true
)]
#[command(after_help = "Exit codes: 0 done; 1 the device reported a fault, or a claim of the \
                  demonstration failed; 2 wrong usage or refused; 128+N ended by signal N.")]
pub(crate) struct Cli {
    /// Colour: auto is on a terminal, unless NO_COLOR is set; JSON has none
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `--color` says in a command line that cannot be parsed, or that asks for help.
pub(crate) fn color_of(arguments: &[OsString]) -> ColorChoice {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let mut choice = ColorChoice::Auto;
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        choice = value.and_then(|value| ColorChoice::from_str(value, false).ok()).unwrap_or(choice);
    }
    choice
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show on child processes, claim by claim, what is promised
    Demo(DemoArgs),
    /// Draw the software fabric: ports, ACS, devices, capabilities, groups
    Fabric(FabricArgs),
    /// Tell which devices of a machine share an IOMMU group, why, and which of them can share a
    /// process's address space
    Topology(TopologyArgs),
    /// Let a data mover work on a process's memory
    #[command(subcommand)]
    Dma(DmaCommand),
    /// List a process's mappings as a device may use them
    Regions(RegionsArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write the pages of the command and of all its subcommands into this folder instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// `sva demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Show a storm of page requests instead: devices with ATS and PRI that fault all the time,
    /// and what can befall them
    #[arg(long)]
    pub(crate) faults: bool,
    /// Print page requests, responses and invalidations to standard error as they happen, with
    /// device, PASID and address
    #[arg(long, requires = "faults")]
    pub(crate) trace: bool,
    /// Where the random data comes from; without it another one each time
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// `sva fabric`.
#[derive(Debug, Args)]
pub(crate) struct FabricArgs {
    /// The fabric's description (TOML); without it the built-in one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The fabric of a real machine: a dump of it (sva topology --save, or the text of lspci
    /// -vvv); - is standard input
    #[arg(long, value_name = "DUMP", conflicts_with = "config")]
    pub(crate) from: Option<PathBuf>,
    /// Group the machine's functions by this policy: linux, reachable-set or override
    #[arg(long, value_name = "P", requires = "from", default_value_t)]
    pub(crate) policy: Policy,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the description (TOML), which --config reads back
    #[arg(long, conflicts_with = "json")]
    pub(crate) toml: bool,
    /// Print the built-in description, to start one's own from
    #[arg(long, conflicts_with_all = ["config", "from", "toml", "json"])]
    pub(crate) example: bool,
}

/// `sva topology`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TopologyArgs {
    /// What to do instead of looking at one machine.
    #[command(subcommand)]
    pub(crate) command: Option<TopologyCommand>,
    /// A saved dump or the text of lspci -vvv, best with -nn and -xxxx; - is standard input.
    /// Without it this machine (as root all can be read)
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// A kernel log of the same machine: its groups, and what it says of IOMMUs
    #[arg(long, value_name = "FILE")]
    pub(crate) dmesg: Option<PathBuf>,
    /// The rules: linux, reachable-set (as proposed for a later Linux) or override (as the
    /// out-of-tree ACS override patch)
    #[arg(long, value_name = "P", default_value_t = Policy::Linux)]
    pub(crate) policy: Policy,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Explain one function: why it is in its group, what would change that, which gates it passes
    #[arg(long, value_name = "BDF")]
    pub(crate) explain: Option<Bdf>,
    /// Explain why two functions are in one group, or why not
    #[arg(long, value_names = ["BDF", "BDF"], num_args = 2)]
    pub(crate) why_not: Vec<Bdf>,
    /// Print per device whether it can share a process's address space, and which gate it fails
    #[arg(long)]
    pub(crate) sva: bool,
    /// Write a self-contained dump that --from reads back; it holds no serial numbers. - is
    /// standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Draw the machine as SVG; - is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Draw the machine as one HTML page; - is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// `sva topology diff`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Compare two dumps, or one under two policies
    Diff(DiffArgs),
}

/// `sva topology diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The first dump
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The second one; with --policies it can be left out
    #[arg(value_name = "B", required_unless_present = "policies")]
    pub(crate) after: Option<PathBuf>,
    /// The rules for both
    #[arg(long, value_name = "P", default_value_t = Policy::Linux, conflicts_with = "policies")]
    pub(crate) policy: Policy,
    /// The rules for the first and for the second
    #[arg(long, value_names = ["P", "Q"], num_args = 2)]
    pub(crate) policies: Vec<Policy>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `sva regions`.
#[derive(Debug, Args)]
pub(crate) struct RegionsArgs {
    /// The process
    #[arg(long, value_name = "P", value_parser = number::process, allow_negative_numbers = true)]
    pub(crate) pid: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which process, which device.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The process
    #[arg(long, value_name = "P", value_parser = number::process, allow_negative_numbers = true)]
    pub(crate) pid: u32,
    /// The device, such as 0000:01:00.0; without it the first data mover that can be bound
    #[arg(long, value_name = "BDF")]
    pub(crate) device: Option<Bdf>,
    /// The fabric's description (TOML); without it the built-in one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The fabric of a real machine, as sva fabric --from draws it; its functions with PASIDs are
    /// data movers
    #[arg(long, value_name = "DUMP", conflicts_with = "config")]
    pub(crate) from: Option<PathBuf>,
    /// Bind the device's whole group: its members cannot be told apart, and each of them gets the
    /// access
    #[arg(long)]
    pub(crate) group: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `sva dma`.
#[derive(Debug, Subcommand)]
pub(crate) enum DmaCommand {
    /// Compute the CRC32C of memory
    Crc32c(Crc32cArgs),
    /// Read memory into a file, or show it
    Read(ReadArgs),
    /// Write a file into memory
    Write(WriteArgs),
    /// Copy memory inside the process; overlapping ranges come out right
    Copy(CopyArgs),
    /// Fill memory with one byte
    Fill(FillArgs),
    /// Compare two ranges of memory
    Compare(CompareArgs),
}

/// `sva dma crc32c`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["addr", "region"])))]
pub(crate) struct Crc32cArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address, hexadecimal (0x...) or decimal
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address, requires = "len")]
    pub(crate) addr: Option<u64>,
    /// How many bytes; K, M, G and T are powers of 1024
    #[arg(long, value_name = "N", value_parser = number::length, requires = "addr")]
    pub(crate) len: Option<u64>,
    /// A mapping by its name.
    // The help is no doc comment: the names in brackets would be links.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = number::region,
        help = "A mapping by its name in the process's maps: [heap], [stack], a file's name or path"
    )]
    pub(crate) region: Option<String>,
}

/// `sva dma read`.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address, hexadecimal (0x...) or decimal
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) addr: u64,
    /// How many bytes; K, M, G and T are powers of 1024
    #[arg(long, value_name = "N", value_parser = number::length)]
    pub(crate) len: u64,
    /// Where to; - is standard output (the report then goes to standard error). Without it the
    /// bytes are shown in hexadecimal
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `sva dma write`.
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address, hexadecimal (0x...) or decimal
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) addr: u64,
    /// What to write, all of it; - is standard input
    #[arg(long = "in", value_name = "FILE")]
    pub(crate) input: PathBuf,
}

/// `sva dma copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address to copy from
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) src: u64,
    /// The first address to copy to
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) dst: u64,
    /// How many bytes; K, M, G and T are powers of 1024
    #[arg(long, value_name = "N", value_parser = number::length)]
    pub(crate) len: u64,
}

/// `sva dma fill`.
#[derive(Debug, Args)]
pub(crate) struct FillArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address, hexadecimal (0x...) or decimal
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) addr: u64,
    /// How many bytes; K, M, G and T are powers of 1024
    #[arg(long, value_name = "N", value_parser = number::length)]
    pub(crate) len: u64,
    /// The byte, such as 0xff
    #[arg(long, value_name = "B", value_parser = number::byte)]
    pub(crate) byte: u8,
}

/// `sva dma compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Which process, which device.
    #[command(flatten)]
    pub(crate) target: Target,
    /// The first address of one range
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) a: u64,
    /// The first address of the other
    #[arg(long, value_name = "A", value_parser = sva_pci::parse_address)]
    pub(crate) b: u64,
    /// How many bytes; K, M, G and T are powers of 1024
    #[arg(long, value_name = "N", value_parser = number::length)]
    pub(crate) len: u64,
}

impl TopologyArgs {
    /// Whether an object is asked for, here or in the subcommand.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Some(TopologyCommand::Diff(args)) => args.json,
            None => self.json,
        }
    }
}

impl DmaCommand {
    /// Which process, which device.
    pub(crate) fn target(&self) -> &Target {
        match self {
            Self::Crc32c(args) => &args.target,
            Self::Read(args) => &args.target,
            Self::Write(args) => &args.target,
            Self::Copy(args) => &args.target,
            Self::Fill(args) => &args.target,
            Self::Compare(args) => &args.target,
        }
    }
}
