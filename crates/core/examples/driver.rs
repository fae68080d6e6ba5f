//! A driver of the API: it plugs two devices in, shares an address space with both, changes the
//! space under them, and takes everything down again.
//!
//! ```sh
//! cargo run -p sva-core --example driver
//! ```
//!
//! The bus and the address space are those of the test kit. A program that attaches live processes
//! takes its spaces from `sva-host` and its bus from `sva-pci` instead; the calls are the same. The
//! program exits with an error where a result is not the expected one.

#![expect(clippy::disallowed_types, reason = "a program outside of the project has std's atomics")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sva_core::error::BindError;
use sva_core::topology::SharedBecause;
use sva_core::{
    Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, DmaError, EndReason, FaultReason, Features,
    Iommu, IommuConfig, Pasid, PasidWidth,
};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The first address of the buffer that the devices work on.
const BUFFER: u64 = 0x7f00_0000_0000;

fn main() -> Outcome {
    // A bus on which two functions of one card cannot be isolated from each other.
    let (nic, accelerator) = (bdf(1, 0)?, bdf(2, 0)?);
    let sibling = bdf(2, 1)?;
    let bus = FlatTopology::new();
    bus.share(&[accelerator, sibling], SharedBecause::Multifunction { slot: accelerator });
    let iommu = Iommu::new(Arc::new(bus), IommuConfig::default().event_capacity(64));
    let nic = plug(&iommu, nic)?;
    let accelerator = plug(&iommu, accelerator)?;

    let space = MemorySpace::new();
    space.map(BUFFER, 4 * PAGE, Protection::READ_WRITE);
    let exits = Arc::new(AtomicUsize::new(0));
    let first = bind(&iommu, &nic, &space, "network", &exits)?;
    let second = bind(&iommu, &accelerator, &space, "accelerator", &exits)?;
    expect("both devices use one PASID", first.pasid() == second.pasid())?;

    transfer(&nic, &accelerator, first.pasid())?;
    unmap(&iommu, &space, &accelerator, first.pasid())?;
    refuse_to_isolate(&iommu, second, &accelerator, sibling, &space)?;
    end(&space, &nic, first, &exits)?;

    drop((nic, accelerator));
    let counts = iommu.object_counts();
    expect("no bond and no PASID is left", (counts.bonds, counts.pasids) == (0, 0))
}

fn bdf(bus: u8, function: u8) -> Outcome<Bdf> {
    Bdf::new(0, bus, 0, function).ok_or_else(|| "the function is above 7".into())
}

fn plug(iommu: &Iommu, bdf: Bdf) -> Outcome<Device> {
    let capabilities = Capabilities::sva(PasidWidth::MAX);
    let device = iommu.plug(DeviceSpec { bdf, capabilities })?.device;
    println!("plugged {bdf}, {}", device.group());
    Ok(device)
}

/// Binds `device` to `space`. The handler runs when the space ends before the unbind.
fn bind(
    iommu: &Iommu,
    device: &Device,
    space: &MemorySpace,
    name: &'static str,
    exits: &Arc<AtomicUsize>,
) -> Outcome<Bond<&'static str>> {
    let exits = Arc::clone(exits);
    let terms = Bind::new(name).features(Features::default()).on_exit(move |end, name| {
        println!("exit handler of {name}: PASID {}: {}", end.pasid, end.reason);
        exits.fetch_add(1, Ordering::Relaxed);
    });
    let bond = iommu.bind_device(device, &space.handle(), terms)?;
    println!("bound {} to {} with PASID {}", device.bdf(), bond.space(), bond.pasid());
    Ok(bond)
}

/// One device writes at an address of the space, and the other one reads there.
fn transfer(from: &Device, to: &Device, pasid: Pasid) -> Outcome {
    let text = b"by the space's own pointers";
    from.port().write(Some(pasid), BUFFER, text)?;
    let mut read = vec![0; text.len()];
    to.port().read(Some(pasid), BUFFER, &mut read)?;
    println!("{} reads: {}", to.bdf(), String::from_utf8_lossy(&read));
    expect("the bytes are those that were written", read == text)
}

/// Takes the second page away. A read over its beginning stops at the exact byte, and the fault is
/// an event.
fn unmap(iommu: &Iommu, space: &MemorySpace, device: &Device, pasid: Pasid) -> Outcome {
    space.unmap(BUFFER + PAGE, PAGE);
    let read = device.port().read(Some(pasid), BUFFER + PAGE - 8, &mut [0; 64]);
    let error = read.err().ok_or("the read went through an unmapped page")?;
    println!("after the unmap: {error}");
    expect("8 bytes were read before the fault", error.done == 8)?;
    expect("the reason is the unmap", reason(&error) == Some(FaultReason::NotMapped))?;
    let events = iommu.drain_events().events;
    events.iter().for_each(|event| println!("event: {event}"));
    expect("the fault was logged once", events.len() == 1)
}

/// Unbinds, plugs the other function of the card in, and tries to bind again: a device that is not
/// isolated from another one cannot be bound alone.
fn refuse_to_isolate(
    iommu: &Iommu,
    bond: Bond<&'static str>,
    device: &Device,
    sibling: Bdf,
    space: &MemorySpace,
) -> Outcome {
    let pasid = bond.pasid();
    let report = bond.unbind();
    expect("the exit handler of an unbind does not run", !report.handler_ran)?;
    let late =
        device.port().write(Some(pasid), BUFFER, &[1]).err().ok_or("written after unbind")?;
    println!("after the unbind: {late}");
    expect("the PASID is not bound", reason(&late) == Some(FaultReason::NotBound))?;

    let _sibling = plug(iommu, sibling)?;
    match iommu.bind_device(device, &space.handle(), Bind::new("alone")) {
        Err(refusal @ BindError::NotSingleton { .. }) => println!("refused: {refusal}"),
        Err(other) => return Err(other.into()),
        Ok(_) => return Err("a device was bound that is not isolated".into()),
    }
    let group = iommu.bind_group(device.group(), &space.handle(), Bind::new("both"))?;
    expect("the group has two members", group.members().len() == 2)?;
    group.unbind();
    Ok(())
}

/// Ends the space under a bound device. No access gets through from then on, and the handler of
/// the bond has run once.
fn end(
    space: &MemorySpace,
    device: &Device,
    bond: Bond<&'static str>,
    exits: &AtomicUsize,
) -> Outcome {
    space.end(EndReason::Exited);
    let error = device.port().write(Some(bond.pasid()), BUFFER, &[1]).err();
    let error = error.ok_or("a write reached a space that has ended")?;
    println!("after the end: {error}");
    expect("the reason is the end", reason(&error) == Some(FaultReason::SpaceEnded))?;
    expect("the exit handler ran once", exits.load(Ordering::Relaxed) == 1)?;
    let report = bond.unbind();
    expect("the unbind says so", report.space_ended && report.handler_ran)
}

fn reason(error: &DmaError) -> Option<FaultReason> {
    error.fault().map(|fault| fault.reason)
}

fn expect(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(format!("wrong: {what}").into()) }
}
