//! Faces, colours and classes. Every colour is a custom property, one value for light and one for
//! dark; the light one also stands before it for viewers that know no custom properties.

use super::measure::Face;

const fn face(class: &'static str, size: f32, bold: bool, mono: bool) -> Face {
    Face { class, size, bold, mono }
}

pub(super) const TITLE: Face = face("title", 20.0, true, false);
pub(super) const SUBTITLE: Face = face("subtitle", 12.5, false, false);
pub(super) const HEADING: Face = face("heading", 13.0, true, false);
pub(super) const ADDRESS: Face = face("address", 12.5, true, true);
pub(super) const KIND: Face = face("kind", 11.0, false, false);
pub(super) const NAME: Face = face("name", 11.5, false, false);
pub(super) const INDICATOR: Face = face("lamptext", 9.5, true, false);
pub(super) const BADGE: Face = face("badgetext", 9.5, false, false);
pub(super) const PILL: Face = face("pilltext", 11.0, true, false);
pub(super) const LEGEND: Face = face("legend", 11.5, false, false);

/// All faces, for the style sheet.
const FACES: [Face; 10] =
    [TITLE, SUBTITLE, HEADING, ADDRESS, KIND, NAME, INDICATOR, BADGE, PILL, LEGEND];

/// How many colours groups have; they are told apart by their numbers as well.
pub(super) const PALETTE: usize = 8;

/// Names and values of the custom properties: light, dark. The eight group colours follow Okabe and
/// Ito, who chose them for colour-blind eyes: area and line each.
const COLOURS: [(&str, &str, &str); 28] = [
    ("bg", "#ffffff", "#14171c"),
    ("box", "#ffffff", "#1d2229"),
    ("line", "#8a94a3", "#6d7888"),
    ("ink", "#1a2029", "#e8ecf2"),
    ("muted", "#5a6575", "#a3aebd"),
    ("bar", "#5a6575", "#8b96a6"),
    ("on", "#00795f", "#3fc4a0"),
    ("onink", "#ffffff", "#0a1f19"),
    ("ontint", "#d9f0ea", "#123a31"),
    ("off", "#b93a10", "#ff9470"),
    ("pill", "#e9ecf1", "#323a45"),
    ("badge", "#4f5bb3", "#aab4ff"),
    ("c0", "#dcebfb", "#16304d"),
    ("c0line", "#1f6bb0", "#6db2f5"),
    ("c1", "#fdead2", "#472e10"),
    ("c1line", "#a85a00", "#f0a64f"),
    ("c2", "#d5f1ea", "#0d3c33"),
    ("c2line", "#007a60", "#47c8a8"),
    ("c3", "#f8e0ee", "#43213a"),
    ("c3line", "#a63c7d", "#e58fc8"),
    ("c4", "#faf2c0", "#3d3609"),
    ("c4line", "#7d6900", "#dccb4d"),
    ("c5", "#d8eff9", "#103847"),
    ("c5line", "#1d7ca6", "#6fcaf0"),
    ("c6", "#fadfd6", "#472117"),
    ("c6line", "#b5401a", "#f48e6d"),
    ("c7", "#e8e2fa", "#2d2650"),
    ("c7line", "#634bb0", "#b09cf2"),
];

/// The custom properties for `selector`, in light and dark.
pub(super) fn properties(selector: &str) -> String {
    let list = |value: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        COLOURS
            .iter()
            .map(|colour| format!("--{}:{};", colour.0, value(colour)))
            .collect::<String>()
    };
    let (light, dark) = (list(|colour| colour.1), list(|colour| colour.2));
    format!(
        "{selector}{{color-scheme:light dark;{light}}}\n\
         @media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}\n"
    )
}

/// `property:` with a colour, the light one first for viewers without custom properties.
fn colour(property: &str, name: &str) -> String {
    let light = COLOURS.iter().find(|colour| colour.0 == name).map_or("#000000", |colour| colour.1);
    format!("{property}:{light};{property}:var(--{name});")
}

/// The classes of the drawing, below `.sva-topology`.
pub(super) fn classes() -> String {
    let rule = |selector: &str, declarations: &[String]| {
        format!(".sva-topology {selector}{{{}}}\n", declarations.concat())
    };
    let fill = |name: &str| colour("fill", name);
    let stroke = |name: &str| colour("stroke", name);
    let text = |declaration: &str| declaration.to_owned();
    let mut sheet = String::new();
    for face in FACES {
        let family = if face.mono {
            "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"
        } else {
            "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',sans-serif"
        };
        let weight = if face.bold { 600 } else { 400 };
        let ink = match face.class {
            "subtitle" | "kind" | "legend" => "muted",
            "badgetext" => "badge",
            _ => "ink",
        };
        sheet += &rule(
            &format!(".{}", face.class),
            &[format!("font:{weight} {}px {family};", face.size), fill(ink)],
        );
    }
    sheet += &rule(".page", &[fill("bg")]);
    sheet += &rule(".box", &[fill("box"), stroke("line")]);
    sheet += &rule(".bar", &[fill("bar")]);
    sheet += &rule(".link", &[text("fill:none;stroke-width:1.5;"), stroke("line")]);
    sheet += &rule(".lamp", &[text("stroke-width:1.3;")]);
    sheet += &rule(".lamp.on", &[fill("on"), stroke("on")]);
    sheet += &rule(".lamp.on+text", &[fill("onink")]);
    sheet += &rule(".lamp.on.assumed,.sva-topology .lamp.quirk", &[fill("ontint"), stroke("on")]);
    sheet += &rule(".lamp.on.assumed+text,.sva-topology .lamp.quirk+text", &[fill("on")]);
    sheet += &rule(".lamp.off", &[text("fill:none;"), stroke("off")]);
    sheet += &rule(".lamp.off+text", &[fill("off")]);
    sheet += &rule(".lamp.absent", &[text("fill:none;stroke-dasharray:1 2.5;"), stroke("line")]);
    sheet += &rule(".lamp.absent+text", &[fill("muted")]);
    sheet += &rule(".lamp.assumed", &[text("stroke-dasharray:3.5 2;")]);
    sheet += &rule(".badge", &[text("fill:none;"), stroke("badge")]);
    sheet += &rule(".pill", &[fill("pill")]);
    for n in 0..PALETTE {
        sheet += &rule(&format!(".edge.c{n}"), &[fill(&format!("c{n}line"))]);
        sheet += &rule(&format!(".area.c{n}"), &[fill(&format!("c{n}"))]);
        sheet += &rule(&format!(".pill.c{n}"), &[fill(&format!("c{n}line"))]);
        sheet += &rule(&format!(".pill.c{n}+text"), &[fill("bg")]);
    }
    sheet
}
