//! The places of boxes, links, group regions and texts. Units are pixels, `y` grows downward.
//!
//! The hierarchy grows to the right: what is on a root bus is in the first column, what is below a
//! port one column further. A function takes the row of its first child, so a subtree is a block of
//! rows of its own and nothing can overlap. The members of a group are surrounded in each column
//! where they follow one another, and a port's surrounding is carried over the gap to the children
//! that share its group; members elsewhere have the same colour and number.

use std::collections::HashMap;

use super::measure::{self, Face};
use super::scene::{AcsIndicator, AcsState, Node, Scene};
use super::style::{
    ADDRESS, BADGE, HEADING, INDICATOR, KIND, LEGEND, NAME, PALETTE, PILL, SUBTITLE, TITLE,
};

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
/// The padding inside a box, left and right.
const INSET: i32 = 10;
/// Width and height of an ACS indicator.
const INDICATOR_BOX: (i32, i32) = (24, 15);
/// The gap between two indicators.
const INDICATOR_GAP: i32 = 3;
/// The height of a line of text.
const LINE: i32 = 22;

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) w: i32,
    pub(super) h: i32,
}

impl Rect {
    const fn new(x: i32, y: i32, w: i32, h: i32) -> Self {
        Self { x, y, w, h }
    }

    pub(super) const fn right(self) -> i32 {
        self.x + self.w
    }

    pub(super) const fn bottom(self) -> i32 {
        self.y + self.h
    }

    /// Larger by `by` on each side.
    pub(super) const fn grown(self, by: i32) -> Self {
        Self { x: self.x - by, y: self.y - by, w: self.w + 2 * by, h: self.h + 2 * by }
    }

    fn hull(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        Self {
            x,
            y,
            w: self.right().max(other.right()) - x,
            h: self.bottom().max(other.bottom()) - y,
        }
    }
}

/// A text, and the room that it takes at most.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// The room; the baseline is three quarters down.
    pub(super) room: Rect,
    pub(super) text: String,
    pub(super) face: Face,
    /// Whether it is centred in its room.
    pub(super) centred: bool,
}

/// A small rectangle with a text in it, such as an ACS indicator.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    pub(super) rect: Rect,
    /// Classes of the rectangle.
    pub(super) class: String,
    pub(super) text: Text,
}

/// A function.
pub(super) struct NodeBox {
    /// Index into [`Scene::nodes`].
    pub(super) node: usize,
    pub(super) rect: Rect,
    pub(super) texts: Vec<Text>,
    pub(super) tags: Vec<Tag>,
}

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

    fn regions(&mut self, scene: &Scene, cells: &[Cell], colours: &dyn Fn(u32) -> Option<usize>) {
        let mut order: Vec<usize> = (0..scene.nodes.len()).collect();
        order.sort_by_key(|node| (cells[*node].column, cells[*node].row));
        // In each column the members that follow one another, and for each node which of these runs
        // it is in.
        let mut runs: Vec<(u32, Rect)> = Vec::new();
        let mut run_of: Vec<Option<usize>> = vec![None; scene.nodes.len()];
        let mut last: Option<usize> = None;
        for node in order {
            let (rect, cell) = (self.boxes[node].rect, cells[node]);
            let follows = |before: usize| {
                let same = scene.nodes[before].group == scene.nodes[node].group;
                same && cells[before].column == cell.column && cells[before].root == cell.root
            };
            match (
                last.filter(|before| follows(*before)).and(runs.last_mut()),
                scene.nodes[node].group,
            ) {
                (_, None) => {}
                (Some((_, run)), Some(_)) => *run = run.hull(rect),
                (None, Some(group)) => runs.push((group, rect)),
            }
            run_of[node] = scene.nodes[node].group.map(|_| runs.len() - 1);
            last = Some(node);
        }
        let mut parts = runs;
        // Over the gaps, from a parent to its children.
        let mut before: HashMap<(Option<usize>, Option<usize>), Rect> = HashMap::new();
        for (node, parent) in scene.nodes.iter().enumerate() {
            let Some(group) = parent.group else { continue };
            let from = self.boxes[node].rect;
            for child in parent
                .children
                .iter()
                .copied()
                .filter(|child| scene.nodes[*child].group == parent.group)
            {
                let to = self.boxes[child].rect;
                let over = Rect::new(from.right(), to.y, to.x - from.right(), to.h);
                // Between two runs the gap is theirs from the first crossing to the last.
                let all = before.entry((run_of[node], run_of[child])).or_insert(over);
                *all = all.hull(over);
                // Down the gap, left of the regions of other children between.
                parts.push((
                    group,
                    Rect::new(
                        from.right() - INSET,
                        from.y,
                        INSET + GAP.0 / 2,
                        to.bottom() - from.y,
                    ),
                ));
            }
        }
        parts.extend(
            before
                .into_iter()
                .filter_map(|((run, _), over)| Some((parts.get(run?)?.0, over)))
                .collect::<Vec<_>>(),
        );
        let mut regions: Vec<Region> = Vec::new();
        parts.sort_by_key(|(group, rect)| (*group, rect.x, rect.y));
        for (group, rect) in parts {
            let Some(colour) = colours(group) else { continue };
            match regions.last_mut() {
                Some(region) if region.group == group => region.rects.push(rect.grown(PAD)),
                _ => regions.push(Region { group, colour, rects: vec![rect.grown(PAD)] }),
            }
        }
        self.regions = regions;
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

#[expect(clippy::cast_possible_wrap, reason = "a few hundred pixels")]
fn plain(x: i32, y: i32, h: i32, text: &str, face: Face) -> Text {
    let w = measure::width(text, face) as i32;
    Text { room: Rect::new(x, y, w, h), text: text.to_owned(), face, centred: false }
}

fn tag(rect: Rect, class: String, text: &str, face: Face) -> Tag {
    Tag { rect, class, text: Text { room: rect, text: text.to_owned(), face, centred: true } }
}

fn indicator_tag(indicator: AcsIndicator, x: i32, y: i32) -> Tag {
    let state = match indicator.state {
        AcsState::On => "on",
        AcsState::Off | AcsState::None => "off",
        AcsState::NotImplemented => "absent",
        AcsState::Quirk => "quirk",
    };
    let assumed = if indicator.assumed { " assumed" } else { "" };
    tag(
        Rect::new(x, y, INDICATOR_BOX.0, INDICATOR_BOX.1),
        format!("lamp {state}{assumed}"),
        indicator.name,
        INDICATOR,
    )
}

/// One function: address, kind and group above, name and ACS indicators or badges below.
fn node_box(index: usize, node: &Node, rect: Rect, colour: Option<usize>) -> NodeBox {
    let (mut texts, mut tags) = (Vec::new(), Vec::new());
    let (first, second) = (rect.y + 3, rect.y + 23);
    let number = node.group.map_or_else(|| "–".to_owned(), |group| group.to_string());
    #[expect(clippy::cast_possible_wrap, reason = "a few pixels")]
    let pill = (measure::width(&number, PILL) as i32 + 12).max(26);
    let class =
        colour.map_or_else(|| "pill".to_owned(), |colour| format!("pill c{}", colour % PALETTE));
    tags.push(tag(Rect::new(rect.right() - 6 - pill, first + 2, pill, 16), class, &number, PILL));
    let address = plain(rect.x + INSET, first, 20, &node.address, ADDRESS);
    let kind_at = address.room.right() + 9;
    let kind =
        measure::fitted(&node.kind, KIND, (rect.right() - 6 - pill - 8 - kind_at).unsigned_abs());
    texts.extend([address, plain(kind_at, first, 20, &kind, KIND)]);

    let mut right = rect.right() - 6;
    let below = second + 1;
    match node.indicators {
        Some(indicators)
            if indicators.iter().all(|indicator| indicator.state == AcsState::None) =>
        {
            let assumed = if indicators[0].assumed { " assumed" } else { "" };
            let w = 2 * INDICATOR_BOX.0 + INDICATOR_GAP;
            right -= w;
            tags.push(tag(
                Rect::new(right, below, w, INDICATOR_BOX.1),
                format!("lamp off{assumed}"),
                "no ACS",
                INDICATOR,
            ));
        }
        Some(indicators) => {
            for indicator in indicators.into_iter().rev() {
                right -= INDICATOR_BOX.0;
                tags.push(indicator_tag(indicator, right, below));
                right -= INDICATOR_GAP;
            }
        }
        None => {}
    }
    for badge in node.badges.iter().rev() {
        #[expect(clippy::cast_possible_wrap, reason = "a few pixels")]
        let w = measure::width(badge, BADGE) as i32 + 8;
        right -= w;
        tags.push(tag(
            Rect::new(right, below, w, INDICATOR_BOX.1),
            "badge".to_owned(),
            badge,
            BADGE,
        ));
        right -= INDICATOR_GAP;
    }
    let room = (right - 6 - rect.x - INSET).max(40).unsigned_abs();
    texts.push(plain(rect.x + INSET, second, 18, &measure::fitted(&node.short, NAME, room), NAME));
    NodeBox { node: index, rect, texts, tags }
}
