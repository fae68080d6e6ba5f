//! The link of one device: a queue of messages, delivered when the schedule says so.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_sync::Mutex;

use super::corrupt::corrupted;
use super::message::{Message, Moment, Point};
use crate::choices::Choices;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is delivered.
    Deliver,
    /// It is delivered, and stays to be delivered once more.
    Double,
    /// It is never delivered.
    Lose,
    /// It is delivered with an error that its receiver can see.
    Corrupt,
}

/// What happened on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LinkCounts {
    /// Messages delivered.
    pub delivered: u64,
    /// Messages that overtook another one.
    pub overtaken: u64,
    /// Messages lost.
    pub lost: u64,
    /// Messages doubled.
    pub doubled: u64,
    /// Messages corrupted, including those that their receiver drops at once.
    pub corrupted: u64,
}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Contents {
    ends: Option<LinkEnds>,
    queue: VecDeque<Message>,
    counts: LinkCounts,
    /// Responses that were lost or corrupted.
    responses_lost: u64,
    script: Vec<(Point, u32, Action)>,
}

/// The link of one device. Holds its messages until the schedule lets one go: late, twice, in
/// another order, corrupted, or never. No method blocks.
#[derive(Default)]
pub struct ScheduledLink(Mutex<Contents>);

impl ScheduledLink {
    /// A link with no message on its way.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How many messages are on their way.
    pub fn len(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages that are on their way, oldest first.
    pub fn messages(&self) -> Vec<Message> {
        self.0.lock().queue.iter().copied().collect()
    }

    /// What has happened to messages so far.
    pub fn counts(&self) -> LinkCounts {
        self.0.lock().counts
    }

    /// How many page responses were lost or corrupted since the last call: so many groups may wait
    /// for their answer for ever.
    pub fn take_lost_responses(&self) -> u64 {
        std::mem::take(&mut self.0.lock().responses_lost)
    }

    /// Runs `action` once, when `point` is reached for the `nth` time from now; 0 is the next time.
    /// It runs on the thread that sends or delivers, with no lock held, before the message goes on.
    pub fn at(&self, point: Point, nth: u32, action: impl FnOnce() + Send + 'static) {
        self.0.lock().script.push((point, nth, Box::new(action)));
    }

    /// Runs what the script has for this point.
    fn reach(&self, point: Point) {
        let mut due: Vec<Action> = Vec::new();
        {
            let mut held = self.0.lock();
            let script = std::mem::take(&mut held.script);
            for (at, left, action) in script {
                match (at == point, left) {
                    (true, 0) => due.push(action),
                    (true, left) => held.script.push((at, left - 1, action)),
                    (false, left) => held.script.push((at, left, action)),
                }
            }
        }
        due.into_iter().for_each(|action| action());
    }

    fn hold(&self, ends: &LinkEnds, message: Message) {
        self.reach(message.point(Moment::Sent));
        let mut held = self.0.lock();
        held.ends.get_or_insert_with(|| ends.clone());
        held.queue.push_back(message);
    }

    /// The indexes in [`messages`](Self::messages) of those that may be delivered next: all but
    /// page requests and stop markers that were sent after another of these.
    pub fn deliverable(&self) -> Vec<usize> {
        let held = self.0.lock();
        let first_ordered = held.queue.iter().position(Message::is_ordered);
        (0..held.queue.len())
            .filter(|at| !held.queue[*at].is_ordered() || Some(*at) == first_ordered)
            .collect()
    }

    /// Lets the message at an index of [`messages`](Self::messages) go, and returns it; `None` if
    /// there is none. `choices` decide how it is corrupted. A message that cannot fail is
    /// delivered, whatever `fate` is.
    pub fn release(&self, at: usize, fate: Fate, choices: &mut Choices) -> Option<Message> {
        let message = *self.0.lock().queue.get(at)?;
        let fate = if message.can_fail() { fate } else { Fate::Deliver };
        self.reach(message.point(Moment::Delivery));
        let (ends, arriving) = {
            let mut held = self.0.lock();
            // The script may have let others go.
            let at = held.queue.iter().take(at + 1).rposition(|other| *other == message)?;
            if fate != Fate::Double {
                held.queue.remove(at);
            }
            held.counts.overtaken += u64::from(at > 0);
            let arriving = held.arrive(message, fate, choices);
            (held.ends.clone()?, arriving)
        };
        for message in arriving {
            match message {
                Message::Up(message) => ends.to_iommu(message),
                Message::Down(message) => ends.to_device(message),
            }
        }
        Some(message)
    }

    /// Delivers all messages in order, including those that are sent meanwhile, but `limit` at
    /// most. Returns whether none is left.
    pub fn settle(&self, limit: usize) -> bool {
        let mut choices = Choices::recorded(&[]);
        (0..limit).any(|_| self.release(0, Fate::Deliver, &mut choices).is_none())
    }

    /// Delivers the page requests and stop markers that are on their way. The read by which
    /// software learns that a reset is over, or that page requests are off, pushes the writes that
    /// were posted before it.
    pub fn push_posted(&self) {
        let mut choices = Choices::recorded(&[]);
        loop {
            let first = self.0.lock().queue.iter().position(Message::is_ordered);
            let Some(at) = first else { return };
            self.release(at, Fate::Deliver, &mut choices);
        }
    }

    /// Drops all messages: the device is gone.
    pub fn clear(&self) {
        let mut held = self.0.lock();
        held.queue.clear();
        held.ends = None;
        held.responses_lost = 0;
    }
}

impl Contents {
    /// The messages that come to the receiver.
    fn arrive(&mut self, message: Message, fate: Fate, choices: &mut Choices) -> Vec<Message> {
        let response = matches!(message, Message::Down(ToDevice::Response(_)));
        match fate {
            Fate::Deliver => {}
            Fate::Double => self.counts.doubled += 1,
            Fate::Lose => {
                self.counts.lost += 1;
                self.responses_lost += u64::from(response);
                return Vec::new();
            }
            Fate::Corrupt => {
                self.counts.corrupted += 1;
                self.responses_lost += u64::from(response);
                return corrupted(message, choices);
            }
        }
        self.counts.delivered += 1;
        vec![message]
    }
}

impl Link for ScheduledLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        self.hold(ends, Message::Up(message));
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        self.hold(ends, Message::Down(message));
    }
}

impl fmt::Debug for ScheduledLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduledLink").field("messages", &self.messages()).finish_non_exhaustive()
    }
}
