//! What answers behind a BAR.

use std::collections::BTreeMap;

use sva_sync::Mutex;

/// The model behind a BAR refuses the request (unsupported request or completer abort).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device aborted the request")]
pub struct BarAborted;

/// A device model as its BAR's users see it.
///
/// Called from any thread, several at once, with no lock of the fabric held; may block and may call
/// the fabric.
pub trait BarModel: Send + Sync {
    /// Fills `buf` with what is at `offset` (bytes from the start of the BAR); `offset` and all of
    /// `buf` lie inside it.
    ///
    /// # Errors
    /// The model aborts the request.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BarAborted>;

    /// Takes `data` for `offset`; both lie inside the BAR.
    ///
    /// # Errors
    /// The model aborts the request.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BarAborted>;
}

const PAGE: u64 = 4096;

/// Memory behind a BAR, zero at first, that counts what reaches it; every BAR has one until another
/// model is attached.
///
/// It keeps pages that were written, at most [`RamBar::PAGES`] of them; a write beyond that is
/// aborted whole.
#[derive(Debug, Default)]
pub struct RamBar(Mutex<Ram>);

#[derive(Default)]
struct Ram {
    pages: BTreeMap<u64, Box<[u8]>>,
    reads: u64,
    writes: u64,
}

impl RamBar {
    /// The most pages of 4 KiB that one keeps.
    pub const PAGES: usize = 4096;

    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests that read it so far.
    pub fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Requests that wrote it so far.
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    /// `len` bytes from `offset`, without counting as a read.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.0.lock().copy_out(offset, &mut buf);
        buf
    }
}

impl Ram {
    fn copy_out(&self, offset: u64, buf: &mut [u8]) {
        for (page, within, piece) in pieces(offset, buf.len()) {
            match self.pages.get(&page) {
                Some(bytes) => {
                    buf[piece.clone()].copy_from_slice(&bytes[within..within + piece.len()])
                }
                None => buf[piece].fill(0),
            }
        }
    }
}

impl BarModel for RamBar {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BarAborted> {
        let mut ram = self.0.lock();
        ram.reads += 1;
        ram.copy_out(offset, buf);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BarAborted> {
        let mut ram = self.0.lock();
        let new =
            pieces(offset, data.len()).filter(|(page, ..)| !ram.pages.contains_key(page)).count();
        if ram.pages.len() + new > Self::PAGES {
            return Err(BarAborted);
        }
        ram.writes += 1;
        for (page, within, piece) in pieces(offset, data.len()) {
            let bytes =
                ram.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into_boxed_slice());
            bytes[within..within + piece.len()].copy_from_slice(&data[piece]);
        }
        Ok(())
    }
}

/// Cuts `len` bytes from `offset` at pages: the page, where in it, and which bytes of the whole.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset.checked_add(done as u64)?;
        let within = (at % PAGE) as usize;
        let piece = done..done + left.min(PAGE as usize - within);
        done = piece.end;
        Some((at / PAGE, within, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_behind_a_bar_keeps_what_is_written_across_pages() {
        let ram = RamBar::new();
        let data: Vec<u8> = (0..=255).collect();
        ram.write(PAGE - 100, &data).expect("there is room");
        let mut buf = vec![0xaa; 258];
        ram.read(PAGE - 101, &mut buf).expect("memory answers");
        assert_eq!((buf[0], &buf[1..257], buf[257]), (0, &data[..], 0));
        assert_eq!((ram.reads(), ram.writes()), (1, 1));
        assert_eq!(ram.peek(PAGE, 2), [100, 101]);
        assert_eq!(ram.reads(), 1);
    }

    // shows S2
    #[test]
    fn memory_behind_a_bar_is_bounded_and_refuses_whole_writes() {
        let ram = RamBar::new();
        let full = vec![1; RamBar::PAGES * PAGE as usize];
        ram.write(0, &full).expect("exactly what it keeps");
        let end = full.len() as u64;
        assert_eq!(ram.write(end - 8, &[2; 16]), Err(BarAborted));
        assert_eq!(ram.peek(end - 8, 16), [[1; 8], [0; 8]].concat());
        assert_eq!(ram.writes(), 1);
        ram.write(end - 8, &[3; 8]).expect("no page more");
    }
}
