//! Defects that others shipped and that no test of a rule shows as they were (docs/regressions.md).

use std::sync::Arc;

use sva_core::space::WatchToken;
use sva_core::{AddressSpace, Bind, Bond, FaultReason, Removal, UnbindReport};
use sva_testkit::{Forwarding, ForwardingSpace};

use crate::support::*;

type Hook = Box<dyn FnOnce() + Send>;

/// A space that does something of the test's, once, when a watch of it is taken back: which the
/// core does when the PASID is free and the unbind has not returned.
struct OnUnwatch {
    space: Arc<dyn AddressSpace>,
    hook: Later<Hook>,
}

impl ForwardingSpace for OnUnwatch {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.space
    }

    fn unwatch(&self, token: WatchToken) {
        self.space.unwatch(token);
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
    }
}

// shows U5, U2; regression 2: what comes after the release of the number is no business of the
// unbind's.
#[test]
fn an_unbind_leaves_alone_who_got_its_pasid_before_it_returned() {
    watched(|| {
        let world = World::new();
        let device = world.plug_as(1, capable(1)).device;
        let (first, next) = (space(), space());
        let (hook, owner): (Later<Hook>, Later<Bond<()>>) = (later(), later());
        let watched = Arc::new(Forwarding(OnUnwatch { space: first.handle(), hook: hook.clone() }));
        let bond = world.iommu.bind_device(&device, &watched, Bind::new(())).expect("free");
        let pasid = bond.pasid();
        let (iommu, bound, target, slot) =
            (world.iommu.clone(), device.clone(), next.handle(), owner.clone());
        *hook.lock() = Some(Box::new(move || {
            let bond =
                iommu.bind_device(&bound, &target, Bind::new(())).expect("the one number is free");
            *slot.lock() = Some(bond);
        }));
        assert_eq!(bond.unbind(), UnbindReport::default());
        let owner = owner.lock().take().expect("bound while the unbind was under way");
        assert_eq!((owner.pasid(), device.port().owner_of(pasid)), (pasid, Some(owner.tag())));
        assert_eq!(refused(&device.port(), pasid), None);
        assert_eq!((world.iommu.object_counts().bonds, world.iommu.object_counts().pasids), (1, 1));
    });
}

// shows U9, G5; regression 21: the state to fall back to is the group's own and cannot fail.
#[test]
fn a_group_whose_container_is_gone_reaches_what_is_its_own_and_nothing_else() {
    let world = World::new();
    let (shared, own) = (space(), space());
    let (leaver, gone) = (world.plug(1), world.plug(2));
    let container = world.container(&[leaver.group(), gone.group()]);
    container.map(&mapping(0x10000, 1, &shared, BASE)).expect("free");
    let blocked = |device: &sva_core::Device, iova| {
        reason(device.port().write(None, iova, &[1])) == Some(FaultReason::NoDomainMapping)
    };
    container.remove(leaver.group()).expect("in it");
    assert!(blocked(&leaver, 0x10000), "it has left, and the container lives on");
    world.iommu.remove(&gone, Removal::Surprise).expect("plugged");
    drop(container);
    let back = world.plug(2);
    assert!(blocked(&leaver, 0x10000) && blocked(&back, 0x10000));
    for device in [&leaver, &back] {
        let iova = 0x10000 * u64::from(device.bdf().device());
        world
            .iommu
            .map(device.group(), &mapping(iova, 1, &own, BASE))
            .expect("its own domain is empty");
        device.port().write(None, iova, b"own").expect("mapped");
    }
    assert!(blocked(&leaver, 0x20000) && blocked(&back, 0x10000), "not the other's");
    assert_eq!((shared.peek(BASE, 3), own.peek(BASE, 3)), (vec![0; 3], b"own".to_vec()));
}
