//! The adapters for virtual machine monitors, with vm-memory's and virtio-queue's own types.

mod marks;
mod models;
mod reference;
mod running;
mod space;
mod support;
