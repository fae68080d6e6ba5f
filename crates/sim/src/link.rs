//! A link that holds messages until its schedule lets them go, late, twice, in another order,
//! changed, or never.
//!
//! Page requests and stop markers of a device stay in their order and are not lost: a device sends
//! them as posted messages, which PCIe keeps in order. All else goes as the schedule says. What is
//! changed is changed where its receiver can see it: bits of a page response and of an invalidation
//! completion as they are on the wire; a translation completion names another request, refuses, or
//! is damaged as a whole, which its check shows (ECRC): a bit of the address itself no receiver
//! could see.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use sva_core::ats::layout::{CompletedTags, InvalidateDone};
use sva_core::ats::{InvalidationCompletion, RequestId, TranslationRefusal};
use sva_core::pri::PageResponse;
use sva_core::pri::layout::{PageResponseTlp, PageResponseWord};
use sva_core::sync::Mutex;
use sva_core::{Link, LinkEnds, Pasid, ToDevice, ToIommu};

use crate::choices::Choices;

/// A kind of message, and whether it is being sent or about to be delivered: a point at which a
/// script can act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// A translation request.
    TranslationRequest(Moment),
    /// A translation completion.
    TranslationCompletion(Moment),
    /// An invalidation request.
    InvalidationRequest(Moment),
    /// An invalidation completion.
    InvalidationCompletion(Moment),
    /// A page request that is not the last of its group.
    PageRequest(Moment),
    /// The last page request of a group.
    LastPageRequest(Moment),
    /// A stop marker.
    StopMarker(Moment),
    /// A response to a page request group.
    PageResponse(Moment),
}

/// When, in the life of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It has been sent.
    Sent,
    /// It is about to come to its receiver.
    Delivery,
}

/// What is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// From the device.
    Up(ToIommu),
    /// To the device.
    Down(ToDevice),
}

impl Message {
    /// Its kind.
    pub fn point(&self, moment: Moment) -> Point {
        match self {
            Self::Up(ToIommu::Translate(_)) => Point::TranslationRequest(moment),
            Self::Up(ToIommu::Invalidated(_)) => Point::InvalidationCompletion(moment),
            Self::Up(ToIommu::Page(request)) if request.last => Point::LastPageRequest(moment),
            Self::Up(ToIommu::Page(_)) => Point::PageRequest(moment),
            Self::Down(ToDevice::Translated(_)) => Point::TranslationCompletion(moment),
            Self::Down(ToDevice::Invalidate(_)) => Point::InvalidationRequest(moment),
            Self::Down(ToDevice::Response(_)) => Point::PageResponse(moment),
            _ => Point::StopMarker(moment),
        }
    }

    /// Page requests and stop markers come in the order in which they were sent.
    fn is_ordered(&self) -> bool {
        matches!(self, Self::Up(ToIommu::Page(_) | ToIommu::Stop(_)))
    }

    /// It can be lost, doubled or changed.
    pub fn can_fail(&self) -> bool {
        matches!(
            self,
            Self::Up(ToIommu::Invalidated(_))
                | Self::Down(ToDevice::Translated(_) | ToDevice::Response(_))
        )
    }
}

impl fmt::Display for Message {
    /// Without frames: their numbers are those of the program, not of the run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |pasid: Option<Pasid>| {
            pasid.map_or_else(|| "no PASID".to_owned(), |pasid| format!("PASID {pasid}"))
        };
        match self {
            Self::Up(ToIommu::Translate(request)) => {
                write!(
                    f,
                    "translation request {} ({}, {} at {:#x})",
                    request.id.0,
                    of(request.pasid),
                    request.access(),
                    request.address
                )
            }
            Self::Up(ToIommu::Invalidated(done)) => {
                write!(f, "invalidation completion (tag {}, use {})", done.tag.get(), done.serial)
            }
            Self::Up(ToIommu::Page(page)) => {
                let (group, last, access) = (
                    page.index,
                    if page.last { ", the last" } else { "" },
                    if page.write { "write" } else { "read" },
                );
                write!(
                    f,
                    "page request (group {group}{last}, {}, {access} at {:#x})",
                    of(page.pasid),
                    page.address
                )
            }
            Self::Up(ToIommu::Stop(marker)) => write!(f, "stop marker (PASID {})", marker.pasid),
            Self::Down(ToDevice::Translated(completion)) => {
                write!(f, "translation completion {}: ", completion.id.0)?;
                match completion.result {
                    Ok(found) if found.permits.is_none() => f.write_str("no access"),
                    Ok(found) => {
                        write!(
                            f,
                            "2^{} bytes at {:#x}, may be written: {}",
                            found.range.bits(),
                            found.range.first(),
                            found.permits.write
                        )
                    }
                    Err(refusal) => refusal.fmt(f),
                }
            }
            Self::Down(ToDevice::Invalidate(request)) => {
                let (tag, range) = (request.tag.get(), request.range);
                write!(
                    f,
                    "invalidation (tag {tag}, use {}, {}, 2^{} bytes at {:#x})",
                    request.serial,
                    of(request.pasid),
                    range.bits(),
                    range.first()
                )
            }
            Self::Down(ToDevice::Response(response)) => {
                write!(
                    f,
                    "response (group {}, {}): {}",
                    response.index,
                    of(response.pasid),
                    response.code
                )
            }
            other => write!(f, "{other:?}"),
        }
    }
}

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
pub struct HeldLink(Mutex<Contents>);

impl HeldLink {
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

/// The messages as they come; none where the receiver sees at once that it is none.
fn corrupted(message: Message, choices: &mut Choices) -> Vec<Message> {
    match message {
        Message::Down(ToDevice::Response(response)) => flipped_response(response, choices)
            .map(|response| Message::Down(ToDevice::Response(response)))
            .into_iter()
            .collect(),
        Message::Up(ToIommu::Invalidated(completion)) => flipped_completion(completion, choices)
            .into_iter()
            .map(|completion| Message::Up(ToIommu::Invalidated(completion)))
            .collect(),
        Message::Down(ToDevice::Translated(mut completion)) => {
            match choices.below(3) {
                0 => return Vec::new(),
                1 => completion.result = Err(TranslationRefusal::Aborted),
                _ => {
                    completion.id =
                        RequestId(completion.id.0.wrapping_sub(u64::from(choices.below(3))))
                }
            }
            vec![Message::Down(ToDevice::Translated(completion))]
        }
        other => vec![other],
    }
}

/// The first bit of a response that says something: the index begins there, and the code ends 16
/// bits later.
const INDEX_AND_CODE: u32 = 32;

fn flipped_response(response: PageResponse, choices: &mut Choices) -> Option<PageResponse> {
    let tlp = PageResponseTlp::encode(&response);
    // The others are reserved, or route the message: a receiver refuses it, or never gets it.
    let bit = INDEX_AND_CODE + choices.below(16);
    let word = PageResponseWord::from_bits(tlp.word.into_bits() ^ 1 << bit);
    PageResponseTlp { word, ..tlp }.decode().ok()
}

/// A bit of the vector of tags: the completion names another tag as well, or none.
fn flipped_completion(
    completion: InvalidationCompletion,
    choices: &mut Choices,
) -> Vec<InvalidationCompletion> {
    let Some(tags) = CompletedTags::new([completion.tag], 1) else { return Vec::new() };
    let vector = InvalidateDone::encode(tags).itag_vector() ^ 1 << choices.below(32);
    match InvalidateDone::encode(tags).with_itag_vector(vector).decode() {
        Ok(tags) => tags.completions(|_| completion.serial).collect(),
        Err(_) => Vec::new(),
    }
}

impl Link for HeldLink {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        self.hold(ends, Message::Up(message));
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        self.hold(ends, Message::Down(message));
    }
}

impl fmt::Debug for HeldLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLink").field("messages", &self.messages()).finish_non_exhaustive()
    }
}
