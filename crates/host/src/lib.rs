//! A live Linux process as an address space for software devices.
