//! Builds tests and runs one at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::context::{Captured, Context};

const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// No test takes longer, unless it hangs. A test that finds its defect by a hang passes within a
/// second without it.
pub(super) fn limit(hangs: bool) -> Duration {
    Duration::from_secs(if hangs { 20 } else { 120 })
}

/// The unit tests of a library, or one integration test: what is built into one program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    package: String,
    /// `None` for the library.
    test: Option<String>,
    /// The root file.
    source: PathBuf,
    /// Where cargo runs the tests of the package.
    folder: PathBuf,
}

impl Target {
    /// All of the workspace.
    pub(super) fn all(context: &Context) -> Result<Vec<Self>, String> {
        let mut command =
            context.cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]);
        let metadata: Value = serde_json::from_str(&output(context, &mut command)?)
            .map_err(|e| format!("cargo metadata: {e}"))?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut found = Vec::new();
        for package in list(&metadata["packages"]) {
            let folder = PathBuf::from(word(&package["manifest_path"]))
                .parent()
                .map(Path::to_path_buf)
                .unwrap_or_default();
            for target in list(&package["targets"]) {
                let kinds: Vec<String> = list(&target["kind"]).iter().map(word).collect();
                let test = match kinds.first().map(String::as_str) {
                    Some("lib") => None,
                    Some("test") => Some(word(&target["name"])),
                    _ => continue,
                };
                let source = PathBuf::from(word(&target["src_path"]));
                found.push(Self {
                    package: word(&package["name"]),
                    test,
                    source,
                    folder: folder.clone(),
                });
            }
        }
        Ok(found)
    }

    /// The modules that `file` stands for in this target, as `a::b`; none where it is no part of
    /// it.
    pub(super) fn modules_of(&self, file: &Path) -> Option<String> {
        if file == self.source {
            return Some(String::new());
        }
        // Integration tests of one file each lie side by side: only a root with a folder of its own
        // has modules.
        let root =
            self.source.file_name().is_some_and(|name| name == "main.rs" || name == "lib.rs");
        let inside =
            file.strip_prefix(self.source.parent()?).ok().filter(|_| root)?.with_extension("");
        let names: Vec<_> =
            inside.iter().map(|name| name.to_string_lossy()).filter(|name| name != "mod").collect();
        Some(names.join("::"))
    }

    /// Models are built for model checking, all else as it is.
    fn is_model(&self) -> bool {
        self.test.as_deref() == Some("loom")
    }
}

/// One way to build tests.
struct Build {
    /// It is for models, or for all else.
    models: bool,
    flags: &'static str,
    /// In the build folder, lest each way throws the other's work away.
    folder: &'static str,
}

const BUILDS: [Build; 2] = [
    Build { models: false, flags: "", folder: "plain" },
    Build { models: true, flags: "--cfg loom", folder: "loom" },
];

/// Builds `targets` and answers the program of each. A compiler that fails says so.
pub(super) fn build(
    context: &Context,
    targets: &[&Target],
) -> Result<BTreeMap<Target, PathBuf>, String> {
    let mut built = BTreeMap::new();
    for Build { models, flags, folder } in BUILDS {
        let chosen: Vec<&Target> =
            targets.iter().copied().filter(|target| target.is_model() == models).collect();
        if chosen.is_empty() {
            continue;
        }
        // A panic names its line without debug information, which is a good part of each build.
        let mut words = vec!["test", "--config", "profile.dev.debug=false", "--no-run", "--locked"];
        words.push("--message-format=json-render-diagnostics");
        for target in &chosen {
            words.extend(["-p", &target.package]);
            match &target.test {
                Some(name) => words.extend(["--test", name]),
                None => words.push("--lib"),
            }
        }
        eprintln!("building {} with RUSTFLAGS=\"{flags}\"", names(&chosen));
        let said = output(context, &mut context.cargo_with_flags(flags, folder, &words))?;
        for target in chosen {
            let program = said.lines().find_map(|line| program(line, &target.source));
            built.insert(
                target.clone(),
                program.ok_or(format!("cargo built no test of {}", target.source.display()))?,
            );
        }
    }
    Ok(built)
}

fn names(targets: &[&Target]) -> String {
    let name = |target: &&Target| {
        format!("{} {}", target.package, target.test.as_deref().unwrap_or("--lib"))
    };
    targets.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The test program of the root file `source`, where this is cargo's line about it.
fn program(line: &str, source: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_it = message["profile"]["test"] == true
        && message["target"]["src_path"].as_str().map(Path::new) == Some(source);
    message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
}

/// What the command prints; an error where it fails.
fn output(context: &Context, command: &mut Command) -> Result<String, String> {
    let Captured { status, stdout, stderr } = context.capture(command, BUILD_LIMIT)?;
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(status) => Err(format!("{command:?} ended with {status}:\n{stderr}")),
        None => Err(format!("{command:?} took longer than {} s", BUILD_LIMIT.as_secs())),
    }
}

/// The full name of the one test that is called `name` in `modules` or in a module inside of them.
pub(super) fn find(
    context: &Context,
    target: &Target,
    program: &Path,
    modules: &str,
    name: &str,
) -> Result<String, String> {
    let list = output(
        context,
        Command::new(program).args(["--list", "--format", "terse"]).current_dir(&target.folder),
    )?;
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let found: Vec<&str> = tests.filter(|test| in_modules(test, modules, name)).collect();
    match found[..] {
        [test] => Ok(test.to_owned()),
        [] => Err(format!("there is no test {name}")),
        _ => Err(format!("several tests are called {name}: {found:?}")),
    }
}

fn in_modules(test: &str, modules: &str, name: &str) -> bool {
    let Some(path) = test.strip_suffix(name) else { return false };
    let inside = path
        .strip_prefix(modules)
        .is_some_and(|rest| rest.is_empty() || modules.is_empty() || rest.starts_with("::"));
    inside && (path.is_empty() || path.ends_with("::"))
}

/// What the run of one test came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// By an assertion or another panic; its words.
    Failed(String),
    /// It did not end.
    Hangs,
    /// Neither: the test did not run, or the program died without a word of the test's.
    Odd(String),
}

/// Runs one test for `limit` at most, and answers how long it took too.
pub(super) fn run(
    context: &Context,
    target: &Target,
    program: &Path,
    test: &str,
    limit: Duration,
) -> Result<(Verdict, Duration), String> {
    let mut command = Command::new(program);
    command.args(["--exact", test]).current_dir(&target.folder);
    // A property that fails on purpose is not to leave its seed in the sources.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env("RUST_BACKTRACE", "0");
    if target.is_model() && std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
        // More than any schedule of the models has, as for the step `loom`.
        command.env("LOOM_MAX_PREEMPTIONS", "64");
    }
    let begun = Instant::now();
    let Captured { status, stdout, stderr } = context.capture(&mut command, limit)?;
    Ok((judge(status, &stdout, &stderr), begun.elapsed()))
}

fn judge(status: Option<ExitStatus>, stdout: &str, stderr: &str) -> Verdict {
    if !stdout.lines().any(|line| line == "running 1 test") {
        return Verdict::Odd("not exactly one test ran".to_owned());
    }
    let Some(status) = status else { return Verdict::Hangs };
    if status.success() {
        let passed = stdout.contains("test result: ok. 1 passed; 0 failed; 0 ignored;");
        return if passed {
            Verdict::Passed
        } else {
            Verdict::Odd("the test is ignored".to_owned())
        };
    }
    // A panic while another one unwinds ends the program before the test's own report.
    match panic_in(stdout).or_else(|| panic_in(stderr)) {
        Some(words) => Verdict::Failed(words),
        None => Verdict::Odd(format!("ended with {status} and no panic")),
    }
}

/// The first line of the first panic's message, and where it was raised.
fn panic_in(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| !line.contains(" panicked at "));
    let (_, place) = lines.next()?.split_once(" panicked at ")?;
    Some(format!("{} ({})", lines.next()?, place.trim_end_matches(':')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn target(source: &str, test: Option<&str>) -> Target {
        let test = test.map(str::to_owned);
        Target {
            package: "p".to_owned(),
            test,
            source: PathBuf::from(source),
            folder: PathBuf::from("/w"),
        }
    }

    #[test]
    fn a_file_is_found_in_the_target_that_it_is_a_module_of() {
        let modules = |target: &Target, file: &str| target.modules_of(Path::new(file));
        let (rules, loom) = (
            target("/w/tests/rules/main.rs", Some("rules")),
            target("/w/tests/loom.rs", Some("loom")),
        );
        let lib = target("/w/src/lib.rs", None);
        assert_eq!(modules(&rules, "/w/tests/rules/ending.rs").as_deref(), Some("ending"));
        assert_eq!(modules(&rules, "/w/tests/rules/a/mod.rs").as_deref(), Some("a"));
        assert_eq!(modules(&lib, "/w/src/a/b.rs").as_deref(), Some("a::b"));
        assert_eq!(modules(&loom, "/w/tests/loom.rs").as_deref(), Some(""));
        assert_eq!(modules(&loom, "/w/tests/rules/ending.rs"), None);
        assert_eq!(modules(&rules, "/w/tests/loom.rs"), None);
        assert!(loom.is_model() && !rules.is_model());
    }

    #[test]
    fn a_test_is_found_by_its_whole_name_in_its_modules_and_below() {
        assert!(in_modules("a::b::works", "a::b", "works"));
        assert!(in_modules("a::b::tests::works", "a::b", "works"));
        assert!(in_modules("works", "", "works") && in_modules("tests::works", "", "works"));
        assert!(!in_modules("a::c::works", "a::b", "works"));
        assert!(!in_modules("a::bc::works", "a::b", "works"));
        assert!(!in_modules("a::b::it_works", "a::b", "works"));
    }

    #[test]
    fn only_a_panic_of_the_one_test_counts_as_found() {
        let (fine, failed, killed) =
            (ExitStatus::from_raw(0), ExitStatus::from_raw(101 << 8), ExitStatus::from_raw(9));
        let passed = "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        let panic = "running 1 test\nthread 't' (1) panicked at f.rs:1:2:\nthe words\n\
                     test result: FAILED. 0 passed; 1 failed\n";
        assert_eq!(judge(Some(fine), passed, ""), Verdict::Passed);
        assert_eq!(
            judge(Some(failed), panic, ""),
            Verdict::Failed("the words (f.rs:1:2)".to_owned())
        );
        assert_eq!(
            judge(Some(ExitStatus::from_raw(6)), "running 1 test\n", panic),
            Verdict::Failed("the words (f.rs:1:2)".to_owned())
        );
        assert_eq!(judge(None, "running 1 test\n", ""), Verdict::Hangs);
        let odd = |status, text: &str| matches!(judge(Some(status), text, ""), Verdict::Odd(_));
        assert!(odd(
            fine,
            "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured\n"
        ));
        assert!(odd(
            fine,
            "running 1 test\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n"
        ));
        assert!(odd(killed, "running 1 test\n"));
        assert!(odd(failed, ""));
    }
}
