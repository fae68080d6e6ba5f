//! The target process as the tests see it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_core::space::ExitWork;
use sva_core::{Access, AddressSpace, EndReason, Segment, SpaceId, SpaceWatcher, Stopped};
use sva_host::{AttachError, HostSpace};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running target.
pub(crate) struct Target {
    pub(crate) child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The address of its canary.
    pub(crate) canary: u64,
}

impl Target {
    /// Starts one in the given access (`serve`, or `fixed` without address randomisation) and waits
    /// until it is ready.
    pub(crate) fn start(mode: &str) -> Self {
        Self::from_command(Command::new(env!("CARGO_BIN_EXE_sva-host-target")).arg(mode))
    }

    pub(crate) fn from_command(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the target starts");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut target = Self { child, commands, answers, canary: 0 };
        target.canary = target.ready();
        target
    }

    /// Waits for the greeting of a new image.
    pub(crate) fn ready(&mut self) -> u64 {
        let line = self.answer();
        let address = line.strip_prefix("ready 0x").unwrap_or_else(|| panic!("greeting: {line}"));
        u64::from_str_radix(address, 16).expect("an address")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn attach(&self) -> Arc<HostSpace> {
        attach(self.pid())
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("the target listens");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the target answers");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// The address of a page whose accesses wait until the process ends; says why and answers
    /// `None` if this user may not make one.
    pub(crate) fn unanswered(&mut self) -> Option<u64> {
        let answer = self.ask("unanswered");
        let address =
            answer.strip_prefix("waiting 0x").and_then(|text| u64::from_str_radix(text, 16).ok());
        if address.is_none() {
            eprintln!(
                "SKIPPED: this user may not make a userfaultfd that stops the kernel ({answer})"
            );
        }
        address
    }

    /// Reads and discards what the target wrote up to the end of a line.
    pub(crate) fn discard(&mut self, length: usize) {
        let mut bytes = vec![0; length];
        self.answers.read_exact(&mut bytes).expect("the target answers");
    }

    /// Has it map memory. Returns the address.
    pub(crate) fn map(&mut self, kind: &str, length: u64) -> u64 {
        let answer = self.ask(&format!("map {kind} {length}"));
        u64::from_str_radix(answer.trim_start_matches("0x"), 16)
            .unwrap_or_else(|_| panic!("map: {answer}"))
    }

    pub(crate) fn peek(&mut self, at: u64, length: usize) -> Vec<u8> {
        unhex(&self.ask(&format!("peek {at:#x} {length}")))
    }

    pub(crate) fn poke(&mut self, at: u64, length: u64, value: u8) {
        assert_eq!(self.ask(&format!("poke {at:#x} {length} {value}")), "done");
    }

    /// Starts a call that sleeps, and waits until it does.
    pub(crate) fn sleep_in(&mut self, command: &str, call: &str) {
        assert_eq!(self.ask(command), "begin");
        let path = format!("/proc/{}/syscall", self.pid());
        until(&format!("asleep in {command}"), || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.split(' ').next() == Some(call))
        });
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("not zero");
        let signal = rustix::process::Signal::from_named_raw(signal).expect("a signal");
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    pub(crate) fn status(&self, key: &str) -> String {
        status(self.pid(), key)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Attaches. Tries again, as the error says, while a thread sleeps in an uninterruptible call, as
/// in an exec where the disk is busy.
pub(crate) fn attach(pid: u32) -> Arc<HostSpace> {
    let begin = Instant::now();
    loop {
        match sva_host::attach(pid) {
            Err(AttachError::DidNotStop { .. }) if begin.elapsed() < PATIENCE => {}
            attached => return attached.unwrap_or_else(|error| panic!("attach: {error}")),
        }
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
        .collect()
}

pub(crate) fn status(pid: u32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or("").trim().to_owned()
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn write(space: &dyn AddressSpace, address: u64, data: &[u8]) -> Result<(), Stopped> {
    space.write(&[Segment { address, len: data.len() as u64 }], data, Access::WRITE)
}

pub(crate) fn read(
    space: &dyn AddressSpace,
    address: u64,
    length: usize,
) -> Result<Vec<u8>, Stopped> {
    let mut bytes = vec![0; length];
    space.read(&[Segment { address, len: length as u64 }], &mut bytes, Access::READ).map(|()| bytes)
}

/// Tasks of the system whose tracer is a thread of process `pid`.
pub(crate) fn traced_by(pid: u32) -> Vec<u32> {
    let threads: Vec<String> =
        numbers(&format!("/proc/{pid}/task")).iter().map(u32::to_string).collect();
    numbers("/proc")
        .into_iter()
        .filter(|&task| threads.contains(&status(task, "TracerPid")))
        .collect()
}

pub(crate) fn numbers(directory: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A watcher that records when it was told of the end, and whose exit handler records that it ran.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) told: sva_sync::Mutex<Vec<(SpaceId, EndReason, Instant)>>,
    pub(crate) ran: Arc<sva_sync::atomic::AtomicU32>,
}

impl Witness {
    pub(crate) fn of(space: &HostSpace) -> Arc<Self> {
        let witness = Arc::new(Self::default());
        space.watch(witness.clone()).expect("not ended");
        witness
    }

    /// One that watches nothing yet.
    pub(crate) fn of_nothing() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for the end. Returns its reason and when the watcher was told.
    pub(crate) fn end(&self) -> (EndReason, Instant) {
        until("told of the end", || !self.told.lock().is_empty());
        let told = self.told.lock();
        assert_eq!(told.len(), 1);
        (told[0].1, told[0].2)
    }
}

impl SpaceWatcher for Witness {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        self.told.lock().push((space, reason, Instant::now()));
        let ran = self.ran.clone();
        ExitWork::new(move || {
            ran.fetch_add(1, sva_sync::atomic::Ordering::SeqCst);
        })
    }
}

/// One page, as in `/proc/PID/pagemap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// It is present.
    pub(crate) present: bool,
    /// Nobody shares it, so a write does not copy it.
    pub(crate) exclusive: bool,
}

impl Page {
    pub(crate) const ABSENT: Self = Self { present: false, exclusive: false };
    pub(crate) const SHARED: Self = Self { present: true, exclusive: false };
    pub(crate) const OWN: Self = Self { present: true, exclusive: true };
}

/// Looks at the page of `address` and does not touch it.
pub(crate) fn page(pid: u32, address: u64) -> Page {
    use std::os::unix::fs::FileExt;
    let mut entry = [0; 8];
    let file = std::fs::File::open(format!("/proc/{pid}/pagemap")).expect("it lives");
    file.read_exact_at(&mut entry, address / 4096 * 8).expect("an address of its own");
    let entry = u64::from_le_bytes(entry);
    Page { present: entry & (1 << 63) != 0, exclusive: entry & (1 << 56) != 0 }
}
