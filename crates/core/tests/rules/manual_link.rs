//! A link that a test works by hand, and a clock that it sets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sva_core::Clock;
use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_sync::{Condvar, Mutex};

use crate::support::LIMIT;

/// A message, with the way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Up(ToIommu),
    Down(ToDevice),
}

/// Which messages are meant.
pub(crate) type Which = fn(&Message) -> bool;

pub(crate) fn any_message(_: &Message) -> bool {
    true
}

pub(crate) fn no_message(_: &Message) -> bool {
    false
}

pub(crate) fn translation_requests(message: &Message) -> bool {
    matches!(message, Message::Up(ToIommu::Translate(_)))
}

pub(crate) fn translation_completions(message: &Message) -> bool {
    matches!(message, Message::Down(ToDevice::Translated(_)))
}

pub(crate) fn invalidation_requests(message: &Message) -> bool {
    matches!(message, Message::Down(ToDevice::Invalidate(_)))
}

pub(crate) fn invalidation_completions(message: &Message) -> bool {
    matches!(message, Message::Up(ToIommu::Invalidated(_)))
}

/// Page requests and stop markers, whose order the bus keeps.
pub(crate) fn page_messages(message: &Message) -> bool {
    matches!(message, Message::Up(ToIommu::Page(_) | ToIommu::Stop(_)))
}

pub(crate) fn page_responses(message: &Message) -> bool {
    matches!(message, Message::Down(ToDevice::Response(_)))
}

/// A message on its way. Dropping it loses it; a clone of it comes twice.
#[derive(Clone)]
#[must_use = "dropping it loses the message"]
pub(crate) struct Packet {
    ends: LinkEnds,
    pub(crate) message: Message,
}

impl Packet {
    /// It arrives, and what follows from it happens on this thread.
    pub(crate) fn deliver(self) {
        match self.message {
            Message::Up(message) => self.ends.to_iommu(message),
            Message::Down(message) => self.ends.to_device(message),
        }
    }

    /// Another message comes in its place.
    pub(crate) fn changed(self, message: Message) -> Self {
        Self { message, ..self }
    }
}

/// Holds messages until the test takes them out: each can be delivered, lost, doubled, reordered or
/// changed. One link may be that of several devices.
pub(crate) struct ManualLink {
    /// What is held; all else is delivered at once.
    holds: Mutex<Which>,
    packets: Mutex<VecDeque<Packet>>,
    sent: Condvar,
}

impl ManualLink {
    /// Holds `which`.
    pub(crate) fn new(which: Which) -> Arc<Self> {
        Arc::new(Self { holds: Mutex::new(which), packets: Mutex::default(), sent: Condvar::new() })
    }

    /// Holds `which` from now on. What is held stays held.
    pub(crate) fn hold(&self, which: Which) {
        *self.holds.lock() = which;
    }

    /// What is held, oldest first.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.packets.lock().iter().map(|packet| packet.message).collect()
    }

    /// How many of these are held.
    pub(crate) fn count(&self, which: Which) -> usize {
        self.packets.lock().iter().filter(|packet| which(&packet.message)).count()
    }

    /// Takes the oldest of these out.
    pub(crate) fn find(&self, which: impl Fn(&Message) -> bool) -> Option<Packet> {
        let mut packets = self.packets.lock();
        let at = packets.iter().position(|packet| which(&packet.message))?;
        packets.remove(at)
    }

    /// As [`find`](Self::find), where the test knows that there is one.
    pub(crate) fn take(&self, which: impl Fn(&Message) -> bool) -> Packet {
        self.find(which)
            .unwrap_or_else(|| panic!("no such message is held, but {:?}", self.messages()))
    }

    /// As [`take`](Self::take), of a message that another thread is about to send. Panics after
    /// [`LIMIT`].
    pub(crate) fn wait_for(&self, which: Which) -> Packet {
        let mut packets = self.packets.lock();
        loop {
            if let Some(packet) = packets
                .iter()
                .position(|packet| which(&packet.message))
                .and_then(|at| packets.remove(at))
            {
                return packet;
            }
            let (guard, late) = self.sent.wait_timeout(packets, LIMIT);
            packets = guard;
            assert!(!late, "the message was not sent");
        }
    }

    /// Delivers all of these, oldest first, also those that follow from them. Answers how many that
    /// were.
    pub(crate) fn deliver_all(&self, which: Which) -> usize {
        std::iter::from_fn(|| self.find(which)).map(Packet::deliver).count()
    }

    /// Loses all of these. Answers how many that were.
    pub(crate) fn lose_all(&self, which: Which) -> usize {
        std::iter::from_fn(|| self.find(which)).map(drop).count()
    }

    fn send(&self, ends: &LinkEnds, message: Message) {
        let packet = Packet { ends: ends.clone(), message };
        let holds = *self.holds.lock();
        if holds(&message) {
            self.packets.lock().push_back(packet);
            self.sent.notify_all();
        } else {
            packet.deliver();
        }
    }
}

impl Link for ManualLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        self.send(ends, Message::Up(message));
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        self.send(ends, Message::Down(message));
    }
}

/// A clock that stands still unless the test moves it on.
pub(crate) struct ScriptedClock(Mutex<Duration>);

impl ScriptedClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Duration::ZERO)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Duration {
        *self.0.lock()
    }
}
