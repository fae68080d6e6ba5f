//! A space that records the accesses to it, in order.

use std::sync::Arc;

use sva_core::{Access, AddrRange, AddressSpace, Segment, Stopped};
use sva_sync::Mutex;

use crate::forwarding::{Forwarding, ForwardingSpace};

/// One piece of one access, as far as it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which call it was part of, counted from 0: the pieces of one gather share it.
    pub call: u64,
    /// What was done.
    pub access: Access,
    /// First address.
    pub address: u64,
    /// The bytes read or written.
    pub bytes: Vec<u8>,
}

impl Recorded {
    /// The addresses touched; `None` where the piece was empty or nothing of it was done.
    pub fn range(&self) -> Option<AddrRange> {
        AddrRange::new(self.address, self.bytes.len() as u64)
    }
}

/// Forwards everything to another space and records each access by address. The order is exact for
/// one thread at a time.
///
/// Accesses by frame and in place are forwarded and leave no record: devices that keep translations
/// make those.
pub struct RecordingSpace {
    inner: Arc<dyn AddressSpace>,
    log: Mutex<(u64, Vec<Recorded>)>,
}

impl RecordingSpace {
    /// Records what goes through it to `inner`; both are one space, by one identity.
    pub fn new(inner: Arc<dyn AddressSpace>) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self { inner, log: Mutex::new((0, Vec::new())) }))
    }

    /// Takes the record so far.
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.log.lock().1)
    }

    fn record(
        &self,
        pieces: &[Segment],
        bytes: &[u8],
        access: Access,
        outcome: &Result<(), Stopped>,
    ) {
        let mut left = match outcome {
            Ok(()) => bytes,
            Err(stopped) => &bytes[..stopped.done as usize],
        };
        let mut log = self.log.lock();
        let call = log.0;
        log.0 += 1;
        for piece in pieces {
            let (this, rest) = left.split_at(left.len().min(piece.len as usize));
            log.1.push(Recorded { call, access, address: piece.address, bytes: this.to_vec() });
            left = rest;
        }
    }
}

impl ForwardingSpace for RecordingSpace {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        let outcome = self.inner.read(pieces, buf, access);
        self.record(pieces, buf, access.kind(), &outcome);
        outcome
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        let outcome = self.inner.write(pieces, data, access);
        self.record(pieces, data, access.kind(), &outcome);
        outcome
    }
}
