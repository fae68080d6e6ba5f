//! The fabric as data and as a picture.

mod common;

use common::at;
use common::small::SMALL;
use sva_core::Topology;
use sva_core::topology::PathPolicy;
use sva_pci::{DEFAULT_TOML, Fabric, limit};

// shows S2
#[test]
fn the_drawing_of_a_full_bus_where_all_reach_all_stays_small() {
    // A conventional bus with all 256 functions, 6 BARs each: 1.5 million pairs of function and
    // peer BAR.
    let mut text = String::from(
        "[[host_bridge]]\nid='rc'\nwindows=[{address=0x80000000,size='1G'}]\n\
         [[port]]\nid='b'\nparent='rc'\nkind='pci-bridge'\nbdf='00:01.0'\nsecondary=1\n",
    );
    for n in 0..256u64 {
        let bars: String = (0..6)
            .map(|bar| format!("{{address={},size=4096}},", 0x8000_0000 + (n * 8 + bar) * 4096))
            .collect();
        text +=
            &format!("[[device]]\nparent='b'\nbdf='01:{:02x}.{}'\nbars=[{bars}]\n", n >> 3, n & 7);
    }
    let fabric = Fabric::from_toml(&text).expect("a fabric");
    let view = sva_pci::FabricView::new(&fabric);
    let sva_pci::NodeView::Port(bridge) = &view.host_bridges[0].children[0] else {
        panic!("a bridge")
    };
    for node in &bridge.children {
        let sva_pci::NodeView::Function(function) = node else { panic!("a function") };
        assert_eq!(function.caught.len(), limit::CAUGHT);
        // The BARs of 255 others, and the 256 gaps of the bridge's window: the own BARs are
        // nobody's and make one range with the gaps around them.
        let gaps = if function.bdf == "0000:01:00.0" { 256 } else { 255 };
        assert_eq!(
            function.caught.len() + function.caught_more,
            255 * 6 + gaps,
            "{}",
            function.bdf
        );
    }
    assert!(sva_pci::render(&fabric).len() < 2 << 20);
}

#[test]
fn the_default_fabric_shows_what_its_comments_say() {
    let fabric = Fabric::from_toml(DEFAULT_TOML).expect("the default");
    assert_eq!(fabric.policy(), PathPolicy::Strict);
    for alone in ["01:00.0", "02:00.0", "03:00.0"].map(at) {
        assert_eq!((fabric.path_defect(alone), fabric.windows(alone)), (None, vec![]));
        assert!(
            fabric.devices().iter().all(
                |device| device.bdf == alone || fabric.group(device.bdf) != fabric.group(alone)
            )
        );
    }
    let (mover, memory) = (at("06:00.0"), at("07:00.0"));
    assert_eq!(fabric.group(mover), fabric.group(memory));
    assert_eq!((fabric.path_defect(mover), fabric.path_defect(memory)), (None, None));
    assert!(fabric.function(memory).is_some_and(|function| function.capabilities.pasid.is_none()));
    for together in [["0a:00.0", "0b:00.0"], ["0c:00.0", "0c:00.1"]] {
        let [a, b] = together.map(at);
        assert_eq!(fabric.group(a), fabric.group(b));
        assert!(fabric.path_defect(a).is_some() && fabric.path_defect(b).is_some());
        assert!(fabric.windows(a).iter().any(|window| window.decoder == b && window.claimed));
    }
}

/// The keys of an object in the machine-readable form, sorted.
fn keys(value: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default();
    keys.sort();
    keys
}

// shows B7
#[test]
fn a_device_whose_path_stops_translated_requests_says_so_where_it_has_ats() {
    let told = |ats: bool, acs: &str| {
        let text = SMALL
            .replace("pasid = { width = 20 }", &format!("ats = {ats}"))
            .replace(r#"["SV", "RR", "CR", "UF"]"#, acs);
        let fabric = Fabric::from_toml(&text).expect("a fabric");
        let lines = sva_pci::render(&fabric)
            .lines()
            .filter(|line| line.ends_with("ATS: 0000:00:01.0 stops translated requests"))
            .count();
        (lines, fabric.translation_blocker(at("03:00.0")))
    };
    assert_eq!(told(true, r#"["TB"]"#), (1, Some(at("00:01.0"))));
    assert_eq!(told(false, r#"["TB"]"#), (0, Some(at("00:01.0"))));
    assert_eq!(told(true, r#"["DT"]"#), (0, None));
}

#[test]
fn the_machine_readable_form_keeps_its_names() {
    let fabric = Fabric::from_toml(SMALL).expect("a fabric");
    let view = serde_json::to_value(sva_pci::FabricView::new(&fabric)).expect("plain data");
    let port = &view["host_bridges"][0]["children"][0];
    let function = &port["children"][0]["children"][0]["children"][0];
    let function_keys = "acs ats bars bdf caught caught_more group model page_faults pasid \
                         path_defect pri requester translation_blocked type";
    assert_eq!(keys(&view), ["groups", "host_bridges", "policy"]);
    assert_eq!(
        keys(port).join(" "),
        "acs bdf children id kind secondary subordinate tlp_prefix type windows"
    );
    assert_eq!(keys(function).join(" "), function_keys);
    assert_eq!(
        function["bars"][1],
        serde_json::json!({ "index": 2, "first": "0x80001000", "last": "0x80001fff", "size": 4096 })
    );
    assert_eq!(port["acs"]["enabled"], serde_json::json!(["SV", "RR", "CR", "UF"]));
    assert_eq!(
        view["groups"][0]["members"],
        serde_json::json!(["0000:03:00.0", "0000:04:00.0", "0000:04:00.1"])
    );
}
