//! A link that holds messages until its schedule lets them go, late, twice, in another order,
//! changed, or never.
//!
//! Page requests and stop markers of a device stay in their order and are not lost: a device sends
//! them as posted messages, which PCIe keeps in order. All else goes as the schedule says. What is
//! changed is changed where its receiver can see it: bits of a page response and of an invalidation
//! completion as they are on the wire; a translation completion names another request, refuses, or
//! is damaged as a whole, which its check shows (ECRC): a bit of the address itself no receiver
//! could see.

mod corrupt;
mod message;
mod scheduled;

pub use message::{Message, Moment, Point};
pub use scheduled::{Fate, LinkCounts, ScheduledLink};
