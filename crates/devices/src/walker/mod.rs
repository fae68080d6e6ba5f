//! The walker: follows the pointers of a bound process, as an accelerator for lists and graphs
//! would.
//!
//! What it reads is untrusted. A wild pointer, a cycle, or offsets that contradict each other end
//! the walk with an error that names the place. Memory and work are bounded by what the submitter
//! said and by [`WalkerConfig`], never by what the process says.
//!
//! Inside, from low to high: `engine`, then `list` and `graph`. The module uses `job`.

mod engine;
mod graph;
mod list;

pub use engine::{Walker, WalkerConfig};
pub use graph::{GraphSearch, IndexWidth, SearchError, SearchReport};
pub use list::{ListError, ListReport, ListWalk};
