//! Directed graphs of a few hundred nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A directed graph.
pub(super) struct Graph<N> {
    next: BTreeMap<N, BTreeSet<N>>,
}

impl<N: Copy + Ord> Graph<N> {
    pub(super) fn new(edges: impl Iterator<Item = (N, N)>) -> Self {
        let mut next: BTreeMap<N, BTreeSet<N>> = BTreeMap::new();
        for (from, to) in edges {
            next.entry(from).or_default().insert(to);
        }
        Self { next }
    }

    /// The strongly connected components of more than one node.
    pub(super) fn circles(&self) -> Vec<BTreeSet<N>> {
        let reach: BTreeMap<N, BTreeSet<N>> =
            self.next.keys().map(|node| (*node, self.reachable(*node))).collect();
        let mut found: Vec<BTreeSet<N>> = Vec::new();
        for (node, reached) in &reach {
            if !reached.contains(node) || found.iter().any(|circle| circle.contains(node)) {
                continue;
            }
            let back = reached
                .iter()
                .filter(|other| reach.get(other).is_some_and(|reached| reached.contains(node)));
            found.push(back.copied().collect());
        }
        found.retain(|circle| circle.len() > 1);
        found
    }

    /// Ways round, as short as they can be, that together touch every node of a circle.
    pub(super) fn rounds(&self, circle: &BTreeSet<N>) -> Vec<Vec<(N, N)>> {
        let mut touched = BTreeSet::new();
        let mut rounds = Vec::new();
        for node in circle {
            if !touched.contains(node) {
                let round = self.shortest_round(*node);
                touched.extend(round.iter().map(|(from, _)| *from));
                rounds.push(round);
            }
        }
        rounds
    }

    /// What can be reached by one edge or more.
    fn reachable(&self, start: N) -> BTreeSet<N> {
        let mut reached = BTreeSet::new();
        let mut ahead = vec![start];
        while let Some(node) = ahead.pop() {
            ahead.extend(
                self.next
                    .get(&node)
                    .into_iter()
                    .flatten()
                    .copied()
                    .filter(|next| reached.insert(*next)),
            );
        }
        reached
    }

    /// The edges of the shortest way from a node back to itself; none where there is no such way.
    fn shortest_round(&self, start: N) -> Vec<(N, N)> {
        let mut came_from: BTreeMap<N, N> = BTreeMap::new();
        let mut ahead = VecDeque::from([start]);
        while let Some(node) = ahead.pop_front() {
            for next in self.next.get(&node).into_iter().flatten() {
                if !came_from.contains_key(next) {
                    came_from.insert(*next, node);
                    ahead.push_back(*next);
                }
            }
        }
        let mut edges = Vec::new();
        let mut node = start;
        while let Some(before) = came_from.get(&node) {
            edges.push((*before, node));
            node = *before;
            if node == start {
                break;
            }
        }
        edges.reverse();
        edges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_the_components_and_rounds_touch_all_of_them() {
        // 1 -> 2 -> 3 -> 1 with a second way 2 -> 4 -> 2, a circle 6 <-> 7 apart, and 5 in none.
        let edges =
            [(1, 2), (2, 3), (3, 1), (2, 4), (4, 2), (4, 5), (6, 7), (7, 6), (5, 6), (8, 8)];
        let graph = Graph::new(edges.into_iter());
        assert_eq!(graph.circles(), [BTreeSet::from([1, 2, 3, 4]), BTreeSet::from([6, 7])]);
        let rounds = graph.rounds(&BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(rounds, [vec![(1, 2), (2, 3), (3, 1)], vec![(4, 2), (2, 4)]]);
    }
}
