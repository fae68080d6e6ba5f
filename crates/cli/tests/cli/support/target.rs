//! A process with memory to work on. It fills and checks that memory itself, so that what a device
//! did is judged by the one it was done to.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sva_sync::atomic::{AtomicU64, Ordering};

/// Bytes of its buffer: more than two of the pieces in which the command works.
pub(crate) const LEN: usize = 40 << 20;

/// Memory that it may only read.
static CONSTANT: &str = "what a device may read and not write";

/// Marks its answers among what the test harness prints.
const MARK: &str = "sva-target ";

/// The bytes that a seed stands for.
pub(crate) fn pattern(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    bytes((0..LEN / 8).map(|_| rng.u64(..)))
}

/// Words as memory holds them. Byte by byte would be slow in a build that is not optimised.
fn bytes(words: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = vec![0; words.len() * 8];
    bytes
        .chunks_exact_mut(8)
        .zip(words)
        .for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// The child's side: answers lines until its input ends.
pub(crate) fn serve() {
    // Atomics: a device writes into them behind the compiler's back.
    let words: Vec<AtomicU64> = (0..LEN / 8).map(|_| AtomicU64::new(0)).collect();
    let crc = |from: usize, to: usize| {
        let around = from / 8..to.div_ceil(8);
        let bytes = bytes(words[around].iter().map(|word| word.load(Ordering::Relaxed)));
        crc32c::crc32c(&bytes[from % 8..][..to - from])
    };
    println!("{MARK}{} {} {}", words.as_ptr() as usize, CONSTANT.as_ptr() as usize, CONSTANT.len());
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let (word, rest) = line.split_once(' ').expect("a word and numbers");
        let numbers: Vec<usize> = rest.split(' ').map(|n| n.parse().expect("a number")).collect();
        match (word, numbers.as_slice()) {
            ("seed", [seed]) => {
                let mut rng = fastrand::Rng::with_seed(*seed as u64);
                words.iter().for_each(|word| word.store(rng.u64(..), Ordering::Relaxed));
                println!("{MARK}done");
            }
            ("crc", [from, to]) => {
                // Its buffer is gone before the answer: others compare the process's mappings then.
                let crc = crc(*from, *to);
                println!("{MARK}{crc}");
            }
            ("constant", [_]) => println!("{MARK}{}", crc32c::crc32c(CONSTANT.as_bytes())),
            other => panic!("{other:?}"),
        }
    }
}

/// The parent's side. Dropping it ends the child.
pub(crate) struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where its buffer begins.
    pub(crate) base: u64,
    /// Where its constant lies, and how long that is.
    pub(crate) constant: (u64, u64),
}

impl Target {
    /// Starts one, with its buffer filled from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command
            .args(["target", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts again");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut target = Self { child, input, output, base: 0, constant: (0, 0) };
        let hello = target.answer();
        let numbers: Vec<u64> = hello.split(' ').map(|n| n.parse().expect("a number")).collect();
        target.base = numbers[0];
        target.constant = (numbers[1], numbers[2]);
        target.ask(&format!("seed {seed}"));
        target
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CRC32C of a part of its buffer, as it sees it.
    pub(crate) fn crc(&mut self, part: Range<usize>) -> u32 {
        self.ask(&format!("crc {} {}", part.start, part.end)).parse().expect("a number")
    }

    /// CRC32C of its constant, as it sees it.
    pub(crate) fn constant_crc(&mut self) -> u32 {
        self.ask("constant 0").parse().expect("a number")
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().expect("open"), "{line}").expect("it reads");
        self.answer()
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("text") > 0, "the target ended");
            if let Some(at) = line.find(MARK) {
                return line[at + MARK.len()..].trim().to_owned();
            }
        }
    }

    /// A line of its status.
    pub(crate) fn status(&self, field: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("a field")
            .trim_start_matches(':')
            .trim()
            .to_owned()
    }

    /// The end of a mapping that nothing follows, at least `room` bytes long and readable: (its
    /// last `room` bytes, the hole).
    pub(crate) fn edge(&self, room: u64) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("it lives");
        let parsed: Vec<(u64, u64, bool)> = maps
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let (from, to) =
                    words.next().and_then(|range| range.split_once('-')).expect("a range");
                let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
                let plain = words.next().is_some_and(|rights| rights.starts_with("rw"))
                    && !line.contains("[v")
                    && !line.contains("[stack]");
                (hex(from), hex(to), plain)
            })
            .collect();
        let lonely = parsed.windows(2).find(|pair| {
            pair[0].2 && pair[0].1 - pair[0].0 >= room && pair[0].1 + 0x1000 < pair[1].0
        });
        lonely.expect("some mapping is followed by a hole")[0].1
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
