//! A link that delivers from a thread of its own, late, and loses and doubles what a link may.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_sync::Mutex;

/// The longest delay; well below the limit of an invalidation, so that being late alone seldom cuts
/// a device off.
const LATEST: u64 = 2_000;
/// One message in so many is lost, and one is doubled.
const FAULTY: u32 = 150;

#[derive(Clone, Copy)]
pub(super) enum Message {
    Up(ToIommu),
    Down(ToDevice),
}

/// On its way.
pub(super) struct Packet {
    due: Instant,
    ends: LinkEnds,
    message: Message,
}

/// A link that delivers late, loses and duplicates.
pub(super) struct LateLink {
    courier: Sender<Packet>,
    state: Mutex<(fastrand::Rng, Instant)>,
}

impl LateLink {
    pub(super) fn new(courier: Sender<Packet>, seed: u64) -> Self {
        Self { courier, state: Mutex::new((fastrand::Rng::with_seed(seed), Instant::now())) }
    }

    fn send(&self, ends: &LinkEnds, message: Message) {
        let mut state = self.state.lock();
        let (random, last_page) = &mut *state;
        let mut due = Instant::now() + Duration::from_micros(random.u64(..LATEST));
        let mut copies = match random.u32(..FAULTY) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        if let Message::Up(ToIommu::Page(_) | ToIommu::Stop(_)) = message {
            // These keep their order, and none is lost: they are posted.
            due = due.max(*last_page + Duration::from_nanos(1));
            (*last_page, copies) = (due, 1);
        }
        for _ in 0..copies {
            // Nobody listens any more once the system has been taken down.
            let _ = self.courier.send(Packet { due, ends: ends.clone(), message });
        }
    }
}

impl Link for LateLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        self.send(ends, Message::Up(message));
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        self.send(ends, Message::Down(message));
    }
}

/// Delivers until it is to end.
pub(super) fn deliver(packets: &Receiver<Packet>, end: impl Fn() -> bool) {
    let mut on_their_way: BinaryHeap<(Reverse<Instant>, usize)> = BinaryHeap::new();
    let mut held: Vec<Option<Packet>> = Vec::new();
    while !end() {
        let now = Instant::now();
        while let Some(&(_, at)) = on_their_way.peek().filter(|(due, _)| due.0 <= now) {
            on_their_way.pop();
            let Some(Packet { ends, message, .. }) = held[at].take() else { continue };
            match message {
                Message::Up(message) => ends.to_iommu(message),
                Message::Down(message) => ends.to_device(message),
            }
        }
        let wait = on_their_way.peek().map_or(Duration::from_millis(5), |(due, _)| {
            due.0.saturating_duration_since(Instant::now())
        });
        match packets.recv_timeout(wait) {
            Ok(packet) => {
                let at = held.iter().position(Option::is_none).unwrap_or(held.len());
                if at == held.len() {
                    held.push(None);
                }
                on_their_way.push((Reverse(packet.due), at));
                held[at] = Some(packet);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
