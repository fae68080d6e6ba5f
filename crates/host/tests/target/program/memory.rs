//! Mappings of the target, made and looked at on command.

use std::fmt::Write;
use std::ptr;

/// Maps `length` bytes: `private`, `shared`, `read` (filled, then read-only), `none` (filled, then
/// inaccessible), `hole` (three pages, the middle one unmapped), `file` (two pages over a file of
/// one).
pub(crate) fn map(kind: &str, length: u64) -> String {
    let sharing = if kind == "shared" { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let length = length as usize;
    let at = match kind {
        "file" => short_file(length),
        _ => place(length, sharing | libc::MAP_ANONYMOUS, -1),
    };
    match kind {
        "read" | "none" => {
            poke(at, length as u64, 0x5a);
            protect(at, length as u64, kind);
        }
        "hole" => {
            unmap(at + 4096, 4096);
        }
        _ => {}
    }
    format!("{at:#x}")
}

fn place(length: usize, flags: i32, file: i32) -> u64 {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    unsafe {
        libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0)
            as u64
    }
}

fn short_file(length: usize) -> u64 {
    // SAFETY: the name is a string that ends with a zero.
    let file = unsafe { libc::memfd_create(c"short".as_ptr(), 0) };
    // SAFETY: takes numbers only.
    unsafe { libc::ftruncate(file, 4096) };
    place(length, libc::MAP_SHARED, file)
}

/// Answers `length` bytes at `at` in hexadecimal.
pub(crate) fn peek(at: u64, length: u64) -> String {
    let byte = |offset| {
        // SAFETY: the test asks for readable memory only.
        unsafe { ptr::read_volatile((at + offset) as *const u8) }
    };
    (0..length).fold(String::new(), |mut text, offset| {
        let _ = write!(text, "{:02x}", byte(offset));
        text
    })
}

/// Fills memory.
pub(crate) fn poke(at: u64, length: u64, value: u8) -> String {
    // SAFETY: the test asks for its own mappings only.
    unsafe { ptr::write_bytes(at as *mut u8, value, length as usize) };
    "done".into()
}

/// Adds one to the number at `at`, `times` times, by separate loads and stores. Answers the number.
pub(crate) fn increment(at: u64, times: u64) -> String {
    let number = at as *mut u64;
    for _ in 0..times {
        // SAFETY: the test asks for its own mappings only, at an aligned address.
        let before = unsafe { number.read_volatile() };
        // SAFETY: as above.
        unsafe { number.write_volatile(before + 1) };
    }
    // SAFETY: as above.
    format!("counted {}", unsafe { number.read_volatile() })
}

/// Writes to a page and discards it, `times` times.
pub(crate) fn discard_loop(at: u64, times: u64) -> String {
    for _ in 0..times {
        poke(at, 1, 1);
        // SAFETY: the test asks for its own mappings only.
        unsafe { libc::madvise(at as *mut _, 4096, libc::MADV_DONTNEED) };
    }
    "done".into()
}

/// Changes permissions: `read`, `write` (and read), `write-only`, `none`.
pub(crate) fn protect(at: u64, length: u64, kind: &str) -> String {
    let protection = match kind {
        "read" => libc::PROT_READ,
        "write" => libc::PROT_READ | libc::PROT_WRITE,
        "write-only" => libc::PROT_WRITE,
        _ => libc::PROT_NONE,
    };
    // SAFETY: the test asks for its own mappings only.
    let result = unsafe { libc::mprotect(at as *mut _, length as usize, protection) };
    format!("protected {result}")
}

/// Unmaps.
pub(crate) fn unmap(at: u64, length: u64) -> String {
    // SAFETY: the test asks for its own mappings only.
    let result = unsafe { libc::munmap(at as *mut _, length as usize) };
    format!("unmapped {result}")
}

/// Maps a read-only page whose first access waits for ever (userfaultfd). Answers `waiting
/// 0xADDRESS`, or `refused ERRNO` where the process may not do that.
pub(crate) fn unanswered() -> String {
    // linux/userfaultfd.h
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    const MISSING: u64 = 1;
    // SAFETY: takes numbers only. The descriptor is never closed.
    let faults = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
    if faults < 0 {
        return format!("refused {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: the structure is of the size that the request states.
    unsafe { libc::ioctl(faults, UFFDIO_API, &raw mut api) };
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    } as u64;
    let mut range = [at, 4096, MISSING, 0];
    // SAFETY: as above; nothing of this program reads the page.
    match unsafe { libc::ioctl(faults, UFFDIO_REGISTER, &raw mut range) } {
        0 => format!("waiting {at:#x}"),
        _ => format!("refused {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}
