//! The command `sva`; see the library of this crate.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sva_cli::main()
}
