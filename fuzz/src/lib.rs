//! What the targets do with the bytes that they are given: one function each.
//!
//! Nothing panics and everything ends. Beside that each says what has to hold of whatever was read.
#![forbid(unsafe_code)]

pub mod devices;
pub mod fabric;
pub mod machine;
pub mod messages;
