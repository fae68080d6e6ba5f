//! Models whose requests carry another function's number, by Linux' tables, and who shares a group
//! because of it.

#[path = "common/machines.rs"]
mod machines;

use machines::{endpoint, groups, machine, pci, pcie, root};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::ExpressKind;

/// A function of a model on a bus that isolates, with two others.
fn among(function: machines::F, others: [&str; 2]) -> Vec<String> {
    let all = [root("00:01.0", 1, 1).isolating(), function].into_iter().chain(others.map(endpoint));
    // Each other one isolates for itself.
    groups(&machine(all.map(|mut it| {
        it = it.isolating();
        it
    })))
}

// shows G1
#[test]
fn models_that_issue_requests_as_function_0_or_1_share_its_group() {
    for (vendor, device) in [(0x1180, 0xe832), (0x1180, 0xe476), (0x6766, 0x3d40), (0x6766, 0x3d41)]
    {
        let it = endpoint("01:00.3").ids(vendor, device);
        assert_eq!(
            among(it, ["01:00.0", "01:00.1"]),
            ["00:01.0", "01:00.0 01:00.3", "01:00.1"],
            "{vendor:04x}:{device:04x}"
        );
    }
    let marvell = [
        0x9120, 0x9123, 0x9125, 0x9128, 0x9130, 0x9170, 0x9172, 0x917a, 0x9182, 0x9183, 0x91a0,
        0x9215, 0x9220, 0x9230, 0x9235,
    ];
    let others = [(0x1103, 0x0642), (0x1103, 0x0645), (0x197b, 0x2392), (0x1c28, 0x0122)];
    for (vendor, device) in marvell.map(|device| (0x1b4b, device)).into_iter().chain(others) {
        let it = endpoint("01:00.0").multifunction().ids(vendor, device);
        assert_eq!(
            among(it, ["01:00.1", "01:00.2"]),
            ["00:01.0", "01:00.0 01:00.1", "01:00.2"],
            "{vendor:04x}:{device:04x}"
        );
    }
    let own = endpoint("01:00.0").multifunction().ids(0x1180, 0xe832);
    assert_eq!(
        among(own, ["01:00.1", "01:00.2"]).len(),
        4,
        "function 0 has no alias at function 0"
    );
}

// shows G1
#[test]
fn models_with_fixed_or_all_numbers_share_the_groups_of_what_is_there() {
    let adaptec = |subsystem| endpoint("01:0e.0").ids(0x9005, 0x0285).subsystem(0x9005, subsystem);
    assert_eq!(
        among(adaptec(0x02bb), ["01:01.0", "01:02.0"]),
        ["00:01.0", "01:01.0 01:0e.0", "01:02.0"]
    );
    assert_eq!(among(adaptec(0x02bd), ["01:01.0", "01:02.0"]).len(), 4, "another subsystem");
    let x200 = endpoint("01:00.0").ids(0x8086, 0x2260);
    assert_eq!(among(x200, ["01:11.0", "01:13.0"]), ["00:01.0", "01:00.0 01:11.0", "01:13.0"]);
    let vca = endpoint("01:00.0").ids(0x8086, 0x2958);
    assert_eq!(among(vca, ["01:1f.4", "01:1f.5"]), ["00:01.0", "01:00.0 01:1f.4", "01:1f.5"]);
    let plx = endpoint("01:00.0").ids(0x10b5, 0x87b0);
    assert_eq!(among(plx, ["01:1f.7", "01:05.0"]), ["00:01.0", "01:00.0 01:05.0 01:1f.7"]);
}

// shows G1
#[test]
fn shared_numbers_join_through_devices_that_do_not_isolate() {
    // 01:00.0 has the number 01:01.0 too; 01:01.1 joined no one before it, and 01:01.0 is not
    // isolated from it.
    let all = machine([
        root("00:01.0", 1, 1).isolating(),
        endpoint("01:01.0").multifunction(),
        endpoint("01:01.1"),
        endpoint("01:0e.0").ids(0x9005, 0x0285).subsystem(0x9005, 0x02bb),
        endpoint("01:0f.0"),
    ]);
    assert_eq!(groups(&all), ["00:01.0", "01:01.0 01:01.1 01:0e.0", "01:0f.0"]);
}

// shows G1
#[test]
fn a_bridge_at_which_the_iommu_sits_ends_the_search_for_requester_ids() {
    let with = |device| {
        machine([
            pci("00:00.0").below(1, 3).ids(0x14e4, device),
            pcie("01:00.0", ExpressKind::RootPort).below(2, 3).isolating(),
            endpoint("02:00.0"),
        ])
    };
    // Without the quirk the conventional bridge above takes all requests.
    assert_eq!(groups(&with(0x1234)), ["00:00.0 01:00.0 02:00.0"]);
    for device in [0x9000, 0x9084] {
        let grouping = Grouping::compute(&with(device), Policy::Linux);
        let joined = grouping.groups().iter().flat_map(|group| &group.reasons);
        assert!(
            joined.clone().all(|reason| !matches!(
                reason.rule,
                sva_topology::groups::JoinRule::BridgeTakesOwnership { .. }
            )),
            "{device:#06x}: {joined:?}"
        );
    }
}
