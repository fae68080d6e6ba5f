//! What surrounds the members of each group.

use std::collections::HashMap;

use super::{Cell, GAP, Layout, PAD, Region};
use crate::picture::boxes::INSET;
use crate::picture::scene::Scene;
use crate::picture::shapes::Rect;

/// A rectangle of the region of a group.
type Part = (u32, Rect);

impl Layout {
    pub(super) fn regions(
        &mut self,
        scene: &Scene,
        cells: &[Cell],
        colours: &dyn Fn(u32) -> Option<usize>,
    ) {
        let (mut parts, run_of) = self.runs(scene, cells);
        self.over_gaps(scene, &run_of, &mut parts);
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

    /// In each column the members that follow one another, and for each node which of these runs it
    /// is in.
    fn runs(&self, scene: &Scene, cells: &[Cell]) -> (Vec<Part>, Vec<Option<usize>>) {
        let mut order: Vec<usize> = (0..scene.nodes.len()).collect();
        order.sort_by_key(|node| (cells[*node].column, cells[*node].row));
        let mut runs: Vec<Part> = Vec::new();
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
        (runs, run_of)
    }

    /// Adds the parts over the gaps, from a parent to its children. The first parts are the runs.
    fn over_gaps(&self, scene: &Scene, run_of: &[Option<usize>], parts: &mut Vec<Part>) {
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
    }
}
