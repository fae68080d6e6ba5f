//! Jobs of a device model of one's own.

use std::sync::Arc;

use sva_core::port::DmaCause;
use sva_core::{
    AddressSpace, AtsPort, Bdf, Bind, Capabilities, DeviceSpec, FaultReason, Features, Iommu,
    IommuConfig, Pasid, PasidWidth, Plug,
};
use sva_devices::{Job, JobTracker, PortPool, TransferCause, TransferError};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection, RecordingSpace};

use crate::rig::{BASE, Rig};

fn read(job: &Job<'_>) -> Result<(), TransferError> {
    job.read(BASE, &mut [0; 8])
}

// shows U5: the next owner of a number gets nothing of what was submitted before
#[test]
fn work_that_began_without_an_owner_issues_one_transaction() {
    let mut rig = Rig::new(1);
    let (ports, pasid) = (PortPool::new(rig.device.port()), rig.pasid);
    drop(rig.bond.take());
    let begin = || rig.jobs.begin(&ports, pasid);
    let (early, late) = (begin(), begin());
    let TransferError { done: 0, cause: TransferCause::Dma(DmaCause::Fault(fault)) } =
        read(&early).expect_err("nobody is bound")
    else {
        panic!("not a fault")
    };
    assert_eq!(fault.reason, FaultReason::NotBound);
    let next: Arc<dyn AddressSpace> = rig.log.clone();
    let bond = rig.iommu.bind_device(&rig.device, &next, Bind::new(())).expect("a bond");
    assert_eq!(Some(bond.pasid()), pasid, "the device has one PASID bit");
    let stopped = |job: &Job<'_>| {
        let TransferError { done, cause: TransferCause::Stopped } = read(job).expect_err("stopped")
        else {
            panic!("not stopped")
        };
        done
    };
    assert_eq!([stopped(&early), stopped(&late), stopped(&late)], [0, 8, 0]);
    assert_eq!(rig.log.take().len(), 1);
    read(&begin()).expect("a job that begins now is the owner's");
}

// shows U1, U5, U6
#[test]
fn a_job_is_stopped_by_the_unbind_of_its_owner_and_reaches_no_later_one() {
    let mut rig = Rig::new(1);
    let (ports, pasid) = (PortPool::new(rig.device.port()), rig.pasid);
    let first = rig.jobs.begin(&ports, pasid);
    // The device of this tracker was told nothing: the port alone keeps the job off.
    let untold = JobTracker::new();
    let unstopped = untold.begin(&ports, pasid);
    read(&first).and_then(|()| read(&unstopped)).expect("bound");
    drop(rig.bond.take());
    assert!(first.is_stopped() && !unstopped.is_stopped());
    let other = MemorySpace::new();
    other.map(BASE, PAGE, Protection::READ_WRITE);
    let log = RecordingSpace::new(other.handle());
    let handle: Arc<dyn AddressSpace> = log.clone();
    let bond = rig.iommu.bind_device(&rig.device, &handle, Bind::new(())).expect("a bond");
    assert_eq!(Some(bond.pasid()), pasid, "the device has one PASID bit");
    let second = rig.jobs.begin(&ports, pasid);
    assert_ne!(first.owner(), second.owner());
    assert!(matches!(read(&first).map_err(|error| error.cause), Err(TransferCause::Stopped)));
    assert!(matches!(read(&unstopped).map_err(|error| error.cause), Err(TransferCause::Dma(_))));
    assert!(log.take().is_empty(), "the next owner of the PASID was reached");
    read(&second).expect("bound");
    assert_eq!((log.take().len(), rig.jobs.count()), (1, 2));
    drop((first, second));
    assert_eq!(rig.jobs.count(), 0);
}

// shows T5
#[test]
fn the_transfers_of_a_job_report_what_was_done() {
    let rig = Rig::new(1);
    let ports = PortPool::new(rig.device.port());
    let job = rig.jobs.begin(&ports, rig.pasid);
    job.write_obj(BASE + 8, 0x0102_0304_0506_0708_u64.to_le_bytes()).expect("mapped");
    assert_eq!(job.read_obj::<[u8; 8]>(BASE + 8).expect("mapped")[0], 8);
    let end = BASE + PAGE;
    assert_eq!(job.write(end - 5, &[9; 16]).expect_err("the memory ends").done, 5);
    assert_eq!(rig.space.peek(end - 5, 5), [9; 5]);
    let mut buf = [0; 16];
    assert_eq!(job.read(end - 5, &mut buf).expect_err("the memory ends").done, 5);
    assert_eq!(buf, [9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let unbound = rig.jobs.begin(&ports, Pasid::new(Pasid::LAST));
    assert_eq!(unbound.owner(), None);
    assert_eq!(job.owner().map(|owner| owner.pasid), rig.pasid);
}

// shows U1, U5, U6: of a device that translates for itself
#[test]
fn a_job_over_an_ats_port_is_stopped_as_well_and_reaches_no_later_owner() {
    let space = MemorySpace::new();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
    let bdf = Bdf::new(0, 2, 0, 0).expect("a device number below 32");
    let width = PasidWidth::new(1).expect("1..=20");
    let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(width, 8) };
    let jobs = JobTracker::new();
    let device = iommu.plug(Plug::new(spec).model(jobs.clone())).expect("the slot is free").device;
    device.enable_ats().expect("it has the capability");
    let bind = |space: &MemorySpace| {
        iommu
            .bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))
            .expect("a bond")
    };
    let bond = bind(&space);
    let (ports, pasid) = (PortPool::new(device.ats_port()), Some(bond.pasid()));
    let untold = JobTracker::new();
    let (first, unstopped) = (jobs.begin(&ports, pasid), untold.begin(&ports, pasid));
    first.write(BASE, &[1; 8]).and_then(|()| unstopped.write(BASE, &[2; 8])).expect("bound");
    drop(bond);
    let other = MemorySpace::new();
    other.map(BASE, PAGE, Protection::READ_WRITE);
    let bond = bind(&other);
    assert_eq!(Some(bond.pasid()), pasid, "the device has one PASID bit");
    let cause = |job: &Job<'_, AtsPort>| job.write(BASE, &[3; 8]).expect_err("unbound").cause;
    assert!(matches!(cause(&first), TransferCause::Stopped));
    assert!(matches!(cause(&unstopped), TransferCause::Dma(_)));
    assert_eq!((space.peek(BASE, 8), other.peek(BASE, 8)), (vec![2; 8], vec![0; 8]));
    jobs.begin(&ports, pasid).write(BASE, &[4; 8]).expect("bound");
    assert_eq!(other.peek(BASE, 8), [4; 8]);
}
