//! Transactions of one piece of work: each looks first whether the work is to stop, and says how
//! far it came.

use sva_core::port::DmaCause;
use sva_core::{Access, DmaError, Segment};

use crate::in_flight::Run;

/// Bytes in the smallest page: an access inside one is done or not done.
pub(crate) const PAGE: u64 = 4096;

/// Why work ends early.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The PASID is being unbound.
    Stopped,
    /// A transaction failed.
    Dma(DmaCause),
}

/// How far an access came.
#[must_use]
pub(crate) struct Part {
    /// Bytes done, counted over all pieces in order.
    pub(crate) done: usize,
    /// Why no more.
    pub(crate) halt: Option<Halt>,
}

impl Part {
    fn stopped() -> Self {
        Self { done: 0, halt: Some(Halt::Stopped) }
    }

    /// All or nothing, where a part is of no use.
    pub(crate) fn whole(self) -> Result<(), Halt> {
        self.halt.map_or(Ok(()), Err)
    }
}

/// The way to memory for one piece of work.
pub(crate) struct JobPort<'a> {
    run: &'a Run<'a>,
    read: Access,
    write: Access,
}

impl<'a> JobPort<'a> {
    /// Page faults are resolved.
    pub(crate) fn resolving(run: &'a Run<'a>) -> Self {
        Self { run, read: Access::READ, write: Access::WRITE }
    }

    /// Page faults are resolved, or end the access.
    pub(crate) fn new(run: &'a Run<'a>, resolve: bool) -> Self {
        let this = Self::resolving(run);
        if resolve {
            this
        } else {
            Self { read: this.read.present_only(), write: this.write.present_only(), ..this }
        }
    }

    pub(crate) fn read(&self, address: u64, buf: &mut [u8]) -> Part {
        let piece = [Segment { address, len: buf.len() as u64 }];
        self.gather(&piece, buf)
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Part {
        let piece = [Segment { address, len: data.len() as u64 }];
        self.scatter(&piece, data)
    }

    /// `buf` has as many bytes as the pieces together.
    pub(crate) fn gather(&self, pieces: &[Segment], buf: &mut [u8]) -> Part {
        if self.run.is_stopped() {
            return Part::stopped();
        }
        let outcome = self.run.port().gather(self.run.pasid(), pieces, buf, self.read);
        self.part(buf.len(), outcome)
    }

    /// `data` has as many bytes as the pieces together.
    pub(crate) fn scatter(&self, pieces: &[Segment], data: &[u8]) -> Part {
        if self.run.is_stopped() {
            return Part::stopped();
        }
        let outcome = self.run.port().scatter(self.run.pasid(), pieces, data, self.write);
        self.part(data.len(), outcome)
    }

    fn part(&self, len: usize, outcome: Result<(), DmaError>) -> Part {
        if self.run.is_unowned() {
            // Work for nobody issues one transaction, so that its fault is seen; should the number
            // get an owner meanwhile, the work is not that owner's.
            self.run.stop();
        }
        match outcome {
            Ok(()) if self.run.is_unowned() => Part { done: len, halt: Some(Halt::Stopped) },
            Ok(()) => Part { done: len, halt: None },
            // A count beyond the buffer would be the core's mistake; it must not become an index
            // out of bounds.
            Err(error) => Part {
                done: usize::try_from(error.done).map_or(len, |done| done.min(len)),
                halt: Some(Halt::Dma(error.cause)),
            },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use sva_core::{
        AddressSpace, Bdf, Bind, Capabilities, DeviceSpec, FaultReason, Iommu, IommuConfig, Pasid,
        PasidWidth,
    };
    use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection, RecordingSpace};

    use super::*;
    use crate::in_flight::InFlight;
    use crate::ports::Ports;

    // shows U5: the next owner of a number gets nothing of what was submitted before
    #[test]
    fn work_that_began_without_an_owner_issues_one_transaction() {
        let space = MemorySpace::new();
        space.map(PAGE, PAGE, Protection::READ_WRITE);
        let log = RecordingSpace::new(space.handle());
        let handle: Arc<dyn AddressSpace> = log.clone();
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let bdf = Bdf::new(0, 1, 0, 0).expect("a device number below 32");
        let width = PasidWidth::new(1).expect("1..=20");
        let device = iommu
            .plug(DeviceSpec { bdf, capabilities: Capabilities::sva(width) })
            .expect("the slot is free")
            .device;
        let in_flight = InFlight::new();
        let ports = Ports::new(device.port());
        let begin = || in_flight.begin(&ports, Pasid::new(1));
        let (early, late) = (begin(), begin());
        let read = |run: &Run<'_>| JobPort::resolving(run).read(PAGE, &mut [0; 8]);
        let Part { done: 0, halt: Some(Halt::Dma(DmaCause::Fault(fault))) } = read(&early) else {
            panic!("nobody is bound")
        };
        assert_eq!(fault.reason, FaultReason::NotBound);
        let bond = iommu.bind_device(&device, &handle, Bind::new(())).expect("a bond");
        assert_eq!(Some(bond.pasid()), Pasid::new(1));
        assert!(matches!(read(&early), Part { done: 0, halt: Some(Halt::Stopped) }));
        assert!(matches!(read(&late), Part { done: 8, halt: Some(Halt::Stopped) }));
        assert!(matches!(read(&late), Part { done: 0, halt: Some(Halt::Stopped) }));
        assert_eq!(log.take().len(), 1);
        assert!(read(&begin()).halt.is_none(), "work that begins now is the owner's");
    }
}
