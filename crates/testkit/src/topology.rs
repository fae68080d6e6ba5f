//! A bus by script: every device alone in its group, with nothing in its way, unless the test says
//! otherwise.

use std::collections::{BTreeMap, BTreeSet};

use sva_core::Topology;
use sva_core::topology::RequesterId;
use sva_core::topology::{
    ChangeCounter, GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause,
};
use sva_core::{Access, AddrRange, Bdf};

// The script is the test's own data and never waits: a lock from the shim would only add states to
// every model.
#[expect(clippy::disallowed_types, reason = "not part of what is modelled")]
type Lock<T> = std::sync::RwLock<T>;

/// A transaction that a peer's window caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAccess {
    /// Who issued it.
    pub from: Bdf,
    /// Who decoded it.
    pub decoder: Bdf,
    /// What it wanted.
    pub access: Access,
    /// First address.
    pub address: u64,
    /// The bytes written, or those that were read.
    pub bytes: Vec<u8>,
}

/// A topology that answers what it was told. Methods that change it may be called at any time; each
/// is a new [`change`](Topology::changes) of the bus, so that the core asks again.
#[derive(Default)]
pub struct FlatTopology {
    script: Lock<Script>,
    changes: ChangeCounter,
}

#[derive(Default)]
struct Script {
    policy: PathPolicy,
    groups: BTreeMap<Bdf, (GroupKey, SharedBecause)>,
    aliases: BTreeMap<Bdf, RequesterId>,
    defects: BTreeMap<Bdf, PathDefect>,
    windows: BTreeMap<Bdf, Vec<PeerWindow>>,
    translated_windows: BTreeMap<Bdf, Vec<PeerWindow>>,
    translation_blocker: BTreeMap<Bdf, Bdf>,
    reserved: BTreeMap<Bdf, Vec<AddrRange>>,
    aborting: BTreeSet<Bdf>,
    peer_memory: BTreeMap<(Bdf, u64), u8>,
    caught: Vec<PeerAccess>,
}

impl FlatTopology {
    /// Every device isolated, no windows, no reserved ranges, strict policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what binds demand of the path.
    pub fn policy(&self, policy: PathPolicy) -> &Self {
        self.change(|script| script.policy = policy)
    }

    /// Puts `members` in one group, which the first of them stands for, whether they are plugged in
    /// yet or not.
    ///
    /// # Panics
    /// There is no member.
    pub fn share(&self, members: &[Bdf], because: SharedBecause) -> &Self {
        let key = GroupKey(*members.first().expect("a group has a member"));
        self.change(|script| {
            script.groups.extend(members.iter().map(|member| (*member, (key, because))))
        })
    }

    /// Has `device` issue its transactions as `requester`. Devices with one requester ID also share
    /// a group.
    ///
    /// The group is [`share`](Self::share)'s business, so that a test can also build what no bus
    /// would.
    pub fn alias(&self, device: Bdf, requester: RequesterId) -> &Self {
        self.change(|script| script.aliases.insert(device, requester))
    }

    /// Says what the path from `device` lacks, or that it lacks nothing.
    pub fn defect(&self, device: Bdf, defect: Option<PathDefect>) -> &Self {
        self.change(|script| match defect {
            Some(defect) => script.defects.insert(device, defect),
            None => script.defects.remove(&device),
        })
    }

    /// Sets the windows that catch `device`'s transactions.
    ///
    /// # Panics
    /// Two of them overlap.
    pub fn windows(&self, device: Bdf, windows: &[PeerWindow]) -> &Self {
        let windows = sorted(device, windows);
        self.change(|script| script.windows.insert(device, windows))
    }

    /// Sets the windows that catch `device`'s translated requests; `None`: those of
    /// [`windows`](Self::windows), whatever they are then.
    ///
    /// # Panics
    /// Two of them overlap.
    pub fn translated_windows(&self, device: Bdf, windows: Option<&[PeerWindow]>) -> &Self {
        let windows = windows.map(|windows| sorted(device, windows));
        self.change(|script| match windows {
            Some(windows) => script.translated_windows.insert(device, windows),
            None => script.translated_windows.remove(&device),
        })
    }

    /// Has `port` stop `device`'s translated requests, or nobody.
    pub fn block_translation(&self, device: Bdf, port: Option<Bdf>) -> &Self {
        self.change(|script| match port {
            Some(port) => script.translation_blocker.insert(device, port),
            None => script.translation_blocker.remove(&device),
        })
    }

    /// Sets the ranges that no domain of `device` may map.
    pub fn reserve(&self, device: Bdf, ranges: &[AddrRange]) -> &Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        self.change(|script| script.reserved.insert(device, ranges))
    }

    /// Has `decoder` abort everything that its windows catch.
    pub fn abort(&self, decoder: Bdf) -> &Self {
        self.change(|script| script.aborting.insert(decoder))
    }

    /// Takes the record of what windows caught so far, aborted or not.
    pub fn caught(&self) -> Vec<PeerAccess> {
        std::mem::take(&mut self.locked().caught)
    }

    fn locked(&self) -> std::sync::RwLockWriteGuard<'_, Script> {
        self.script.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change<Old>(&self, change: impl FnOnce(&mut Script) -> Old) -> &Self {
        let mut script = self.locked();
        change(&mut script);
        // Under the lock and after the change: whoever sees the new number waits for the new
        // answers.
        self.changes.increment();
        drop(script);
        self
    }

    fn ask<T>(&self, answer: impl FnOnce(&Script) -> T) -> T {
        answer(&self.script.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// `windows` in order.
fn sorted(device: Bdf, windows: &[PeerWindow]) -> Vec<PeerWindow> {
    let mut windows = windows.to_vec();
    windows.sort_by_key(|window| window.range);
    assert!(
        windows.is_sorted_by(|a, b| a.range.last() < b.range.first()),
        "windows of {device} overlap"
    );
    windows
}

impl Topology for FlatTopology {
    fn changes(&self) -> &ChangeCounter {
        &self.changes
    }

    fn policy(&self) -> PathPolicy {
        self.ask(|script| script.policy)
    }

    fn requester(&self, device: Bdf) -> RequesterId {
        self.ask(|script| script.aliases.get(&device).copied().unwrap_or(RequesterId(device)))
    }

    fn group(&self, device: Bdf) -> GroupKey {
        self.ask(|script| script.groups.get(&device).map_or(GroupKey(device), |(key, _)| *key))
    }

    fn why_shared(&self, a: Bdf, _b: Bdf) -> SharedBecause {
        self.ask(|script| {
            script
                .groups
                .get(&a)
                .map_or(SharedBecause::Multifunction { slot: a.slot() }, |(_, because)| *because)
        })
    }

    fn path_defect(&self, device: Bdf) -> Option<PathDefect> {
        self.ask(|script| script.defects.get(&device).copied())
    }

    fn windows(&self, device: Bdf) -> Vec<PeerWindow> {
        self.ask(|script| script.windows.get(&device).cloned().unwrap_or_default())
    }

    fn translation_blocker(&self, device: Bdf) -> Option<Bdf> {
        self.ask(|script| script.translation_blocker.get(&device).copied())
    }

    fn translated_windows(&self, device: Bdf) -> Vec<PeerWindow> {
        let windows = |script: &Script| {
            script.translated_windows.get(&device).or_else(|| script.windows.get(&device)).cloned()
        };
        self.ask(windows).unwrap_or_default()
    }

    fn read_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), PeerAborted> {
        let mut script = self.locked();
        let decoder = window.decoder;
        for (address, byte) in (address..).zip(buf.iter_mut()) {
            *byte = script.peer_memory.get(&(decoder, address)).copied().unwrap_or(0);
        }
        script.caught.push(PeerAccess { from, decoder, access, address, bytes: buf.to_vec() });
        if script.aborting.contains(&decoder) || !window.claimed {
            Err(PeerAborted(decoder))
        } else {
            Ok(())
        }
    }

    fn write_peer(
        &self,
        from: Bdf,
        window: &PeerWindow,
        address: u64,
        data: &[u8],
    ) -> Result<(), PeerAborted> {
        let mut script = self.locked();
        let decoder = window.decoder;
        script.caught.push(PeerAccess {
            from,
            decoder,
            access: Access::WRITE,
            address,
            bytes: data.to_vec(),
        });
        if script.aborting.contains(&decoder) {
            return Err(PeerAborted(decoder));
        }
        if window.claimed {
            script
                .peer_memory
                .extend((address..).zip(data).map(|(address, byte)| ((decoder, address), *byte)));
        }
        Ok(())
    }

    fn reserved(&self, device: Bdf) -> Vec<AddrRange> {
        self.ask(|script| script.reserved.get(&device).cloned().unwrap_or_default())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bdf(device: u8) -> Bdf {
        Bdf::new(0, 1, device, 0).expect("a device number below 32")
    }

    // shows G1
    #[test]
    fn devices_share_a_group_only_where_the_script_says_so() {
        let topology = FlatTopology::new();
        let port = bdf(30);
        topology
            .share(&[bdf(1), bdf(2)], SharedBecause::NoAcs { port })
            .alias(bdf(2), RequesterId(port));
        assert_eq!(topology.group(bdf(1)), topology.group(bdf(2)));
        assert_eq!(topology.why_shared(bdf(1), bdf(2)), SharedBecause::NoAcs { port });
        assert_eq!(
            (topology.requester(bdf(1)), topology.requester(bdf(2))),
            (RequesterId(bdf(1)), RequesterId(port))
        );
        assert_ne!(topology.group(bdf(3)), topology.group(bdf(1)));
    }

    // shows B7
    #[test]
    fn every_change_of_the_script_is_counted() {
        let topology = FlatTopology::new();
        let before = topology.changes().count();
        topology.windows(bdf(1), &[]);
        let after = topology.changes().count();
        topology.caught();
        assert_ne!(before, after);
        assert_eq!(after, topology.changes().count(), "a look at the record changes nothing");
        topology.translated_windows(bdf(1), Some(&[])).translated_windows(bdf(1), None);
        assert_eq!(topology.changes().count() - after, 2, "also where the answer is as before");
        topology.block_translation(bdf(1), Some(bdf(30))).block_translation(bdf(1), None);
        assert_eq!(topology.changes().count() - after, 4);
    }

    // shows B7
    #[test]
    fn translated_requests_meet_the_same_windows_and_no_stop_unless_the_script_says_otherwise() {
        let topology = FlatTopology::new();
        let range = |first| AddrRange::new(first, 0x1000).expect("a range");
        let window = |first| PeerWindow { range: range(first), decoder: bdf(2), claimed: true };
        let (low, high) = (window(0x1000), window(0x8000));
        let translated = |device| Topology::translated_windows(&topology, device);
        topology.windows(bdf(1), &[low]);
        assert_eq!(translated(bdf(1)), [low]);
        topology.translated_windows(bdf(1), Some(&[high, low])).windows(bdf(1), &[]);
        assert_eq!(
            (translated(bdf(1)), Topology::windows(&topology, bdf(1))),
            (vec![low, high], vec![])
        );
        topology.translated_windows(bdf(1), None);
        assert_eq!(translated(bdf(1)), []);
        topology.block_translation(bdf(1), Some(bdf(30)));
        let blocked = |device| topology.translation_blocker(device);
        assert_eq!((blocked(bdf(1)), blocked(bdf(2))), (Some(bdf(30)), None));
        topology.block_translation(bdf(1), None);
        assert_eq!(blocked(bdf(1)), None);
    }

    // shows B7
    #[test]
    fn a_window_keeps_what_is_written_to_it_unless_nobody_answers_there() {
        let topology = FlatTopology::new();
        let range = AddrRange::new(0x1000, 0x1000).expect("a range");
        let claimed = PeerWindow { range, decoder: bdf(2), claimed: true };
        let lost = PeerWindow { claimed: false, decoder: bdf(3), ..claimed };
        let mut buf = [0; 3];
        topology.write_peer(bdf(1), &claimed, 0x1ffd, b"abc").expect("taken");
        topology.read_peer(bdf(1), &claimed, 0x1ffd, &mut buf, Access::READ).expect("answered");
        assert_eq!(&buf, b"abc");
        topology.write_peer(bdf(1), &lost, 0x1000, b"abc").expect("a posted write reports nothing");
        assert_eq!(
            topology.read_peer(bdf(1), &lost, 0x1000, &mut buf, Access::READ),
            Err(PeerAborted(bdf(3)))
        );
        topology.abort(bdf(2));
        assert_eq!(topology.write_peer(bdf(1), &claimed, 0x1000, b"x"), Err(PeerAborted(bdf(2))));
        assert_eq!(topology.caught().len(), 5);
    }
}
