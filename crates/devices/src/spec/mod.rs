//! The layouts of the data mover: those of the Linux UAPI header `linux/idxd.h`, with the meanings
//! of the Intel DSA architecture specification (document 341204), whose sections the items name.
//!
//! Layouts only. To read one never fails: whatever a process can write is a number or a newtype of
//! one, and [`mover`](crate::mover) checks it. The module uses no other.

mod completion;
mod delta;
mod descriptor;
mod flags;
mod opcode;
mod status;

pub use completion::CompletionRecord;
pub use delta::{DELTA_MAX_TRANSFER, DELTA_MIN_RECORD, DeltaEntry};
pub use descriptor::Descriptor;
pub use flags::{Flags, crc_flag, dualcast_flag};
pub use opcode::Opcode;
pub use status::Status;
