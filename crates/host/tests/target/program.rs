//! It reads commands from standard input, one a line, and answers each with one line.
//!
//! It has one thread unless told otherwise, so that it is known which one an attach stops.
#![allow(unsafe_code, reason = "it makes mappings, clones and traps of its own")]

mod blocked;
mod holder;
mod memory;

mod sequence;
mod tasks;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Bytes at an address that is the same in every image of this program where addresses are not
/// randomised. Never written by the program itself.
#[repr(align(4096))]
#[expect(dead_code, reason = "read through a pointer")]
struct Canary([u8; 4096]);
const CANARY: u8 = 0xc5;
static mut CANARIES: Canary = Canary([CANARY; 4096]);

/// Executes this program again in this process.
fn exec(mode: &str) -> String {
    let error = Command::new("/proc/self/exe").arg(mode).exec();
    format!("exec: {error}")
}

pub(crate) fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("fixed") => {
            // SAFETY: takes numbers only.
            unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
            println!("{}", exec("serve"));
        }
        Some("image") => println!("{} {:#x}", watch_canary(), &raw const CANARIES as usize),
        Some("exit") => {}
        _ => serve(),
    }
}

/// Watches the canary for 10 ms. Says whether anybody wrote to it.
fn watch_canary() -> &'static str {
    let canary = (&raw const CANARIES).cast::<[u8; 4096]>();
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 10 {
        // SAFETY: the static is readable memory; nothing of this program writes to it.
        if unsafe { canary.read_volatile() }.iter().any(|&byte| byte != CANARY) {
            return "touched";
        }
    }
    "intact"
}

fn serve() {
    say(&format!("ready {:#x}", &raw const CANARIES as usize));
    tasks::serve_lines(respond);
}

fn say(answer: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
}

fn respond(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (command, arguments) = words.split_first().unwrap_or((&"", &[]));
    let number =
        |index: usize| arguments.get(index).and_then(|text: &&str| parse(text)).unwrap_or(0);
    match *command {
        "exec" => exec(arguments.first().unwrap_or(&"serve")),
        "exit" => std::process::exit(0),
        "map" => memory::map(arguments.first().unwrap_or(&""), number(1)),
        "peek" => memory::peek(number(0), number(1)),
        "poke" => memory::poke(number(0), number(1), number(2) as u8),
        "protect" => memory::protect(number(0), number(1), arguments.get(2).unwrap_or(&"")),
        "unmap" => memory::unmap(number(0), number(1)),
        "increment" => memory::increment(number(0), number(1)),
        "discard-loop" => memory::discard_loop(number(0), number(1)),
        "unanswered" => memory::unanswered(),
        _ => tasks::respond(command, arguments)
            .or_else(|| holder::respond(command, number(0), number(1)))
            .or_else(|| blocked::respond(command, number(0), number(1)))
            .unwrap_or_else(|| format!("unknown: {line}")),
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The lines of standard input, without the lock that `std::io::stdin` has: its holder may be a
/// thread that has died.
fn lines() -> impl Iterator<Item = String> {
    let input = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    input.map(BufReader::new).into_iter().flat_map(|input| input.lines().map_while(Result::ok))
}
