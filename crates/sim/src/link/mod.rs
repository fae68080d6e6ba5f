//! A link that delivers messages when its schedule says so: late, twice, in another order,
//! corrupted, or never.
//!
//! Page requests and stop markers of a device stay in their order and are not lost: a device sends
//! them as posted messages, which PCIe keeps in order. A message is corrupted so that its receiver
//! can see it. In page responses and invalidation completions a bit on the wire is flipped. A
//! translation completion names another request, refuses the request, or fails its end-to-end CRC
//! and is dropped. (Rejected: a flipped bit of a translated address, which no receiver could see.)
//!
//! `message` knows the messages alone, `corrupt` uses it, `scheduled` uses both.

mod corrupt;
mod message;
mod scheduled;

pub use message::{Message, Moment, Point};
pub use scheduled::{Fate, LinkCounts, ScheduledLink};
