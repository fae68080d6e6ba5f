//! Holds the messages of a device until it is told to let one go.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use sva_core::sync::Mutex;
use sva_core::{Link, LinkEnds, ToDevice, ToIommu};

use super::corrupt::corrupted;
use super::message::{Message, Moment, Point};
use crate::choices::Choices;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It comes.
    Deliver,
    /// It comes, and will come once more.
    Double,
    /// It never comes.
    Lose,
    /// It comes changed.
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
    /// Messages changed, those included that were refused at once because of it.
    pub corrupted: u64,
}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Contents {
    ends: Option<LinkEnds>,
    queue: VecDeque<Message>,
    counts: LinkCounts,
    /// Responses that will not come as they were sent.
    responses_lost: u64,
    script: Vec<(Point, u32, Action)>,
}

/// See the module. One for each device.
#[derive(Default)]
pub struct ScheduledLink(Mutex<Contents>);

impl ScheduledLink {
    /// Holds nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Messages that are on their way.
    pub fn len(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is on its way, oldest first.
    pub fn messages(&self) -> Vec<Message> {
        self.0.lock().queue.iter().copied().collect()
    }

    /// What happened.
    pub fn counts(&self) -> LinkCounts {
        self.0.lock().counts
    }

    /// Responses since the last call that did not come as they were sent, so that a group may wait
    /// for its answer for ever.
    pub fn take_lost_responses(&self) -> u64 {
        std::mem::take(&mut self.0.lock().responses_lost)
    }

    /// Has `action` run once, when `point` is reached for the `nth` time from now (0 is the next):
    /// a race, on demand. It runs with nothing held on the thread that sends or delivers,
    /// before the message goes on.
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

    /// Which of them may be the next: all but ordered ones that are not the first of those.
    pub fn deliverable(&self) -> Vec<usize> {
        let held = self.0.lock();
        let first_ordered = held.queue.iter().position(Message::is_ordered);
        (0..held.queue.len())
            .filter(|at| !held.queue[*at].is_ordered() || Some(*at) == first_ordered)
            .collect()
    }

    /// Lets a message go, by its place in [`messages`](Self::messages). `choices` say how it is
    /// corrupted. Answers it, where there was one at that place.
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

    /// Delivers everything in order, also what is sent meanwhile, but for at most `limit` messages.
    /// Answers whether nothing is left.
    pub fn settle(&self, limit: usize) -> bool {
        let mut choices = Choices::recorded(&[]);
        (0..limit).any(|_| self.release(0, Fate::Deliver, &mut choices).is_none())
    }

    /// Delivers the page requests and stop markers that are on their way: the read by which
    /// software learns that a reset is over, or that page requests are off, pushes what was
    /// posted before.
    pub fn push_posted(&self) {
        let mut choices = Choices::recorded(&[]);
        loop {
            let first = self.0.lock().queue.iter().position(Message::is_ordered);
            let Some(at) = first else { return };
            self.release(at, Fate::Deliver, &mut choices);
        }
    }

    /// The device is gone: so is what was on its way.
    pub fn clear(&self) {
        let mut held = self.0.lock();
        held.queue.clear();
        held.ends = None;
        held.responses_lost = 0;
    }
}

impl Contents {
    /// What comes to the receiver.
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
