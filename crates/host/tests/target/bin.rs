//! The process that the tests of `sva-host` attach to. On platforms without live processes it is
//! empty, as the tests are.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod program;

fn main() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    program::main();
}
