//! The grouping rules of Linux and the other policies, one rule a machine.

#[path = "common/machines.rs"]
mod machines;

use machines::{
    ALL, at, downstream, endpoint, groups, groups_by, machine, pci, pcie, root, to_pci, upstream,
};
use sva_topology::AcsBits;
use sva_topology::groups::Policy;
use sva_topology::machine::ExpressKind;

// shows G1
#[test]
fn a_root_port_without_acs_shares_a_group_with_what_is_below() {
    let with = |port| groups(&machine([port, endpoint("01:00.0")]));
    assert_eq!(with(root("00:01.0", 1, 1)), ["00:01.0 01:00.0"]);
    assert_eq!(with(root("00:01.0", 1, 1).isolating()), ["00:01.0", "01:00.0"]);
}

// shows G1
#[test]
fn each_of_the_four_services_is_needed_if_it_is_implemented() {
    for bit in [AcsBits::SV, AcsBits::RR, AcsBits::CR, AcsBits::UF] {
        let off = machine([root("00:01.0", 1, 1).acs(ALL, ALL & !bit), endpoint("01:00.0")]);
        assert_eq!(groups(&off), ["00:01.0 01:00.0"], "{bit} switched off");
        let missing =
            machine([root("00:01.0", 1, 1).acs(ALL & !bit, ALL & !bit), endpoint("01:00.0")]);
        assert_eq!(
            groups(&missing),
            ["00:01.0", "01:00.0"],
            "{bit} not implemented counts as given"
        );
    }
    let others = machine([root("00:01.0", 1, 1).acs(!AcsBits::NONE, ALL), endpoint("01:00.0")]);
    assert_eq!(groups(&others).len(), 2, "TB, EC and DT are not asked for");
}

// shows G1
#[test]
fn acs_that_is_present_but_switched_off_joins() {
    let off = machine([root("00:01.0", 1, 1).acs(ALL, AcsBits::NONE), endpoint("01:00.0")]);
    assert_eq!(groups(&off), ["00:01.0 01:00.0"]);
}

// shows G1
#[test]
fn one_port_without_acs_joins_everything_below_it_through_switches_that_isolate() {
    let nested = |top| {
        machine([
            top,
            upstream("01:00.0", 2, 6),
            downstream("02:00.0", 3, 5).isolating(),
            downstream("02:01.0", 6, 6).isolating(),
            upstream("03:00.0", 4, 5),
            downstream("04:00.0", 5, 5).isolating(),
            endpoint("05:00.0"),
            endpoint("06:00.0"),
        ])
    };
    assert_eq!(groups(&nested(root("00:01.0", 1, 6).isolating())).len(), 8);
    assert_eq!(
        groups(&nested(root("00:01.0", 1, 6))),
        ["00:01.0 01:00.0 02:00.0 02:01.0 03:00.0 04:00.0 05:00.0 06:00.0"]
    );
}

// shows G1
#[test]
fn a_downstream_port_without_acs_joins_what_is_below_in_linux_and_the_switch_in_the_rework() {
    let switch = |ports: [machines::F; 2]| {
        let [a, b] = ports;
        machine([
            root("00:01.0", 1, 4).isolating(),
            upstream("01:00.0", 2, 4),
            a,
            b,
            endpoint("03:00.0"),
            endpoint("04:00.0"),
        ])
    };
    let one = || {
        switch([
            downstream("02:00.0", 3, 3).isolating(),
            downstream("02:01.0", 4, 4).acs(ALL, ALL & !AcsBits::RR),
        ])
    };
    assert_eq!(groups(&one()), ["00:01.0", "01:00.0", "02:00.0", "02:01.0 04:00.0", "03:00.0"]);
    assert_eq!(
        groups_by(&one(), Policy::ReachableSet),
        ["00:01.0", "01:00.0", "02:00.0 02:01.0 03:00.0 04:00.0"]
    );
    let bare = switch([downstream("02:00.0", 3, 3).isolating(), downstream("02:01.0", 4, 4)]);
    assert_eq!(
        groups_by(&bare, Policy::ReachableSet),
        ["00:01.0", "01:00.0 02:00.0 02:01.0 03:00.0 04:00.0"]
    );
    assert_eq!(groups_by(&bare, Policy::Override).len(), 6);
    assert_eq!(
        groups_by(&one(), Policy::Override),
        groups(&one()),
        "the override leaves devices with ACS alone"
    );
}

// shows G1
#[test]
fn functions_of_one_device_join_where_neither_is_isolated() {
    let functions = |list| {
        let mut all = vec![root("00:01.0", 1, 1).isolating()];
        all.extend::<Vec<machines::F>>(list);
        groups(&machine(all))
    };
    let mixed = vec![
        endpoint("01:00.0").multifunction(),
        endpoint("01:00.1").isolating(),
        endpoint("01:00.2").acs(ALL, AcsBits::SV),
    ];
    assert_eq!(functions(mixed), ["00:01.0", "01:00.0 01:00.2", "01:00.1"]);
    // Only what a function implements is asked of it.
    let redirects = AcsBits::FUNCTION_ISOLATION;
    let apart = vec![
        endpoint("01:00.0").multifunction().acs(redirects, redirects),
        endpoint("01:00.1").acs(redirects, redirects),
    ];
    assert_eq!(functions(apart), ["00:01.0", "01:00.0", "01:00.1"]);
}

// shows G1
#[test]
fn a_device_without_any_acs_is_split_by_the_rework_and_one_open_function_joins_all() {
    let device = |third: machines::F| {
        machine([
            root("00:01.0", 1, 1).isolating(),
            endpoint("01:00.0").multifunction(),
            endpoint("01:00.1"),
            third,
        ])
    };
    let none = device(endpoint("01:00.2"));
    assert_eq!(groups(&none), ["00:01.0", "01:00.0 01:00.1 01:00.2"]);
    assert_eq!(groups_by(&none, Policy::ReachableSet).len(), 4);
    assert_eq!(groups_by(&none, Policy::Override).len(), 4);
    let open = device(endpoint("01:00.2").acs(ALL, AcsBits::NONE));
    assert_eq!(groups_by(&open, Policy::ReachableSet), ["00:01.0", "01:00.0 01:00.1 01:00.2"]);
}

// shows G1
#[test]
fn the_rework_joins_below_a_root_port_only_if_it_has_acs_that_is_off() {
    let with = |port| groups_by(&machine([port, endpoint("01:00.0")]), Policy::ReachableSet);
    assert_eq!(with(root("00:01.0", 1, 1)), ["00:01.0", "01:00.0"]);
    assert_eq!(with(root("00:01.0", 1, 1).acs(ALL, AcsBits::NONE)), ["00:01.0 01:00.0"]);
}

// shows G1
#[test]
fn conventional_cards_share_the_group_of_the_bridge_whatever_is_above_it() {
    let all = || {
        [
            root("00:01.0", 1, 3).isolating(),
            to_pci("01:00.0", 2, 3),
            pci("02:00.0"),
            pci("02:01.0"),
            pci("02:02.0").below(3, 3),
            pci("03:00.0"),
        ]
    };
    assert_eq!(groups(&machine(all())), ["00:01.0", "01:00.0 02:00.0 02:01.0 02:02.0 03:00.0"]);
    // The rework leaves out a bridge without memory of its own: only what is below it shares
    // requester IDs.
    assert_eq!(
        groups_by(&machine(all()), Policy::ReachableSet),
        ["00:01.0", "01:00.0", "02:00.0 02:01.0 02:02.0 03:00.0"]
    );
    let memory = all().map(|it| if it.0.bdf == at("01:00.0") { it.bar() } else { it });
    assert_eq!(
        groups_by(&machine(memory), Policy::ReachableSet),
        ["00:01.0", "01:00.0 02:00.0 02:01.0 02:02.0 03:00.0"]
    );
}

// shows G1
#[test]
fn a_bridge_in_disguise_takes_requests_like_one_that_says_so() {
    let bridge = |vendor, device| {
        machine([
            root("00:01.0", 1, 2).isolating(),
            pci("01:00.0").below(2, 2).ids(vendor, device),
            pci("02:00.0"),
            pci("02:01.0"),
        ])
    };
    for (vendor, device) in
        [(0x1b21, 0x1080), (0x10e3, 0x8113), (0x1283, 0x8892), (0x1283, 0x8893), (0x8086, 0x244e)]
    {
        let machine = bridge(vendor, device);
        assert_eq!(groups(&machine), ["00:01.0", "01:00.0 02:00.0 02:01.0"]);
        assert_eq!(
            groups_by(&machine, Policy::ReachableSet),
            ["00:01.0", "01:00.0", "02:00.0 02:01.0"]
        );
    }
    // An unknown one has no PCI Express capability as far as Linux knows: the bus above is
    // conventional too.
    assert_eq!(
        groups_by(&bridge(0x1af4, 0x9999), Policy::ReachableSet),
        ["00:01.0", "01:00.0 02:00.0 02:01.0"]
    );
}

// shows G1
#[test]
fn conventional_functions_of_one_device_on_a_root_bus_join_and_single_ones_do_not() {
    let all = machine([
        pci("00:1f.0").multifunction(),
        pci("00:1f.2"),
        pci("00:1f.3"),
        pci("00:1d.0"),
        pci("00:1e.0"),
    ]);
    assert_eq!(groups(&all), ["00:1d.0", "00:1e.0", "00:1f.0 00:1f.2 00:1f.3"]);
}

// shows G1
#[test]
fn an_event_collector_is_never_isolated_from_its_device() {
    let all = |other: machines::F| {
        groups(&machine([other, pcie("00:02.4", ExpressKind::EventCollector).isolating()]))
    };
    let integrated = || pcie("00:02.0", ExpressKind::IntegratedEndpoint).multifunction();
    assert_eq!(all(integrated()), ["00:02.0 00:02.4"]);
    assert_eq!(all(integrated().isolating()), ["00:02.0", "00:02.4"]);
}

// shows G1
#[test]
fn a_single_function_that_is_no_port_passes_without_acs() {
    let kinds =
        [ExpressKind::Endpoint, ExpressKind::LegacyEndpoint, ExpressKind::IntegratedEndpoint];
    for kind in kinds {
        assert_eq!(groups(&machine([pcie("00:02.0", kind), pcie("00:03.0", kind)])).len(), 2);
        let two = machine([pcie("00:02.0", kind).multifunction(), pcie("00:02.1", kind)]);
        assert_eq!(groups(&two).len(), 1, "two functions of type {kind:?}");
    }
    let upstreams = machine([
        root("00:01.0", 1, 3).isolating(),
        upstream("01:00.0", 2, 2).multifunction(),
        endpoint("01:00.1"),
        downstream("02:00.0", 3, 3).isolating(),
        endpoint("03:00.0"),
    ]);
    assert_eq!(
        groups(&upstreams),
        ["00:01.0", "01:00.0 01:00.1 02:00.0 03:00.0"],
        "an upstream port with siblings does not pass"
    );
}

// shows G1
#[test]
fn vmd_children_are_seen_as_the_vmd_function_of_their_domain() {
    let all = [
        pcie("00:0e.0", ExpressKind::IntegratedEndpoint).ids(0x8086, 0x467f).driver("vmd"),
        pcie("00:0f.0", ExpressKind::IntegratedEndpoint).ids(0x8086, 0x467f).driver("vmd"),
        root("10000:e0:06.0", 0xe1, 0xe1).isolating(),
        endpoint("10000:e1:00.0"),
        root("10001:e0:06.0", 0xe1, 0xe1).isolating(),
        endpoint("10001:e1:00.0"),
    ];
    let expected = ["00:0e.0 10000:e0:06.0 10000:e1:00.0", "00:0f.0 10001:e0:06.0 10001:e1:00.0"];
    let all = machine(all);
    assert_eq!(groups(&all), expected);
    assert_eq!(groups_by(&all, Policy::ReachableSet), expected);
    // A function without a driver has no domain.
    let one = machine([
        pcie("00:0e.0", ExpressKind::IntegratedEndpoint).ids(0x8086, 0x467f).driver("vfio-pci"),
        pcie("00:0f.0", ExpressKind::IntegratedEndpoint).ids(0x8086, 0x467f).driver("vmd"),
        endpoint("10000:e1:00.0"),
    ]);
    assert_eq!(groups(&one), ["00:0e.0", "00:0f.0 10000:e1:00.0"]);
}

// shows G1
#[test]
fn virtual_functions_are_isolated_by_the_way_up_on_their_own_bus_or_another() {
    let with = |port: machines::F| {
        machine([
            port,
            endpoint("01:00.0").multifunction(),
            endpoint("01:00.1"),
            endpoint("01:10.0").virtual_of("01:00.0"),
            endpoint("01:10.1").virtual_of("01:00.1"),
            endpoint("02:00.0").virtual_of("01:00.0"),
            endpoint("02:00.1").virtual_of("01:00.1"),
        ])
    };
    let isolated = with(root("00:01.0", 1, 2).isolating());
    assert_eq!(
        groups(&isolated),
        ["00:01.0", "01:00.0 01:00.1", "01:10.0", "01:10.1", "02:00.0", "02:00.1"]
    );
    let open = with(root("00:01.0", 1, 2));
    assert_eq!(groups(&open), ["00:01.0 01:00.0 01:00.1 01:10.0 01:10.1 02:00.0 02:00.1"]);
}

// shows S2
#[test]
fn policies_are_read_back_by_their_names_and_others_are_refused_in_few_words() {
    for policy in Policy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    let error =
        format!("\u{1b}{}", "x".repeat(500)).parse::<Policy>().expect_err("no policy").to_string();
    assert!(error.len() < 200 && !error.contains('\u{1b}'), "{error}");
}
