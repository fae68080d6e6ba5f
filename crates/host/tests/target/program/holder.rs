//! The target as a program of its own that attaches another.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use sva_core::{Access, AddressSpace, Segment};
use sva_host::HostSpace;

thread_local! {
    static HELD: RefCell<Option<Arc<HostSpace>>> = const { RefCell::new(None) };
}

pub(crate) fn respond(command: &str, first: u64, second: u64) -> Option<String> {
    Some(match command {
        "attach" => match sva_host::attach(first as u32) {
            Ok(space) => {
                HELD.set(Some(space));
                "attached".into()
            }
            Err(error) => format!("{error:?}: {error}"),
        },
        "exec-while-attaching" => exec_while_attaching(first as u32, second),
        "drop" => {
            HELD.set(None);
            "done".into()
        }
        "ended" => held(|space| format!("{:?}", space.ended())),
        "read" => held(|space| {
            let mut bytes = vec![0; second as usize];
            let done =
                space.read(&[Segment { address: first, len: second }], &mut bytes, Access::READ);
            done.map_or_else(
                |stopped| format!("{:?}", stopped.cause),
                |()| bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            )
        }),
        // The same in a child made by fork, which has inherited the handle.
        "read-in-child" => in_child(|| respond("read", first, second).unwrap_or_default()),
        "attach-in-child" => in_child(|| match sva_host::attach(first as u32) {
            Ok(_) => "attached".into(),
            Err(error) => format!("{error:?}"),
        }),
        "drop-in-child" => in_child(|| respond("drop", 0, 0).unwrap_or_default()),
        _ => return None,
    })
}

/// Executes this program again, some microseconds after another thread has stopped the process that
/// it attaches.
fn exec_while_attaching(pid: u32, microseconds: u64) -> String {
    std::thread::spawn(move || drop(sva_host::attach(pid)));
    let path = format!("/proc/{pid}/status");
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 20
        && std::fs::read_to_string(&path).is_ok_and(|text| text.contains("TracerPid:\t0\n"))
    {}
    let begin = Instant::now();
    while begin.elapsed().as_micros() < microseconds.into() {}
    super::exec("serve")
}

fn held(look: impl FnOnce(&HostSpace) -> String) -> String {
    HELD.with_borrow(|held| {
        held.as_ref().map_or_else(|| "nothing held".into(), |space| look(space))
    })
}

fn in_child(work: impl FnOnce() -> String) -> String {
    // SAFETY: glibc sees to its own locks; the child uses no other thread's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        super::say(&work());
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: writes nothing.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    "child done".into()
}
