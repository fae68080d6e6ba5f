//! A device that requests pages over a link that the test works by hand, and nobody who sorts and
//! resolves but the test.

use std::sync::Arc;
use std::thread::JoinHandle;

use sva_core::event::ObjectCounts;
use sva_core::link::{ToDevice, ToIommu};
use sva_core::pri::{GroupOutcome, PageRequest, PageResponse, PrgIndex, StopMarker};
use sva_core::pri::{PageRequestGroup, PageRequestHandler, ResponseCode};
use sva_core::{
    Access, AtsPort, Bond, Capabilities, Device, DeviceSpec, Fault, FaultReason, Iommu,
    IommuConfig, Pasid, PasidWidth, Plug, Removal,
};
use sva_sync::Mutex;
use sva_testkit::{MemorySpace, PAGE};

use crate::manual_link::*;
use crate::support::*;

/// Page requests that a device may have outstanding.
pub(crate) const CREDIT: u32 = 8;

pub(crate) const SUCCESS: Option<GroupOutcome> =
    Some(GroupOutcome::Response(ResponseCode::Success));
pub(crate) const INVALID: Option<GroupOutcome> =
    Some(GroupOutcome::Response(ResponseCode::InvalidRequest));
pub(crate) const FAILURE: Option<GroupOutcome> =
    Some(GroupOutcome::Response(ResponseCode::ResponseFailure));

/// What all devices here can do: everything, with [`CREDIT`].
pub(crate) fn requesting() -> Capabilities {
    Capabilities { pasid: everything().pasid, ..Capabilities::translating(PasidWidth::MAX, CREDIT) }
}

/// The address of a page of a test space.
pub(crate) fn page(number: u64) -> u64 {
    BASE + number * PAGE
}

/// A device that requests pages.
pub(crate) struct PageRequester {
    pub(crate) device: Device,
    pub(crate) port: AtsPort,
    pub(crate) link: Arc<ManualLink>,
    /// Any message of it, to be changed.
    wire: Packet,
}

impl World {
    /// Plugs a device in, with ATS and page requests on. Its link holds nothing yet.
    pub(crate) fn requester(&self, number: u8, capabilities: Capabilities) -> PageRequester {
        let link = ManualLink::new(no_message);
        let plug = Plug::new(DeviceSpec { bdf: bdf(number), capabilities }).link(link.clone());
        let device = self.iommu.plug(plug).expect("the address is free").device;
        device.enable_ats().expect("it has ATS");
        device.enable_pri().expect("and page requests");
        let port = device.ats_port();
        link.hold(page_messages);
        port.send_stop_marker(Pasid::new(1).expect("small"));
        let wire = link.take(page_messages);
        link.hold(no_message);
        PageRequester { device, port, link, wire }
    }

    /// Sorts all that is in the queue. Answers how many steps that took.
    pub(crate) fn sort(&self) -> usize {
        std::iter::repeat_with(|| self.iommu.sort_page_request()).take_while(|done| *done).count()
    }

    /// Sorts all, and resolves one group after the other until none is left. Answers how many
    /// groups that were.
    pub(crate) fn resolve(&self) -> usize {
        self.sort();
        std::iter::from_fn(|| self.iommu.next_page_request_job().map(|work| work.run())).count()
    }

    /// Page requests that are not in a complete group, and groups that are not answered.
    pub(crate) fn pages_under_way(&self) -> (usize, usize) {
        let counts = self.iommu.object_counts();
        (counts.page_requests, counts.page_groups)
    }

    /// Why page requests were refused, by the log.
    pub(crate) fn reasons(&self) -> Vec<FaultReason> {
        let faults = self.events().into_iter().filter_map(|event| match event {
            sva_core::Event::Fault(Fault { reason, .. }) => Some(reason),
            _ => None,
        });
        faults.collect()
    }

    /// Removes these devices, and looks that nothing is left.
    pub(crate) fn take_down(&self, requesters: &[&PageRequester]) {
        for requester in requesters {
            requester.link.hold(no_message);
            requester.link.lose_all(any_message);
            self.iommu.remove(&requester.device, Removal::Orderly).expect("plugged");
        }
        assert_eq!(self.iommu.object_counts(), ObjectCounts::default());
    }
}

impl PageRequester {
    /// Requests pages to read, as one whole group.
    pub(crate) fn request(&self, pasid: Option<Pasid>, addresses: &[u64]) -> PrgIndex {
        let (last, before) = addresses.split_last().expect("a group has a request");
        let group = self.request_part(pasid, before);
        self.finish(group, *last);
        group
    }

    /// Requests pages to read, with more to follow.
    pub(crate) fn request_part(&self, pasid: Option<Pasid>, addresses: &[u64]) -> PrgIndex {
        let group = self.port.open_group(pasid).expect("an index is free");
        for address in addresses {
            self.port.request_page(group, *address, Access::READ, false).expect("there is credit");
        }
        group
    }

    /// Requests the last page of a group.
    pub(crate) fn finish(&self, group: PrgIndex, address: u64) {
        self.port.request_page(group, address, Access::READ, true).expect("there is credit");
    }

    /// Requests one page with this kind of access.
    pub(crate) fn request_as(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> PrgIndex {
        let group = self.port.open_group(pasid).expect("an index is free");
        self.port.request_page(group, address, access, true).expect("there is credit");
        group
    }

    /// A page request arrives that the device's own interface has not sent.
    pub(crate) fn send(&self, pasid: Option<Pasid>, index: u16, address: u64, last: bool) {
        let index = PrgIndex::new(index).expect("0..=511");
        let request = PageRequest {
            pasid,
            address,
            read: true,
            write: false,
            execute: false,
            privileged: false,
            index,
            last,
        };
        self.wire.clone().changed(Message::Up(ToIommu::Page(request))).deliver();
    }

    /// A stop marker arrives that the device's own interface has not sent.
    pub(crate) fn send_stop(&self, pasid: Pasid) {
        self.wire.clone().changed(Message::Up(ToIommu::Stop(StopMarker { pasid }))).deliver();
    }

    /// What came of a group, once.
    pub(crate) fn outcome(&self, group: PrgIndex) -> Option<GroupOutcome> {
        self.port.outcome(group)
    }
}

/// A space whose resolver stands still until it is let go.
pub(crate) struct Slow {
    /// The resolver is in it.
    pub(crate) inside: Arc<Signal>,
    go: Arc<Signal>,
}

impl Slow {
    /// From now on every page of `space` that is brought in waits.
    pub(crate) fn new(space: &MemorySpace) -> Self {
        let (inside, go) = (Signal::new(), Signal::new());
        let (entered, leave) = (inside.clone(), go.clone());
        space.on_resolve(move |_| {
            entered.raise();
            leave.wait();
            true
        });
        Self { inside, go }
    }

    /// Sorts, has a thread resolve the next group, and waits until it brings its first page in.
    pub(crate) fn begin(&self, world: &World) -> JoinHandle<()> {
        world.sort();
        let resolving = resolve_aside(&world.iommu);
        self.inside.wait();
        resolving
    }

    pub(crate) fn let_go(&self) {
        self.go.raise();
    }
}

impl Drop for Slow {
    /// A test that fails must not leave others waiting.
    fn drop(&mut self) {
        self.go.raise();
    }
}

/// Takes the next group and resolves it on a thread of its own.
pub(crate) fn resolve_aside(iommu: &Iommu) -> JoinHandle<()> {
    let work = iommu.next_page_request_job().expect("a group waits");
    std::thread::spawn(move || work.run())
}

/// The pages that a space is asked to bring in, in their order.
pub(crate) fn note_resolved(space: &MemorySpace) -> Noted<u64> {
    let noted: Noted<u64> = Arc::new(Mutex::new(Vec::new()));
    let notes = noted.clone();
    space.on_resolve(move |address| {
        notes.lock().push(address);
        true
    });
    noted
}

/// A world with one requester that is bound to one space whose pages are all absent.
pub(crate) struct Setting {
    pub(crate) world: World,
    pub(crate) requester: PageRequester,
    pub(crate) space: MemorySpace,
    pub(crate) bond: Bond<()>,
}

impl Setting {
    pub(crate) fn new() -> Self {
        Self::with(IommuConfig::default())
    }

    pub(crate) fn with(config: IommuConfig) -> Self {
        let world = World::with(config);
        let requester = world.requester(1, requesting());
        let space = absent();
        let bond = world.bind(&requester.device, &space);
        Self { world, requester, space, bond }
    }
}

/// A space whose pages are all absent.
pub(crate) fn absent() -> MemorySpace {
    let space = space();
    space.absent(BASE, PAGES * PAGE);
    space
}

/// What a message says, which is a response.
pub(crate) fn response(message: Message) -> PageResponse {
    match message {
        Message::Down(ToDevice::Response(response)) => response,
        other => panic!("no response but {other:?}"),
    }
}

/// A handler that collects what it gets.
pub(crate) fn collecting() -> (Noted<PageRequestGroup>, Arc<dyn PageRequestHandler>) {
    let groups: Noted<PageRequestGroup> = Arc::new(Mutex::new(Vec::new()));
    let slot = groups.clone();
    (groups, Arc::new(move |group| slot.lock().push(group)))
}
