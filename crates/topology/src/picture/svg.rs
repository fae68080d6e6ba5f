//! The drawing.

use std::fmt::{self, Display, Formatter, Write as _};

use super::layout::Layout;
use super::scene::{Node, Scene};
use super::shapes::{Rect, Tag, Text};
use super::style;
use crate::groups::Grouping;
use crate::machine::Machine;

/// Draws `machine` as an SVG document: root complexes, ports with their ACS services, devices,
/// links, and groups as coloured areas. It refers to nothing outside, has no scripts, and
/// follows the viewer's light or dark scheme.
pub fn svg(machine: &Machine, grouping: &Grouping) -> String {
    let scene = Scene::new(machine, grouping);
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let style = format!("{}{}", style::properties(".sva-topology"), style::classes());
    write(&mut out, machine, grouping, &scene, Some(&style));
    out
}

/// The number of the colour of a group: those with several members have one, in the order of their
/// numbers.
pub(super) fn colours(grouping: &Grouping) -> impl Fn(u32) -> Option<usize> + use<> {
    let shared: Vec<u32> = grouping
        .groups()
        .iter()
        .filter(|group| group.members.len() > 1)
        .map(|group| group.id)
        .collect();
    move |group| shared.binary_search(&group).ok().map(|place| place % style::PALETTE)
}

/// The title, and a line with the numbers.
pub(super) fn headline(machine: &Machine, grouping: &Grouping) -> (&'static str, String) {
    let count =
        |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let shared = grouping.groups().iter().filter(|group| group.members.len() > 1).count();
    let numbers = [
        count(machine.functions().len(), "function"),
        count(grouping.groups().len(), "group"),
        format!("{shared} of them shared"),
        format!("grouped by policy {}", grouping.policy()),
    ];
    ("PCI topology and IOMMU groups", numbers.join(" · "))
}

/// Writes the `svg` element, with `style` inside where it stands alone.
pub(super) fn write(
    out: &mut String,
    machine: &Machine,
    grouping: &Grouping,
    scene: &Scene,
    style: Option<&str>,
) {
    let (title, subtitle) = headline(machine, grouping);
    let layout = Layout::new(scene, title, &subtitle, &colours(grouping));
    let (w, h) = (layout.width, layout.height);
    let drawing = Drawing { machine, grouping, scene, layout: &layout, style };
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sva-topology\" viewBox=\"0 0 {w} {h}\" \
         width=\"{w}\" height=\"{h}\" role=\"img\">{drawing}</svg>"
    );
}

struct Drawing<'a> {
    machine: &'a Machine,
    grouping: &'a Grouping,
    scene: &'a Scene,
    layout: &'a Layout,
    style: Option<&'a str>,
}

impl Display for Drawing<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (title, subtitle) = headline(self.machine, self.grouping);
        writeln!(f, "\n<title>{}: {}</title>", Escaped(title), Escaped(&subtitle))?;
        if let Some(style) = self.style {
            writeln!(f, "<style>{style}</style>")?;
        }
        let layout = self.layout;
        writeln!(
            f,
            "<rect class=\"page\" width=\"{}\" height=\"{}\"/>",
            layout.width, layout.height
        )?;
        self.regions(f)?;
        for points in &layout.links {
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
            writeln!(f, "<polyline class=\"link\" points=\"{}\"/>", points.join(" "))?;
        }
        for bar in &layout.bars {
            writeln!(f, "<rect class=\"bar\" {} rx=\"4\"/>", Place(*bar))?;
        }
        layout.texts.iter().try_for_each(|line| text(f, line))?;
        layout.samples.iter().try_for_each(|sample| tag(f, sample))?;
        self.nodes(f)
    }
}

impl Drawing<'_> {
    /// For each group its outline, then its area over that: so the parts of an area have one
    /// outline.
    fn regions(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for region in &self.layout.regions {
            writeln!(f, "<g class=\"region\" data-group=\"{}\">", region.group)?;
            writeln!(f, "<title>{}</title>", Escaped(&self.about_group(region.group)))?;
            for rect in &region.rects {
                writeln!(
                    f,
                    "<rect class=\"edge c{}\" {} rx=\"9\"/>",
                    region.colour,
                    Place(rect.grown(1))
                )?;
            }
            for rect in &region.rects {
                writeln!(f, "<rect class=\"area c{}\" {} rx=\"8\"/>", region.colour, Place(*rect))?;
            }
            writeln!(f, "</g>")?;
        }
        Ok(())
    }

    fn nodes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for place in &self.layout.boxes {
            let node = &self.scene.nodes[place.node];
            let group =
                node.group.map_or_else(String::new, |group| format!(" data-group=\"{group}\""));
            writeln!(f, "<g class=\"node\" data-bdf=\"{}\"{group}>", node.bdf)?;
            writeln!(f, "<title>{}</title>", Escaped(&about(node)))?;
            writeln!(f, "<rect class=\"box\" {} rx=\"6\"/>", Place(place.rect))?;
            place.texts.iter().try_for_each(|line| text(f, line))?;
            place.tags.iter().try_for_each(|item| tag(f, item))?;
            writeln!(f, "</g>")?;
        }
        Ok(())
    }

    fn about_group(&self, id: u32) -> String {
        const MOST: usize = 12;
        let Some(group) = self.grouping.groups().get(id as usize) else { return String::new() };
        let mut lines = vec![format!("group {id}: {} functions", group.members.len())];
        lines.extend(
            group
                .reasons
                .iter()
                .take(MOST)
                .map(|reason| reason.describe(self.machine, self.grouping)),
        );
        lines.extend(
            (group.reasons.len() > MOST)
                .then(|| format!("and {} more", group.reasons.len() - MOST)),
        );
        lines.join("\n")
    }
}

/// What a pointer over a function shows.
fn about(node: &Node) -> String {
    let mut lines = vec![format!("{} {}", node.bdf, node.kind), node.name.clone()];
    lines.extend(node.ids.clone());
    lines.push(node.group.map_or_else(
        || "in no group: no IOMMU translates it".to_owned(),
        |group| format!("group {group}"),
    ));
    lines.extend(node.indicators.iter().flatten().map(|indicator| format!("ACS {indicator}")));
    lines.extend((!node.badges.is_empty()).then(|| node.badges.join(", ")));
    lines.join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn text(f: &mut Formatter<'_>, line: &Text) -> fmt::Result {
    let room = line.room;
    // A face's capitals are about seven tenths of its size: that centres them in their room.
    let y = room.y as f32 + room.h as f32 / 2.0 + line.face.size * 0.36;
    let (x, anchor) = if line.centred {
        (room.x as f32 + room.w as f32 / 2.0, " text-anchor=\"middle\"")
    } else {
        (room.x as f32, "")
    };
    writeln!(
        f,
        "<text class=\"{}\" x=\"{x}\" y=\"{y:.1}\"{anchor}>{}</text>",
        line.face.class,
        Escaped(&line.text)
    )
}

fn tag(f: &mut Formatter<'_>, item: &Tag) -> fmt::Result {
    let round = if item.class.starts_with("pill") { 8 } else { 4 };
    write!(f, "<rect class=\"{}\" {} rx=\"{round}\"/>", item.class, Place(item.rect))?;
    text(f, &item.text)
}

/// A rectangle as attributes.
struct Place(Rect);

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Rect { x, y, w, h } = self.0;
        write!(f, "x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"")
    }
}

/// Text for XML and HTML, in elements and in quoted attributes. What XML 1.0 has no place for
/// becomes a replacement character.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' => f.write_char(c)?,
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                    f.write_char('\u{fffd}')?
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
