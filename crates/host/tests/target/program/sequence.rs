//! A restartable sequence (rseq) that runs until it is aborted.

use std::arch::asm;

#[repr(C, align(32))]
struct Descriptor {
    version: u32,
    flags: u32,
    start: u64,
    length: u64,
    abort: u64,
}

unsafe extern "C" {
    /// glibc's: the offset of its rseq area from the thread pointer, and the area's size.
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// Spins inside a restartable sequence, which only an abort leaves, for `milliseconds`. Answers how
/// often it was aborted. A sequence that is interrupted without an abort is not armed any more. It
/// ends after about ten seconds, far longer than a test waits between two attaches.
pub(crate) fn run(milliseconds: u64) -> String {
    // SAFETY: constants of the C library.
    let (offset, size) = unsafe { (__rseq_offset, __rseq_size) };
    if size == 0 {
        return "none".into();
    }
    let thread: usize;
    // SAFETY: reads the thread pointer.
    unsafe { asm!("mov {}, fs:0", out(reg) thread) };
    let armed = (thread.wrapping_add_signed(offset) + 8) as *mut u64;
    super::say("begin");
    let begin = std::time::Instant::now();
    let mut aborts = 0;
    while begin.elapsed().as_millis() < u128::from(milliseconds) {
        let mut descriptor = Descriptor { version: 0, flags: 0, start: 0, length: 0, abort: 0 };
        let mut spins: u64 = 40_000_000_000;
        // SAFETY: the sequence writes to registers and to the thread's own rseq area; the four
        // bytes before the abort are the signature that glibc registers.
        unsafe {
            asm!(
                "lea {scratch}, [rip + 2f]",
                "mov [{descriptor} + 8], {scratch}",
                "lea {length}, [rip + 3f]",
                "sub {length}, {scratch}",
                "mov [{descriptor} + 16], {length}",
                "lea {length}, [rip + 4f]",
                "mov [{descriptor} + 24], {length}",
                "mov [{armed}], {descriptor}",
                "2:",
                "dec {spins}",
                "jnz 2b",
                "3:",
                "jmp 5f",
                ".byte 0x0f, 0xb9, 0x3d",
                ".long 0x53053053",
                "4:",
                "nop",
                "5:",
                "mov qword ptr [{armed}], 0",
                scratch = out(reg) _,
                length = out(reg) _,
                descriptor = in(reg) &raw mut descriptor,
                armed = in(reg) armed,
                spins = inout(reg) spins,
            );
        }
        if spins == 0 {
            return "not aborted".into();
        }
        aborts += 1;
    }
    format!("aborted {aborts}")
}
