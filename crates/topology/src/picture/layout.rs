//! The places of boxes, links, group regions and texts. Units are pixels, `y` grows downward.
//!
//! The hierarchy grows to the right: what is on a root bus is in the first column, what is below a
//! port one column further. A function takes the row of its first child, so a subtree is a block of
//! rows of its own and nothing can overlap. The members of a group are surrounded in each column
//! where they follow one another, and a port's surrounding is carried over the gap to the children
//! that share its group; members elsewhere have the same colour and number.

mod regions;

use super::boxes::{INDICATOR_BOX, NodeBox, indicator_tag, node_box};
use super::measure::{self, Face};
use super::scene::{AcsIndicator, AcsState, Scene};
use super::shapes::{Rect, Tag, Text, plain};
use super::style::{HEADING, LEGEND, SUBTITLE, TITLE};

/// The margin of the page.
const MARGIN: i32 = 28;
/// Width and height of a function's box.
const BOX: (i32, i32) = (312, 46);
/// The gaps between boxes, across and down.
const GAP: (i32, i32) = (44, 14);
/// The distance from a box to the edge of its group's region.
const PAD: i32 = 5;
/// The width of the bar of a root complex, and the gap to its first column.
const BAR: (i32, i32) = (14, 34);
/// The height of a line of text.
const LINE: i32 = 22;

/// What surrounds the members of one group.
pub(super) struct Region {
    pub(super) group: u32,
    /// The colour, an index into the palette.
    pub(super) colour: usize,
    pub(super) rects: Vec<Rect>,
}

/// The drawing, with the place of everything in it.
pub(super) struct Layout {
    pub(super) width: i32,
    pub(super) height: i32,
    pub(super) boxes: Vec<NodeBox>,
    /// Lines through these points.
    pub(super) links: Vec<Vec<(i32, i32)>>,
    pub(super) regions: Vec<Region>,
    /// The bars of the root complexes.
    pub(super) bars: Vec<Rect>,
    /// Title, headings, words of the legend.
    pub(super) texts: Vec<Text>,
    /// The samples of the legend.
    pub(super) samples: Vec<Tag>,
}

/// Where a node is: its column, and its row from the top of all.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    column: i32,
    row: i32,
    root: usize,
}

impl Layout {
    /// `colours` gives the colour of each group with several members.
    pub(super) fn new(
        scene: &Scene,
        title: &str,
        subtitle: &str,
        colours: &dyn Fn(u32) -> Option<usize>,
    ) -> Self {
        let mut cells = vec![Cell::default(); scene.nodes.len()];
        let mut rows = 0;
        for (root, bus) in scene.roots.iter().enumerate() {
            let first = rows;
            for node in &bus.children {
                rows += place(scene, *node, Cell { column: 0, row: rows, root }, &mut cells);
            }
            rows = rows.max(first + 1);
        }
        let columns = cells.iter().map(|cell| cell.column + 1).max().unwrap_or(1);
        let width = MARGIN * 2 + BAR.0 + BAR.1 + columns * (BOX.0 + GAP.0) - GAP.0;
        let mut layout = Self {
            width: width.max(760),
            height: 0,
            boxes: Vec::new(),
            links: Vec::new(),
            regions: Vec::new(),
            bars: Vec::new(),
            texts: Vec::new(),
            samples: Vec::new(),
        };
        let top = layout.head(title, subtitle);
        let bottom = layout.body(scene, &cells, top, colours);
        layout.regions(scene, &cells, colours);
        layout.height = layout.legend(bottom + 30) + MARGIN;
        layout
    }

    fn line(&mut self, y: i32, text: &str, face: Face) -> i32 {
        let room = self.width - 2 * MARGIN;
        #[expect(clippy::cast_possible_truncation, reason = "a font size")]
        let height = (face.size * 1.5) as i32;
        self.texts.push(plain(
            MARGIN,
            y,
            height,
            &measure::fitted(text, face, room.unsigned_abs()),
            face,
        ));
        y + height
    }

    fn head(&mut self, title: &str, subtitle: &str) -> i32 {
        let y = self.line(MARGIN - 6, title, TITLE);
        self.line(y + 2, subtitle, SUBTITLE) + 12
    }

    /// Boxes, links and root complexes, from `top` down; answers where they end.
    fn body(
        &mut self,
        scene: &Scene,
        cells: &[Cell],
        top: i32,
        colours: &dyn Fn(u32) -> Option<usize>,
    ) -> i32 {
        let pitch = BOX.1 + GAP.1;
        let heading = 40;
        let at = |cell: Cell| {
            let shift = i32::try_from(cell.root + 1).unwrap_or(i32::MAX).saturating_mul(heading);
            let x = MARGIN + BAR.0 + BAR.1 + cell.column * (BOX.0 + GAP.0);
            Rect::new(x, top + shift + cell.row * pitch, BOX.0, BOX.1)
        };
        let rects: Vec<Rect> = cells.iter().map(|cell| at(*cell)).collect();
        let mut bottom = top;
        for root in &scene.roots {
            let y = bottom + 12;
            let name = format!("Root complex, bus {}", root.name);
            self.texts.push(plain(MARGIN, y, LINE, &name, HEADING));
            let first = Rect::new(MARGIN, y + heading - 12, BAR.0, BOX.1);
            let last = last_of(scene, &root.children, &rects).unwrap_or(first);
            let bar = Rect::new(MARGIN, first.y, BAR.0, last.bottom() - first.y);
            self.bars.push(bar);
            bottom = bar.bottom() + GAP.1;
            let ends = root.children.iter().map(|child| rects[*child]);
            self.links.extend(
                ends.map(|rect| {
                    vec![(bar.right(), rect.y + BOX.1 / 2), (rect.x, rect.y + BOX.1 / 2)]
                }),
            );
        }
        for (n, node) in scene.nodes.iter().enumerate() {
            let from = (rects[n].right(), rects[n].y + BOX.1 / 2);
            for child in node.children.iter().map(|child| rects[*child]) {
                let (bend, to) = (from.0 + 16, child.y + BOX.1 / 2);
                self.links.push(if to == from.1 {
                    vec![from, (child.x, to)]
                } else {
                    vec![from, (bend, from.1), (bend, to), (child.x, to)]
                });
            }
            self.boxes.push(node_box(n, node, rects[n], node.group.and_then(colours)));
        }
        bottom
    }

    /// The legend from `y` down; answers where it ends.
    fn legend(&mut self, y: i32) -> i32 {
        let indicator = |state, assumed| AcsIndicator { name: "RR", state, assumed };
        let samples = [
            (indicator(AcsState::On, false), "enabled"),
            (indicator(AcsState::Off, false), "off"),
            (indicator(AcsState::NotImplemented, false), "not implemented: counts as given"),
            (indicator(AcsState::Quirk, false), "given by a quirk"),
            (indicator(AcsState::On, true), "dashed: assumed, not read"),
        ];
        let heads = "ACS services of a port: SV source validation, RR request redirect, CR \
                     completion redirect, UF upstream forwarding.";
        let mut y = self.wrapped(y, heads);
        let mut x = MARGIN;
        for (indicator, words) in samples {
            #[expect(clippy::cast_possible_wrap, reason = "a few hundred pixels")]
            let words_width = measure::width(words, LEGEND) as i32;
            let needed = INDICATOR_BOX.0 + 7 + words_width;
            if x > MARGIN && x + needed > self.width - MARGIN {
                x = MARGIN;
                y += LINE;
            }
            self.samples.push(indicator_tag(indicator, x, y + 2));
            self.texts.push(plain(x + INDICATOR_BOX.0 + 7, y, LINE - 3, words, LEGEND));
            x += needed + 20;
        }
        let regions = "A coloured area surrounds functions that share an IOMMU group; areas of one \
                       colour and number are one group. A number alone is a group of one function.";
        self.wrapped(y + LINE + 4, regions)
    }

    fn wrapped(&mut self, mut y: i32, text: &str) -> i32 {
        let room = (self.width - 2 * MARGIN).unsigned_abs();
        let mut line = String::new();
        for word in text.split(' ') {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if measure::width(&longer, LEGEND) > room && !line.is_empty() {
                self.texts.push(plain(MARGIN, y, LINE - 3, &line, LEGEND));
                y += LINE - 3;
                word.clone_into(&mut line);
            } else {
                line = longer;
            }
        }
        self.texts.push(plain(MARGIN, y, LINE - 3, &line, LEGEND));
        y + LINE
    }
}

/// Gives `node` and what is below it their cells; answers how many rows they take.
fn place(scene: &Scene, node: usize, cell: Cell, cells: &mut [Cell]) -> i32 {
    cells[node] = cell;
    let mut rows = 0;
    for child in &scene.nodes[node].children {
        rows += place(
            scene,
            *child,
            Cell { column: cell.column + 1, row: cell.row + rows, ..cell },
            cells,
        );
    }
    rows.max(1)
}

/// The lowest box of the subtrees `nodes`.
fn last_of(scene: &Scene, nodes: &[usize], rects: &[Rect]) -> Option<Rect> {
    let mut last = *nodes.last()?;
    while let Some(child) = scene.nodes[last].children.last() {
        last = *child;
    }
    Some(rects[last])
}
