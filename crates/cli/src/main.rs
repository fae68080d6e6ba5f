//! The command sva.
fn main() {}
