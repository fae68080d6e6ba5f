//! Random and damaged descriptions: nothing panics, everything ends, and what is refused is refused
//! in few words.

mod common;

use common::specs;
use proptest::prelude::*;
use sva_core::{AddrRange, Bdf};
use sva_pci::{Acs, AcsBits, BarSpec, DEFAULT_TOML, Fabric, FabricSpec, PortKind};

/// Reads, and where that succeeds draws.
fn exercise(text: &str) {
    match Fabric::from_toml(text) {
        Ok(fabric) => assert!(!sva_pci::render(&fabric).is_empty()),
        Err(error) => assert!(error.to_string().chars().count() < 2_000, "{error}"),
    }
}

/// Pieces that fabric files are made of, right and wrong.
fn token() -> impl Strategy<Value = String> {
    let pieces = r#"[[host_bridge]] [[port]] [[device]] [ ] { } = , " id parent kind bdf secondary
        acs bars windows address size "rc" "00:01.0" "root-port" "4K" 0x80000000 -1 1e99 true inf
        1979-05-27 ''' \u001b é # policy "strict" 99999999999999999999 reserved width"#;
    let mut pieces: Vec<&str> = pieces.split_whitespace().collect();
    pieces.extend(["\n", "\0", "\u{feff}", " "]);
    prop::sample::select(pieces).prop_map(str::to_owned)
}

type Edit = (prop::sample::Index, u8, String);

fn edit() -> impl Strategy<Value = Edit> {
    (any::<prop::sample::Index>(), any::<u8>(), token())
}

/// Inserts, deletes, replaces and doubles pieces.
fn damage(text: &str, edits: &[Edit]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for (at, kind, token) in edits {
        let at = at.index(text.len() + 1);
        let end = (at + token.len() * [0, 1, 1, 8][usize::from(kind % 4)]).min(text.len());
        let new: Vec<char> = match kind % 4 {
            0 | 2 => token.chars().collect(),
            1 => Vec::new(),
            _ => text[at..end].repeat(2),
        };
        text.splice(at..end, new);
    }
    text.into_iter().collect()
}

/// One digit of a text replaced by a number.
fn renumber(text: &str, at: prop::sample::Index, by: u64) -> String {
    let digits: Vec<usize> =
        text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
    let at = digits[at.index(digits.len())];
    format!("{}{by}{}", &text[..at], &text[at + 1..])
}

/// Puts one arbitrary value somewhere into a description.
fn distort(spec: &mut FabricSpec, what: u8, at: prop::sample::Index, value: u64) {
    let hosts = spec.host_bridges.iter().map(|host| host.id.clone());
    let names: Vec<String> = hosts.chain(spec.ports.iter().map(|port| port.id.clone())).collect();
    let name = names[value as usize % names.len()].clone();
    let bdf =
        Bdf::new(value as u32 >> 31, value as u8, (value >> 8) as u8 & 31, (value >> 13) as u8 & 7)
            .expect("in range");
    if what < 8 && !spec.ports.is_empty() {
        let n = at.index(spec.ports.len());
        let port = &mut spec.ports[n];
        match what {
            0 => port.parent = name,
            1 => port.id = name,
            2 => port.secondary = value as u8,
            3 => port.bdf = bdf,
            4 => {
                port.kind =
                    [PortKind::Root, PortKind::Upstream, PortKind::Downstream, PortKind::PciBridge]
                        [value as usize % 4]
            }
            5 => port
                .windows
                .extend(AddrRange::new(value & !0xf_ffff, value >> (value & 63) & !0xf_ffff)),
            6 => port.acs = Some(Acs { implemented: AcsBits::RR, enabled: AcsBits::ISOLATION }),
            _ => port.acs = None,
        }
    } else if !spec.functions.is_empty() {
        let n = at.index(spec.functions.len());
        let function = &mut spec.functions[n];
        match what & 3 {
            0 => function.bdf = bdf,
            1 => function.parent = name,
            2 => function.bars.push(BarSpec {
                index: value as u8 & 7,
                address: value << (value & 31),
                size: 1 << (value >> 5 & 63),
            }),
            _ => function.bars.iter_mut().for_each(|bar| bar.address ^= 1 << (value & 63)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    // shows S2
    #[test]
    fn no_random_text_breaks_the_reader(
        text in "\\PC{0,400}",
        tokens in prop::collection::vec(token(), 0..120),
    ) {
        exercise(&text);
        exercise(&tokens.join(" "));
        exercise(&tokens.concat());
    }

    // shows S2
    #[test]
    fn no_damage_to_a_good_file_breaks_the_reader(edits in prop::collection::vec(edit(), 1..8)) {
        exercise(&damage(DEFAULT_TOML, &edits));
    }

    // shows S2
    #[test]
    fn no_other_number_in_a_good_file_breaks_the_checks(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![0..10u64, any::<u64>()]),
            1..4,
        ),
    ) {
        exercise(
            &edits.iter().fold(DEFAULT_TOML.to_owned(), |text, (at, by)| renumber(&text, *at, *by)),
        );
    }

    // shows S2
    #[test]
    fn no_random_structure_breaks_the_checks(
        mut spec in specs(),
        changes in prop::collection::vec(
            (0..12u8, any::<prop::sample::Index>(), any::<u64>()),
            1..6,
        ),
    ) {
        for (what, at, value) in changes {
            distort(&mut spec, what, at, value);
        }
        if let Ok(fabric) = Fabric::new(spec) {
            prop_assert!(!sva_pci::render(&fabric).is_empty());
        }
    }
}
