//! The stand-in for the provider of live processes on other platforms than x86-64 Linux. Every
//! entry point returns [`UnsupportedPlatform`], and no [`HostSpace`] can exist.

use std::convert::Infallible;
use std::env::consts;
use std::sync::Arc;
use std::time::Duration;

use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Segment, SpaceCapabilities, SpaceId, SpaceWatcher,
    StopCause, Stopped,
};

use crate::error::{AttachError, RegionsError, UnsupportedPlatform};
use crate::region::Region;

const UNSUPPORTED: UnsupportedPlatform = UnsupportedPlatform { os: consts::OS, arch: consts::ARCH };

/// See [`attach`](crate::attach).
pub(crate) fn attach(_pid: u32) -> Result<Arc<HostSpace>, AttachError> {
    Err(UNSUPPORTED.into())
}

/// See [`regions`](crate::regions).
pub(crate) fn regions(_pid: u32) -> Result<Vec<Region>, RegionsError> {
    Err(UNSUPPORTED.into())
}

/// The address space of a live process, which exists on x86-64 Linux only.
///
/// On this platform [`attach`](crate::attach) returns an error, and there are no values of this
/// type.
#[derive(Debug)]
pub struct HostSpace(Infallible);

impl HostSpace {
    /// For how long a thread of the process was stopped to attach it.
    pub fn stop_time(&self) -> Duration {
        match self.0 {}
    }

    /// The mappings of the space at the moment, sorted by address.
    ///
    /// # Errors
    /// The space has ended, or `/proc` could not be read.
    pub fn regions(&self) -> Result<Vec<Region>, RegionsError> {
        match self.0 {}
    }
}

impl AddressSpace for HostSpace {
    fn id(&self) -> SpaceId {
        match self.0 {}
    }

    fn capabilities(&self) -> SpaceCapabilities {
        match self.0 {}
    }

    fn ended(&self) -> Option<EndReason> {
        match self.0 {}
    }

    fn watch(&self, _watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        match self.0 {}
    }

    fn unwatch(&self, _token: WatchToken) {
        match self.0 {}
    }

    fn read(&self, _pieces: &[Segment], _buf: &mut [u8], _access: Access) -> Result<(), Stopped> {
        match self.0 {}
    }

    fn write(&self, _pieces: &[Segment], _data: &[u8], _access: Access) -> Result<(), Stopped> {
        match self.0 {}
    }

    fn translate(&self, _address: u64, _privileged: bool) -> Result<Translation, StopCause> {
        match self.0 {}
    }

    fn resolve(&self, _address: u64, _access: Access) -> Result<(), StopCause> {
        match self.0 {}
    }

    fn mapped_within(&self, _windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::{AttachError, RegionsError, UNSUPPORTED, attach, regions};

    #[test]
    fn other_platforms_answer_that_live_processes_are_x86_64_linux_only() {
        assert!(matches!(attach(1), Err(AttachError::Unsupported(error)) if error == UNSUPPORTED));
        assert!(matches!(regions(1), Err(RegionsError::Unsupported(_))));
        let text = attach(1).unwrap_err().to_string();
        assert!(text.starts_with("live processes can be used on x86-64 Linux only"), "{text}");
        assert!(text.contains(std::env::consts::ARCH), "{text}");
    }
}
