//! The system calls that figures are compared with, and those that make figures steady. They are
//! Linux's; elsewhere each one answers that it is not there.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(not(target_os = "linux"))]
pub use unsupported::*;
