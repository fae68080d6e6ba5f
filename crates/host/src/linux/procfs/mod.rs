//! What `/proc` says about tasks: status, the system call in progress, lists, mappings, pages.
//!
//! Layer: above `sys`, and uses nothing else of this crate but the public types of regions.
//!
//! Every answer is the state of one moment, which the process may have changed since.
//!
//! [`status()`], [`parent`], [`each_process`] and [`TaskDir::status`] do not allocate and do not
//! use `errno`: the tracer process calls them, where both are forbidden (see
//! [`VmProcess::start`](super::sys::clone::VmProcess::start)).

mod file;
mod list;
mod maps;
mod page;
mod stat;
mod status;
mod task;

pub(crate) use file::{is_gone, is_out_of_sight};
pub(crate) use list::{each_process, processes, threads};
pub(crate) use maps::{USER_END, mappings, mappings_with_flags};
pub(crate) use page::{PAGE, mapped_within, mapping_at, present_bytes, present_part};
pub(crate) use stat::{code_pages, command, parent, start_time};
pub(crate) use status::{Status, status};
pub(crate) use task::{SyscallState, TaskDir};
