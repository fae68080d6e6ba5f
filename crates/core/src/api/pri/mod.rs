//! Page requests (PCIe 6.0, section 10.4): the messages, groups of page requests and their
//! handlers, and the latencies of faults.

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
