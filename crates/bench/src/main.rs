//! Benchmarks of sva beside their baselines.
fn main() {}
