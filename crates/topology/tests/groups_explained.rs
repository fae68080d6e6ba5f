//! What is said of a grouping: chains of reasons, pairs, advice, the comparison with a kernel's
//! groups; and that hostile machines end in time.

#[path = "common/machines.rs"]
mod machines;

use std::time::{Duration, Instant};

use machines::{ALL, F, at, downstream, endpoint, machine, pci, pcie, root, to_pci, upstream};
use sva_topology::AcsBits;
use sva_topology::groups::{
    Advice, Difference, Grouping, PairVerdict, Policy, explain, self_check, why_not,
};
use sva_topology::machine::{Basis, ExpressKind, Fact, Host, Machine};

fn lines(machine: &Machine, bdf: &str) -> Vec<String> {
    let grouping = Grouping::compute(machine, Policy::Linux);
    explain(machine, &grouping, machine.find(at(bdf)).expect("in the machine")).lines(machine)
}

fn advice(machine: &Machine, bdf: &str) -> Vec<Advice> {
    let grouping = Grouping::compute(machine, Policy::Linux);
    explain(machine, &grouping, machine.find(at(bdf)).expect("in the machine")).advice
}

fn pair(machine: &Machine, a: &str, b: &str) -> sva_topology::groups::Pair {
    let index = |bdf| machine.find(at(bdf)).expect("in the machine");
    why_not(machine, &Grouping::compute(machine, Policy::Linux), index(a), index(b))
}

/// A switch that isolates below a port that lacks RR, and another port that isolates and has
/// nothing below.
fn switch() -> Machine {
    machine([
        root("00:01.0", 1, 4).acs(ALL, ALL & !AcsBits::RR),
        root("00:02.0", 5, 5).isolating(),
        upstream("01:00.0", 2, 4),
        downstream("02:00.0", 3, 3).isolating(),
        downstream("02:01.0", 4, 4).isolating(),
        endpoint("03:00.0"),
        endpoint("04:00.0"),
    ])
}

// shows G1
#[test]
fn an_explanation_has_a_line_for_each_hop_with_its_bits_and_ends_in_the_group() {
    assert_eq!(
        lines(&switch(), "03:00.0")[..7],
        [
            "0000:02:00.0 gives SV RR CR UF (implements SV RR CR UF; enabled SV RR CR UF)",
            "0000:01:00.0 is a single function, which has no peer inside its device",
            "0000:00:01.0 lacks RR (implements SV RR CR UF; enabled SV CR UF)",
            "0000:03:00.0 joins 0000:02:00.0, for 0000:00:01.0 does not isolate",
            "and 0000:02:00.0 with 0000:01:00.0: 0000:00:01.0 lacks RR (implements SV RR CR UF; \
             enabled SV CR UF)",
            "and 0000:01:00.0 with 0000:00:01.0: 0000:00:01.0 lacks RR (implements SV RR CR UF; \
             enabled SV CR UF)",
            "result: 0000:03:00.0 is in group 0 with 0000:00:01.0, 0000:01:00.0, 0000:02:00.0, \
             0000:02:01.0, 0000:04:00.0",
        ]
    );
}

// shows G1
#[test]
fn the_founder_of_a_group_is_told_who_joined_it() {
    let all = machine([
        root("00:01.0", 1, 1).isolating(),
        endpoint("01:00.0").multifunction(),
        endpoint("01:00.1"),
    ]);
    let said = lines(&all, "01:00.0");
    assert!(said.iter().any(|line| line.starts_with("0000:01:00.0 founds a group")), "{said:?}");
    assert!(
        said.iter().any(|line| line.starts_with(
            "and 0000:01:00.1 with 0000:01:00.0: functions of one device that are not isolated"
        )),
        "{said:?}"
    );
}

// shows G1
#[test]
fn what_was_not_read_says_so_in_the_explanation() {
    let mut port = root("00:01.0", 1, 1).isolating();
    port.0.acs.value.as_mut().expect("given").enabled = Fact::assumed(ALL, Basis::LinuxEnablesAcs);
    let said = lines(&machine([port, endpoint("01:00.0")]), "01:00.0");
    assert!(said[0].ends_with(&format!("[assumed: {}]", Basis::LinuxEnablesAcs)), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("result: 0000:01:00.0 is alone in group 1"));
}

// shows G1
#[test]
fn bridges_that_take_requests_and_shared_numbers_are_named() {
    let all = machine([
        root("00:01.0", 1, 2).isolating(),
        to_pci("01:00.0", 2, 2),
        pci("02:00.0"),
        root("00:02.0", 3, 3).isolating(),
        endpoint("03:00.0").multifunction().isolating(),
        endpoint("03:00.3").ids(0x1180, 0xe832).isolating(),
    ]);
    let conventional = lines(&all, "02:00.0");
    assert_eq!(
        conventional[0],
        "0000:01:00.0: requests from below may carry the requester ID of the bus below, device 0, \
         function 0"
    );
    assert_eq!(conventional[1], "0000:02:00.0 joins 0000:01:00.0, which takes its requests");
    let ricoh = lines(&all, "03:00.3");
    assert!(
        ricoh[0].contains("quirk_dma_func0_alias")
            && ricoh.iter().any(|line| line.contains("joins 0000:03:00.0: shared requester IDs")),
        "{ricoh:?}"
    );
}

// shows G1
#[test]
fn advice_is_what_helps_and_says_what_is_left() {
    let all = switch();
    let index = |bdf| all.find(at(bdf)).expect("in the machine");
    assert_eq!(
        advice(&all, "03:00.0"),
        [
            Advice::EnableAcs { functions: vec![index("00:01.0")], kept_off_by: None, left: 0 },
            Advice::OtherSlot { ports: vec![index("00:02.0")], free: 1, left: 0 },
        ]
    );
    assert!(
        lines(&all, "03:00.0")
            .iter()
            .any(|line| line.contains("pci=config_acs=xx111x1@0000:00:01.0")),
        "{:?}",
        lines(&all, "03:00.0")
    );
    let bare =
        machine([root("00:01.0", 1, 1), endpoint("01:00.0").multifunction(), endpoint("01:00.1")]);
    // Function 1 stays: nothing separates the two functions but the override, which declares it.
    assert_eq!(
        advice(&bare, "01:00.0"),
        [Advice::ShowAcs { ports: vec![0], left: 1 }, Advice::Override { left: 0 }]
    );
    // RR of the switch could be enabled, but the port above has no ACS at all.
    let above = machine([
        root("00:01.0", 1, 3),
        upstream("01:00.0", 2, 3),
        downstream("02:00.0", 3, 3).acs(ALL, ALL & !AcsBits::RR),
        endpoint("03:00.0"),
    ]);
    let port = above.find(at("00:01.0")).expect("in the machine");
    assert_eq!(
        advice(&above, "03:00.0"),
        [Advice::ShowAcs { ports: vec![port], left: 1 }, Advice::Override { left: 1 }]
    );
    let single = machine([root("00:01.0", 1, 1).isolating(), endpoint("01:00.0")]);
    assert_eq!(advice(&single, "01:00.0"), [], "alone already");
    let legacy = machine([pci("00:1f.0").multifunction(), pci("00:1f.3")]);
    assert_eq!(advice(&legacy, "00:1f.3"), [Advice::Nothing]);
    let card =
        machine([root("00:01.0", 1, 2).isolating(), to_pci("01:00.0", 2, 2), pci("02:00.0")]);
    assert_eq!(
        advice(&card, "02:00.0"),
        [Advice::ReplaceBridge { bridge: 1 }],
        "another slot has no conventional bus"
    );
}

// shows G1
#[test]
fn devices_behind_vmd_are_told_to_leave_it_and_who_is_left_then() {
    let domain = |segment: &str| {
        [
            root(&format!("{segment}:e0:01.0"), 0xe1, 0xe1).isolating(),
            endpoint(&format!("{segment}:e1:00.0")),
            root(&format!("{segment}:e0:02.0"), 0xe2, 0xe2),
            endpoint(&format!("{segment}:e2:00.0")),
        ]
    };
    let vmd = |bdf| pcie(bdf, ExpressKind::IntegratedEndpoint).ids(0x8086, 0x201d);
    let all = machine(
        [vmd("00:05.5"), vmd("00:0e.0")].into_iter().chain(domain("10000")).chain(domain("10001")),
    );
    // Below the port without ACS one other stays: the port.
    for (segment, vmd) in [("10000", 0), ("10001", 1)] {
        assert_eq!(
            advice(&all, &format!("{segment}:e1:00.0")),
            [Advice::LeaveVmd { vmd, left: 0 }],
            "{segment}"
        );
        assert_eq!(
            advice(&all, &format!("{segment}:e2:00.0"))[..1],
            [Advice::LeaveVmd { vmd, left: 1 }],
            "{segment}"
        );
    }
    assert_eq!(advice(&all, "00:0e.0"), [Advice::Nothing], "without VMD there is no such function");
    assert_eq!(
        pair(&all, "10000:e1:00.0", "10000:e2:00.0").advice[0].1,
        Advice::LeaveVmd { vmd: 0, left: 0 }
    );
}

// shows G1
#[test]
fn an_option_that_keeps_acs_off_is_named() {
    let options = Some(vec!["pci=disable_acs_redir=0000:00:01.0".to_owned()]);
    let functions = switch().functions().to_vec();
    let machine = Machine::new(functions, Host { options: options.clone(), ..Host::default() });
    let first = options.and_then(|options| options.into_iter().next());
    assert!(matches!(
        &advice(&machine, "04:00.0")[0],
        Advice::EnableAcs { kept_off_by, .. } if *kept_off_by == first
    ));
}

// shows G1
#[test]
fn a_pair_in_one_group_is_joined_by_links_and_a_pair_in_two_is_separated_by_hops() {
    let all = switch();
    let together = pair(&all, "03:00.0", "04:00.0");
    let PairVerdict::Together { reasons, .. } = &together.verdict else { panic!("{together:?}") };
    let members: Vec<String> =
        reasons.iter().map(|reason| all.functions()[reason.member].bdf.to_string()).collect();
    assert_eq!(
        members,
        ["0000:03:00.0", "0000:02:00.0", "0000:04:00.0", "0000:02:01.0"],
        "to the port above both"
    );
    assert!(
        together.lines(&all).last().is_some_and(|line| {
            line == "when 0000:03:00.0 is given away, 0000:04:00.0 go along; the ports and bridges \
                     0000:00:01.0, 0000:01:00.0, 0000:02:00.0, 0000:02:01.0 stay with the host"
        }),
        "{:?}",
        together.lines(&all)
    );
    let apart = machine([
        root("00:01.0", 1, 4).isolating(),
        upstream("01:00.0", 2, 4),
        downstream("02:00.0", 3, 3).isolating(),
        downstream("02:01.0", 4, 4).isolating(),
        endpoint("03:00.0"),
        endpoint("04:00.0"),
    ]);
    let apart_pair = pair(&apart, "03:00.0", "04:00.0");
    let PairVerdict::Apart { separated_by, .. } = &apart_pair.verdict else {
        panic!("{apart_pair:?}")
    };
    let hops: Vec<String> =
        separated_by.iter().map(|step| apart.functions()[step.at].bdf.to_string()).collect();
    assert_eq!(
        hops,
        ["0000:02:00.0", "0000:03:00.0", "0000:02:01.0", "0000:04:00.0"],
        "not what is above both"
    );
    assert!(matches!(pair(&apart, "03:00.0", "03:00.0").verdict, PairVerdict::Same));
}

// shows G1
#[test]
fn a_pair_is_told_only_what_would_separate_the_two() {
    let all = machine([
        root("00:01.0", 1, 3),
        upstream("01:00.0", 2, 3),
        downstream("02:00.0", 3, 3).isolating(),
        endpoint("03:00.0").multifunction(),
        endpoint("03:00.1"),
    ]);
    let port = all.find(at("00:01.0")).expect("in the machine");
    let told =
        |a, b| pair(&all, a, b).advice.into_iter().map(|(_, advice)| advice).collect::<Vec<_>>();
    let show = |left| Advice::ShowAcs { ports: vec![port], left };
    assert!(told("01:00.0", "03:00.0").contains(&show(0)));
    // ACS above keeps the two functions of one device together; the override parts them.
    assert_eq!(told("03:00.0", "03:00.1"), [Advice::Override { left: 0 }]);
    let legacy = machine([pci("00:1f.0").multifunction(), pci("00:1f.3")]);
    assert_eq!(pair(&legacy, "00:1f.0", "00:1f.3").advice, [(0, Advice::Nothing)]);
}

// shows S2
#[test]
fn an_index_that_is_not_in_the_machine_is_answered_and_not_followed() {
    let all = switch();
    let grouping = Grouping::compute(&all, Policy::Linux);
    assert!(explain(&all, &grouping, 99).steps.is_empty());
    assert!(matches!(why_not(&all, &grouping, 0, 99).verdict, PairVerdict::Unknown(99)));
    assert!(!why_not(&all, &grouping, 0, 99).lines(&all).is_empty());
    let other = machine([endpoint("00:01.0")]);
    assert!(explain(&other, &grouping, 0).steps.is_empty(), "another machine's grouping");
    assert_eq!(grouping.of(99), None);
}

// shows G1
#[test]
fn the_comparison_names_each_difference_with_the_kernel() {
    let with = |kernel: [Option<u32>; 4]| {
        let all: Vec<F> = vec![
            root("00:01.0", 1, 1),
            endpoint("01:00.0"),
            root("00:02.0", 2, 2).isolating(),
            endpoint("02:00.0"),
        ];
        machine(
            all.into_iter()
                .zip(kernel)
                .map(|(it, group)| if group.is_some() { it.kernel(group) } else { it }),
        )
    };
    let check = |machine: &Machine| self_check(machine, &Grouping::compute(machine, Policy::Linux));
    // 0: 00:01.0, 1: 00:02.0, 2: 01:00.0, 3: 02:00.0, in the order of addresses.
    let same = check(&with([Some(8), Some(8), Some(3), Some(5)]));
    assert!(same.agrees() && same.compared == 4);
    assert!(!check(&with([None; 4])).agrees(), "nothing to compare is no agreement");
    let splits = check(&with([Some(1), Some(2), Some(3), Some(4)]));
    assert_eq!(
        splits.differences,
        [Difference::KernelSplits { group: 0, parts: vec![(1, vec![0]), (2, vec![2])] }]
    );
    let joins = with([None, None, Some(3), Some(3)]);
    assert_eq!(
        check(&joins).differences,
        [Difference::KernelJoins {
            kernel: 3,
            parts: vec![(Some(1), vec![1]), (Some(2), vec![3])]
        }]
    );
    assert_eq!(
        check(&joins).differences[0].describe(&joins),
        "the kernel has together in its group 3, these rules apart: 0000:00:02.0 | 0000:02:00.0"
    );
    let iommu =
        machine([pci("00:00.2").class(0x08_0600).kernel(Some(1)), pci("00:03.0").kernel(Some(2))]);
    assert_eq!(check(&iommu).differences, [Difference::OnlyKernel { function: 0, kernel: 1 }]);
}

// shows S2
#[test]
fn a_hostile_machine_is_grouped_in_bounded_time() {
    // 255 buses below one another, each full of functions that claim all numbers of their bus and
    // isolate nobody.
    let mut all = Vec::new();
    for bus in 0..=255u8 {
        for devfn in 0..=255u8 {
            let mut it =
                pcie(&format!("{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7), ExpressKind::Endpoint)
                    .ids(0x10b5, 0x87b0)
                    .multifunction();
            if devfn == 255 && bus < 255 {
                it = it.below(bus + 1, 255);
            }
            it.0.express.value.as_mut().expect("PCI Express").kind =
                if devfn == 255 { ExpressKind::Upstream } else { ExpressKind::Endpoint };
            all.push(if bus % 2 == 0 { it.isolating() } else { it });
        }
    }
    let all = machine(all);
    let start = Instant::now();
    for policy in Policy::ALL {
        assert!(!Grouping::compute(&all, policy).groups().is_empty());
    }
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?} for 65,536 functions",
        start.elapsed()
    );
}
