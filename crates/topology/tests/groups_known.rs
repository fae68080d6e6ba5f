//! How well a group is known: what was read, what was assumed, and what has no group.

#[path = "common/machines.rs"]
mod machines;

use machines::{ALL, at, downstream, endpoint, groups, machine, pci, root, upstream};
use sva_topology::AcsBits;
use sva_topology::groups::{Grouping, Policy, Untranslated, acs_verdict};
use sva_topology::machine::{Basis, Fact, Host, Machine, Source};

// shows G1
#[test]
fn an_iommu_and_what_the_kernel_left_out_have_no_group() {
    let all = machine([
        pci("00:00.0").multifunction().kernel(Some(4)),
        pci("00:00.2").class(0x08_0600).kernel(None),
        pci("00:01.0").kernel(None),
        pci("00:02.0"),
    ]);
    let grouping = Grouping::compute(&all, Policy::Linux);
    let of = |bdf| {
        all.find(at(bdf)).map(|index| (grouping.of(index).is_some(), grouping.untranslated(index)))
    };
    assert_eq!(of("00:00.0"), Some((true, None)));
    assert_eq!(of("00:00.2"), Some((false, Some(Untranslated::IsIommu))));
    assert_eq!(of("00:01.0"), Some((false, Some(Untranslated::KernelHasNone))));
    assert_eq!(of("00:02.0"), Some((true, None)), "of which the source says nothing");
    // A kernel that made no groups at all uses no IOMMU: the groups are those that it would make.
    let unused = machine([pci("00:01.0").kernel(None), pci("00:02.0").kernel(None)]);
    assert_eq!(groups(&unused).len(), 2);
}

// shows G1
#[test]
fn a_group_is_known_no_better_than_the_weakest_fact_that_it_rests_on() {
    let port = |acs: Fact<AcsBits>| {
        let mut port = root("00:01.0", 1, 2).isolating();
        port.0.acs.value.as_mut().expect("given").enabled = acs;
        let all = machine([port, upstream("01:00.0", 2, 2)]);
        let grouping = Grouping::compute(&all, Policy::Linux);
        (grouping.source(0), grouping.source(1))
    };
    assert_eq!(port(Fact::read(ALL)), (Source::Read, Source::Read));
    let assumed = Source::Assumed(Basis::LinuxEnablesAcs);
    assert_eq!(port(Fact::assumed(ALL, Basis::LinuxEnablesAcs)), (assumed, assumed));
    assert_eq!(
        port(Fact::assumed(AcsBits::NONE, Basis::NotPrinted)).1,
        Source::Assumed(Basis::NotPrinted)
    );
}

// shows G1
#[test]
fn a_bus_whose_bridge_is_not_in_the_dump_counts_as_a_root_bus() {
    let part = Machine::new(
        [upstream("03:00.0", 4, 5), downstream("04:00.0", 5, 5)].map(|it| it.0).to_vec(),
        Host::default(),
    );
    assert_eq!(groups(&part), ["03:00.0", "04:00.0"]);
}

// shows G1
#[test]
fn acs_that_is_off_counts_as_linux_would_have_it_only_where_no_iommu_is_in_use() {
    let grouped =
        |in_use: Option<bool>, option: Option<&str>, enabled, dwords: Option<[u32; 2]>| {
            let port = root("00:1c.0", 1, 1).acs(ALL, enabled);
            let port = match dwords {
                Some(dwords) => port.ids(0x8086, 0xa110).dwords(dwords),
                None => port,
            };
            let options = option.map(|option| vec![option.to_owned()]);
            let host = Host { iommu_in_use: in_use.map(Fact::read), options, ..Host::default() };
            let machine = Machine::new([port, endpoint("01:00.0")].map(|it| it.0).to_vec(), host);
            let verdict = acs_verdict(&machine, 0, ALL, Policy::Linux);
            assert_eq!(verdict.given, groups(&machine).len() == 2);
            (verdict.given, verdict.source)
        };
    let enables = Source::Inferred(Basis::LinuxEnablesAcs);
    let off = AcsBits::NONE;
    assert_eq!(grouped(Some(false), None, off, None), (true, enables));
    assert_eq!(grouped(Some(false), None, ALL, None), (true, Source::Read), "on anyway");
    assert_eq!(grouped(Some(true), None, off, None), (false, Source::Read), "Linux had its chance");
    assert_eq!(
        grouped(None, None, off, None),
        (false, Source::Read),
        "what was read is never overruled by a guess"
    );
    for option in ["pci=disable_acs_redir=00:1c.0", "pci=config_acs=0000000@00:1c.0"] {
        assert_eq!(
            grouped(Some(false), Some(option), off, None),
            (false, Source::Read),
            "{option}"
        );
    }
    assert_eq!(grouped(Some(false), Some("intel_iommu=off"), off, None), (true, enables));
    let all = u32::from(ALL.bits());
    assert_eq!(
        grouped(Some(false), None, off, Some([all, 0])),
        (true, enables),
        "Sunrise Point's dwords"
    );
    assert_eq!(
        grouped(None, None, off, Some([all, 0])),
        (false, Source::Read),
        "Sunrise Point's dwords"
    );
}
