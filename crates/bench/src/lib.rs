//! What every benchmark of sva needs: rows beside their baselines, and threads that stay where they
//! are.
#![forbid(unsafe_code)]

pub mod counted;
pub mod processor;
pub mod row;
pub mod system;
