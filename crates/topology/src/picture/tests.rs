//! What holds of every picture, whatever the machine: nothing overlaps, everything is there once,
//! and names do no harm.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sva_core::Bdf;

use super::layout::Layout;
use super::scene::Scene;
use super::shapes::Rect;
use super::{html, svg, text};
use crate::acs::AcsBits;
use crate::arbitrary::{acs, bridge, express, machines};
use crate::groups::{Grouping, Policy};
use crate::machine::{ExpressKind, Host, Machine, PciFunction};

fn at(text: &str) -> Bdf {
    text.parse().expect("an address in a test")
}

fn grouped(machine: &Machine) -> Grouping {
    Grouping::compute(machine, Policy::Linux)
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.x < b.right() && b.x < a.right() && a.y < b.bottom() && b.y < a.bottom()
}

fn inside(inner: Rect, outer: Rect) -> bool {
    outer.x <= inner.x
        && outer.y <= inner.y
        && inner.right() <= outer.right()
        && inner.bottom() <= outer.bottom()
}

/// Numbers of groups by address, from the attributes of an SVG document.
fn drawn(svg: &str) -> BTreeMap<String, Option<String>> {
    let document = roxmltree::Document::parse(svg).expect("well-formed");
    let nodes = document.descendants().filter(|node| node.attribute("class") == Some("node"));
    let mut all = BTreeMap::new();
    for node in nodes {
        let bdf = node.attribute("data-bdf").expect("an address").to_owned();
        let before = all.insert(bdf, node.attribute("data-group").map(str::to_owned));
        assert!(before.is_none(), "drawn twice");
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_box_and_no_text_overlaps_another_and_all_lie_on_the_page(machine in machines()) {
        let grouping = grouped(&machine);
        let layout = Layout::new(
            &Scene::new(&machine, &grouping),
            "A title",
            "a subtitle",
            &svg::colours(&grouping),
        );
        let page = Rect { x: 0, y: 0, w: layout.width, h: layout.height };
        let mut outer: Vec<Rect> = layout.boxes.iter().map(|place| place.rect).collect();
        outer.extend(layout.bars.iter().copied());
        outer.extend(layout.texts.iter().map(|line| line.room));
        outer.extend(layout.samples.iter().map(|sample| sample.rect));
        for (n, a) in outer.iter().enumerate() {
            prop_assert!(inside(*a, page), "{:?} leaves the page {:?}", a, page);
            for b in &outer[..n] {
                prop_assert!(!overlap(*a, *b), "{:?} and {:?}", a, b);
            }
        }
        for place in &layout.boxes {
            let rooms: Vec<Rect> = place
                .texts
                .iter()
                .map(|line| line.room)
                .chain(place.tags.iter().map(|tag| tag.rect))
                .collect();
            for (n, a) in rooms.iter().enumerate() {
                prop_assert!(inside(*a, place.rect), "{:?} leaves its box {:?}", a, place.rect);
                for b in &rooms[..n] {
                    prop_assert!(!overlap(*a, *b), "{:?} and {:?}", a, b);
                }
            }
        }
    }

    // shows G1
    #[test]
    fn the_area_of_a_group_holds_its_members_and_touches_no_other(machine in machines()) {
        let grouping = grouped(&machine);
        let scene = Scene::new(&machine, &grouping);
        let layout = Layout::new(&scene, "", "", &svg::colours(&grouping));
        for place in &layout.boxes {
            let group = scene.nodes[place.node].group;
            let shared =
                group.is_some_and(|group| grouping.groups()[group as usize].members.len() > 1);
            for region in &layout.regions {
                let holds = region.rects.iter().any(|rect| inside(place.rect, *rect));
                let touches = region.rects.iter().any(|rect| overlap(place.rect, *rect));
                prop_assert_eq!(holds, shared && group == Some(region.group));
                prop_assert_eq!(touches, holds);
            }
        }
    }

    // shows S2
    #[test]
    fn every_function_is_drawn_once_with_its_group_in_well_formed_xml(machine in machines()) {
        let grouping = grouped(&machine);
        let svg = svg(&machine, &grouping);
        let expected: BTreeMap<String, Option<String>> = machine
            .functions()
            .iter()
            .enumerate()
            .map(|(n, it)| (it.bdf.to_string(), grouping.of(n).map(|group| group.to_string())))
            .collect();
        prop_assert_eq!(drawn(&svg), expected);
        let document = roxmltree::Document::parse(&svg)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        for node in document.descendants() {
            prop_assert!(
                !matches!(node.tag_name().name(), "script" | "image" | "use" | "a"),
                "{:?}",
                node
            );
            prop_assert!(node.attributes().all(|attribute| !attribute.name().starts_with("on")
                && !attribute.name().contains("href")));
        }
    }

    // shows S2
    #[test]
    fn a_page_has_only_its_own_script_and_each_group_once(machine in machines()) {
        let grouping = grouped(&machine);
        let page = html(&machine, &grouping);
        prop_assert_eq!(page.matches("<script").count(), 1);
        prop_assert!(
            !page.contains("http:")
                || page.matches("http:").count()
                    == page.matches("http://www.w3.org/2000/svg").count()
        );
        for group in grouping.groups() {
            let id = format!(" id=\"group-{}\"", group.id);
            prop_assert_eq!(page.matches(&id).count(), 1);
        }
    }

    // shows S2
    #[test]
    fn the_text_has_a_line_for_each_function_and_obeys_no_name(machine in machines()) {
        let grouping = grouped(&machine);
        let text = text(&machine, &grouping);
        let short = machine.functions().iter().all(|it| it.bdf.segment() == 0);
        for it in machine.functions() {
            let address = it.bdf.to_string();
            let address = if short { &address[5..] } else { &address[..] };
            let lines = text.lines().filter(|line| {
                line.trim_start_matches(['│', '├', '└', '─', ' ']).split(' ').next()
                    == Some(address)
            });
            prop_assert_eq!(lines.count(), 1, "{} in\n{}", address, text);
        }
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", text);
        prop_assert!(
            !text.contains(char::from_u32(0x202e).unwrap_or(' ')),
            "it turns the direction of writing"
        );
    }
}

/// A switch without ACS at two of its ports, with long names.
fn switch() -> Machine {
    let name = |it: PciFunction, name: &str| PciFunction { name: Some(name.to_owned()), ..it };
    let all = AcsBits::ISOLATION;
    let root = bridge(at("00:01.0"), Some(ExpressKind::RootPort), 1, 4, Vec::new());
    let strong = bridge(at("02:00.0"), Some(ExpressKind::Downstream), 3, 3, Vec::new());
    let functions = vec![
        name(PciFunction { acs: acs(all, all), ..root }, "Example Corporation Root Port"),
        bridge(at("01:00.0"), Some(ExpressKind::Upstream), 2, 4, Vec::new()),
        PciFunction { acs: acs(all | AcsBits::TB, AcsBits::SV | AcsBits::UF), ..strong },
        bridge(at("02:01.0"), Some(ExpressKind::Downstream), 4, 4, Vec::new()),
        name(
            express(at("03:00.0"), ExpressKind::Endpoint),
            "Example Corporation Adapter with a name that is much longer than any line of a \
             terminal has room for",
        ),
        express(at("04:00.0"), ExpressKind::Endpoint),
    ];
    Machine::new(functions, Host::default())
}

#[test]
fn the_text_shows_groups_and_acs_and_fits_a_terminal() {
    let machine = switch();
    let text = text(&machine, &grouped(&machine));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "root bus 0000:00",
            "└─ 00:01.0           group 0  root port        SV+ RR+ CR+ UF+  Example Root Port",
            "   └─ 01:00.0        group 1  upstream port    1af4:0001",
            "      ├─ 02:00.0     group 2  downstream port  SV+ RR- CR- UF+  1af4:0001",
        ]
    );
    assert!(lines[5].contains("no ACS"), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    assert!(
        text.contains("6 functions in 4 groups") && text.contains("+ enabled; - off"),
        "{text}"
    );
}

#[test]
fn groups_with_several_members_have_areas_and_the_others_have_none() {
    let machine = switch();
    let svg = svg(&machine, &grouped(&machine));
    let document = roxmltree::Document::parse(&svg).expect("well-formed");
    let areas: BTreeSet<_> = document
        .descendants()
        .filter(|node| node.attribute("class") == Some("region"))
        .filter_map(|node| node.attribute("data-group"))
        .collect();
    assert_eq!(areas, BTreeSet::from(["2", "3"]));
}

// shows G1
#[test]
fn the_area_of_a_group_that_skips_a_row_leaves_what_is_between_out() {
    let port = |bdf, secondary| {
        bridge(at(bdf), Some(ExpressKind::RootPort), secondary, secondary, Vec::new())
    };
    let mut first = port("00:1c.0", 1);
    first.multifunction.value = true;
    let between =
        PciFunction { acs: acs(AcsBits::ISOLATION, AcsBits::ISOLATION), ..port("00:1c.3", 2) };
    let functions =
        vec![first, between, port("00:1c.4", 3), express(at("01:00.0"), ExpressKind::Endpoint)];
    let machine = Machine::new(functions, Host::default());
    let grouping = grouped(&machine);
    let scene = Scene::new(&machine, &grouping);
    let layout = Layout::new(&scene, "", "", &svg::colours(&grouping));
    let between = layout
        .boxes
        .iter()
        .find(|place| scene.nodes[place.node].bdf == at("00:1c.3"))
        .expect("drawn");
    assert_eq!(layout.regions.len(), 1);
    assert!(layout.regions[0].rects.iter().all(|rect| !overlap(*rect, between.rect)));
}
