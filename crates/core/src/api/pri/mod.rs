//! The page request interface (PCIe 6.0, section 10.4): its messages, groups of page requests as
//! their owners get them, and how long faults took.

mod fault_queue;
mod group;
pub mod layout;
mod message;
mod times;

pub use fault_queue::{AnswersError, FaultQueue, GroupAnswer, NoRoom};
pub(crate) use group::PageResponder;
pub use group::{AnswerError, Cookie, PageRequestGroup, PageRequestHandler};
pub use message::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
pub use times::{FaultTimes, Histogram};
