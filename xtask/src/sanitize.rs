//! The tests under sanitizers: docs/design/core-tests.md, "Sanitizers".
//!
//! The pinned compiler has them; that their flags count as unstable is what `RUSTC_BOOTSTRAP` is
//! for, here and nowhere else.

use std::path::PathBuf;
use std::process::Command;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};

/// What the sanitizers' runtimes are there for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// In a space's memory whoever has access may race: devices, their owner, the processor. A report
/// whose two sides are both such accesses is what the tests are there for. One whose other side is
/// anything else, above all a page that has been taken away and is zeroed or poisoned, is an access
/// that nobody waited for.
const ACCESSES: [&str; 8] = [
    "sva_core::dma::port::DmaPort>",
    "sva_core::dma::atomic::sealed::Word>",
    "as sva_core::api::space::AddressSpace>::read",
    "as sva_core::api::space::AddressSpace>::write",
    "sva_testkit::arena::arena_space::ArenaSpace>::peek",
    "sva_testkit::arena::arena_space::ArenaSpace>::poke",
    "sva_vmm::device::memory::DeviceMemory<",
    "vm_memory::iommu::IommuMemory<",
];

/// Packages, whose unit tests are run, and integration tests of theirs.
struct Tests {
    packages: &'static [&'static str],
    integration: &'static [&'static str],
}

const CORE: Tests =
    Tests { packages: &["sva-core", "sva-testkit"], integration: &["rules", "arena", "histories"] };

/// Of the host provider those whose processes are no copies of this one, which the sanitizer's
/// runtime would have to follow.
const OTHERS: Tests = Tests {
    packages: &["sva-sim", "sva-vmm", "sva-host"],
    integration: &["schedule", "adapters", "access", "descriptors", "end", "hammer", "system"],
};

/// ThreadSanitizer over the core and the test kit's memory.
pub(crate) fn thread(context: &Context) -> Result<Outcome, String> {
    under_thread_sanitizer(context, &[CORE])
}

/// ThreadSanitizer over the core, what accesses memory in place, and the host provider where it
/// makes no process that shares our memory, which the sanitizer takes for a fork.
pub(crate) fn thread_all(context: &Context) -> Result<Outcome, String> {
    under_thread_sanitizer(context, &[CORE, OTHERS])
}

/// With an instrumented standard library.
fn under_thread_sanitizer(context: &Context, tests: &[Tests]) -> Result<Outcome, String> {
    if let Some(why) = unavailable(context)? {
        return Ok(Outcome::Skipped(why));
    }
    let sysroot = context.output_of(rustc(&["--print", "sysroot"]), minutes(1))?.stdout;
    if !std::path::Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .is_file()
    {
        return Ok(Outcome::Skipped(
            "the standard library's sources are not there (rustup component add rust-src)"
                .to_owned(),
        ));
    }
    let Some(symbolizer) = symbolizer() else {
        return Ok(Outcome::Skipped(
            "neither addr2line (of binutils) nor llvm-symbolizer is there, and a report is told by \
             its functions' names"
                .to_owned(),
        ));
    };
    let symbolizer = symbolizer.display();
    let packages =
        tests.iter().flat_map(|tests| tests.packages).flat_map(|package| ["-p", package]);
    let integration =
        tests.iter().flat_map(|tests| tests.integration).flat_map(|test| ["--test", test]);
    let words: Vec<&str> = ["-Zbuild-std", "--lib"]
        .into_iter()
        .chain(packages)
        .chain(integration)
        .chain(["--", "--skip", "tracer_process::"])
        .collect();
    let mut command = sanitized(context, "thread", "--cfg sva_no_tracer_process", &words);
    // Every report, also where one like it has been: an expected one must not hide another. They
    // decide here, so that the exit status is that of the tests. The names decide too, those of
    // inlined functions among them: without a symbolizer it writes none of those, so one is named.
    command.env(
        "TSAN_OPTIONS",
        format!(
            "exitcode=0 suppress_equal_stacks=0 suppress_equal_addresses=0 \
             external_symbolizer_path={symbolizer}"
        ),
    );
    // The build of the standard library is half of it.
    let output = context.output_of(command, minutes(15))?;
    let verdict = judge(&output.stderr);
    println!(
        "reports: {} of accesses that raced in a space's memory, as they may; {} others",
        verdict.accesses,
        verdict.others.len()
    );
    if let Some(first) = verdict.others.first() {
        return Err(format!("ThreadSanitizer, the first of {}:\n{first}", verdict.others.len()));
    }
    if !output.status.success() {
        return Err(format!(
            "the tests ended with {}:\n{}\n{}",
            output.status, output.stdout, output.stderr
        ));
    }
    if verdict.accesses == 0 {
        return Err(
            "not one access raced: these tests have devices that write to one page at the same \
             time, so ThreadSanitizer has not looked"
                .to_owned(),
        );
    }
    Ok(Outcome::Passed)
}

/// AddressSanitizer over the crates that have unsafe code, or memory that is mapped by others.
pub(crate) fn address(context: &Context) -> Result<Outcome, String> {
    if let Some(why) = unavailable(context)? {
        return Ok(Outcome::Skipped(why));
    }
    // The one test that names an address at which nothing is: the sanitizer has its shadow there.
    let words = [
        "-p",
        "sva-host",
        "-p",
        "sva-vmm",
        "--lib",
        "--tests",
        "--",
        "--skip",
        "our_own_pages_are_resolved_under_our_own_writes",
    ];
    let mut command = sanitized(context, "address", "", &words);
    // Programs of the tests exit in the middle of their work. The tracer process shares memory and
    // thread-local storage with the thread that starts it, so both would use one fake stack of the
    // sanitizer, which reports frames of the one as returned in the other.
    command.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0");
    context.run(command, minutes(10))?;
    Ok(Outcome::Passed)
}

/// Why there can be no sanitizers here.
fn unavailable(context: &Context) -> Result<Option<String>, String> {
    let version = context.output_of(rustc(&["-vV"]), minutes(1))?.stdout;
    let is_target = version.lines().any(|line| line.strip_prefix("host: ") == Some(TARGET));
    Ok((!is_target).then(|| format!("the sanitizers are run on {TARGET} only")))
}

/// What names the functions of a report. First the one that a C linker brings along.
fn symbolizer() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    ["addr2line", "llvm-symbolizer"]
        .iter()
        .find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()))
}

fn rustc(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(arguments);
    command
}

/// `cargo test` of these, optimised: there are more races to be met.
fn sanitized(context: &Context, sanitizer: &str, flags: &str, words: &[&str]) -> Command {
    let all = [&["test", "--profile", "model", "--locked", "--target", TARGET], words].concat();
    let mut command =
        context.cargo_with_flags(&format!("-Zsanitizer={sanitizer} {flags}"), sanitizer, &all);
    // Reports name inlined functions by this. Asked of cargo: behind its back it would be stripped
    // again.
    command.env("CARGO_PROFILE_MODEL_DEBUG", "1").env("RUSTC_BOOTSTRAP", "1");
    command
}

/// How what it has to say begins; it also counts, at the end, what it has said.
const REPORTS: [&str; 4] = [
    "WARNING: ThreadSanitizer",
    "ERROR: ThreadSanitizer",
    "FATAL: ThreadSanitizer",
    "ThreadSanitizer: CHECK failed",
];

/// What ThreadSanitizer has said.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// Reports of two accesses to a space's memory.
    accesses: usize,
    /// All others.
    others: Vec<String>,
}

fn judge(text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    for report in text
        .split("==================\n")
        .filter(|report| REPORTS.iter().any(|head| report.contains(head)))
    {
        // Each side is a paragraph; those that follow say where the memory and the threads come
        // from.
        let sides: Vec<&str> = report
            .split("\n\n")
            .filter(|part| part.contains(" of size ") && part.contains(" by "))
            .collect();
        let expected = sides.len() == 2
            && sides.iter().all(|side| ACCESSES.iter().any(|access| side.contains(access)));
        if expected {
            verdict.accesses += 1;
        } else {
            verdict.others.push(report.to_owned());
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: &str = "  Write of size 8 at 0x7f by thread T1:\n    #0 memcpy x\n    \
                        #1 <sva_core::dma::port::DmaPort>::write x\n";
    const OWNER: &str = "  Previous read of size 8 at 0x7f by thread T2:\n    \
                         #0 <sva_testkit::arena::arena_space::ArenaSpace>::peek x\n";
    const POISON: &str = "  Previous write of size 8 at 0x7f by main thread:\n    \
                          #0 <sva_testkit::arena::memory::Arena>::poison x\n";

    fn report(first: &str, second: &str) -> String {
        let line = "==================\n";
        format!(
            "{line}WARNING: ThreadSanitizer: data race (pid=1)\n{first}\n{second}\n  \
             Thread T1 created by main thread at:\n    #0 x\n\nSUMMARY: x\n{line}"
        )
    }

    #[test]
    fn accesses_may_race_with_one_another_and_with_nothing_else() {
        assert_eq!(
            judge("running 3 tests\nThreadSanitizer: reported 3 warnings\n"),
            Verdict::default()
        );
        assert_eq!(judge(&report(PORT, OWNER)), Verdict { accesses: 1, others: vec![] });
        let verdict =
            judge(&[report(PORT, OWNER), report(PORT, POISON), report(POISON, POISON)].concat());
        assert_eq!((verdict.accesses, verdict.others.len()), (1, 2));
        assert!(verdict.others[0].contains("Arena>::poison"));
    }

    #[test]
    fn a_report_of_another_kind_is_never_expected() {
        let signal = "WARNING: ThreadSanitizer: signal-unsafe call inside of a signal\n";
        assert_eq!(judge(&format!("==================\n{signal}")).others.len(), 1);
        assert_eq!(judge("ThreadSanitizer: CHECK failed: tsan_rtl.cpp:261\n").others.len(), 1);
    }
}
