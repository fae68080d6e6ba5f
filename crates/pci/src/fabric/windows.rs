//! All addresses that a device's requests of one type cannot reach the IOMMU at: the rules of
//! `route`, for ranges instead of one address.
//!
//! Where a port stops all requests of the type, nothing further up catches any: the windows are
//! those that a request meets before.
//!
//! Decoders are added in the order in which a request meets them, each for what is left of its
//! range: the first one wins. A bridge's whole window is added after everything behind it, so the
//! bridge gets exactly what nobody behind it decodes.

use std::collections::BTreeMap;

use sva_core::topology::PeerWindow;
use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::fabric::route::AddressType;
use crate::fabric::spec::PortKind;
use crate::fabric::tree::{Child, Function, Parent, Tree};

/// The windows that catch requests of `from`, sorted and disjoint.
pub(crate) fn windows(tree: &Tree, from: &Function, address_type: AddressType) -> Vec<PeerWindow> {
    let mut caught = Caught::default();
    in_device(tree, from, address_type, &mut caught);
    let mut at = from.above;
    let mut redirect = true;
    let mut source = from.spec.bdf;
    loop {
        let port = match at {
            Parent::HostBridge(host) => {
                if tree.hosts[host].spec.p2p && !redirect {
                    caught.sideways(tree, at, source);
                }
                return caught.sorted();
            }
            Parent::Port(port) => &tree.ports[port],
        };
        source = port.spec.bdf;
        if address_type.stopped_by(port) {
            return caught.sorted();
        }
        let forwards_own = port.enables(AcsBits::UF);
        match port.spec.kind {
            PortKind::PciBridge => caught.fill(&port.windows, source, false),
            PortKind::Root | PortKind::Downstream if !forwards_own => {
                caught.fill(&port.windows, source, false)
            }
            PortKind::Upstream if port.spec.multifunction => {
                tree.slot(source).for_each(|beside| caught.claim(beside))
            }
            PortKind::Root | PortKind::Downstream | PortKind::Upstream => {}
        }
        redirect = port.faces_down() && address_type.redirected_by(port.acs);
        if let (PortKind::Downstream, Parent::Port(upstream), false) =
            (port.spec.kind, port.above, redirect)
        {
            caught.sideways(tree, port.above, source);
            let upstream = &tree.ports[upstream];
            if !port.enables(AcsBits::RR) {
                // What UF sends up past the switch is not dropped by it.
                caught.fill_except(&upstream.windows, &port.windows, upstream.spec.bdf);
            }
        }
        at = port.above;
    }
}

fn in_device(tree: &Tree, from: &Function, address_type: AddressType, caught: &mut Caught) {
    match from.above {
        Parent::Port(port) if tree.ports[port].spec.kind == PortKind::PciBridge => {
            match address_type {
                AddressType::Untranslated => caught.sideways(tree, from.above, from.spec.bdf),
                AddressType::Translated => {}
            }
        }
        _ if address_type.redirected_by(from.acs) => {}
        _ => {
            for sibling in
                tree.slot(from.spec.bdf).filter(|sibling| sibling.spec.bdf != from.spec.bdf)
            {
                caught.claim(sibling);
            }
            if let Some(upstream) = tree.beside(from.spec.bdf) {
                caught.down(tree, Child::Port(upstream));
            }
        }
    }
}

/// Disjoint windows by first address.
#[derive(Default)]
struct Caught(BTreeMap<u64, PeerWindow>);

impl Caught {
    fn sorted(self) -> Vec<PeerWindow> {
        self.0.into_values().collect()
    }

    /// Everything on `bus` but `source`.
    fn sideways(&mut self, tree: &Tree, bus: Parent, source: Bdf) {
        for child in tree.children(bus).iter().filter(|child| tree.bdf_below(**child) != source) {
            self.down(tree, *child);
        }
    }

    /// `child` and all behind it.
    fn down(&mut self, tree: &Tree, child: Child) {
        match child {
            Child::Function(function) => self.claim(&tree.functions[function]),
            Child::Port(port) => {
                let port = &tree.ports[port];
                port.children.iter().for_each(|child| self.down(tree, *child));
                self.fill(&port.windows, port.spec.bdf, false);
            }
        }
    }

    fn claim(&mut self, function: &Function) {
        for bar in &function.bars {
            self.fill(&[bar.range], function.spec.bdf, true);
        }
    }

    /// Gives `decoder` what is left of `ranges`.
    fn fill(&mut self, ranges: &[AddrRange], decoder: Bdf, claimed: bool) {
        for &range in ranges {
            for gap in self.gaps(range) {
                self.0.insert(gap.first(), PeerWindow { range: gap, decoder, claimed });
            }
        }
    }

    /// Gives `bridge` what is left of `ranges` outside `except`.
    fn fill_except(&mut self, ranges: &[AddrRange], except: &[AddrRange], bridge: Bdf) {
        let mut aside = Caught::default();
        aside.fill(except, bridge, false);
        for &range in ranges {
            for part in aside.gaps(range) {
                self.fill(&[part], bridge, false);
            }
        }
    }

    /// The parts of `range` that nobody has.
    fn gaps(&self, range: AddrRange) -> Vec<AddrRange> {
        let before = self.0.range(..range.first()).next_back().map(|(_, window)| window.range);
        let within = self.0.range(range.first()..=range.last()).map(|(_, window)| window.range);
        let mut gaps = Vec::new();
        // The first address that is not settled; `None` past the last one of all.
        let mut next = Some(range.first());
        for taken in before.into_iter().chain(within) {
            let Some(from) = next else { break };
            if taken.last() < from {
                continue;
            }
            if taken.first() > from {
                gaps.extend(AddrRange::inclusive(from, taken.first() - 1));
            }
            next = taken.last().checked_add(1);
        }
        gaps.extend(next.and_then(|from| AddrRange::inclusive(from, range.last())));
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_excludes_all_that_reaches_into_it() {
        let range = |first, last| AddrRange::inclusive(first, last).expect("a range in a test");
        let bdf = crate::fabric::tree::bus_zero(0, 0);
        let mut caught = Caught::default();
        caught.fill(&[range(0, 9), range(20, 29), range(u64::MAX - 1, u64::MAX)], bdf, true);
        assert_eq!(caught.gaps(range(5, 24)), [range(10, 19)]);
        assert_eq!(caught.gaps(range(10, 19)), [range(10, 19)]);
        assert_eq!(caught.gaps(range(2, 8)), []);
        assert_eq!(caught.gaps(range(15, u64::MAX)), [range(15, 19), range(30, u64::MAX - 2)]);
    }
}
