//! The page request interface (PCIe 6.0, section 10.4): what a device that can wait for a page
//! says, what the IOMMU keeps of it, and what it answers.
//!
//! | module | what |
//! |---|---|
//! | [`message`] | page requests, stop markers and responses, as checked values |
//! | [`layout`] | the same bit by bit, both ways |

pub(crate) mod interface;
pub mod layout;
pub mod message;
pub mod owner;
pub(crate) mod queue;
pub mod times;

pub use interface::{AskError, GroupOutcome, InterfaceCounts};
pub use message::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
pub use owner::{
    AnswerError, AnswersError, FaultQueue, GroupAnswer, NoRoom, PageRequestGroup,
    PageRequestHandler,
};
pub use queue::{Cookie, PageCounts};
pub use times::{FaultTimes, Histogram};
