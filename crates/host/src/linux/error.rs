//! Making an [`AttachError`] of a failed call. The lowest file of this layer.

use std::io;

use sva_core::port::HostFailure;

use crate::error::AttachError;

impl AttachError {
    /// Makes the error of the call `call`, whose failure says nothing about the process.
    pub(crate) fn host(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host(HostFailure { call, source })
    }
}
