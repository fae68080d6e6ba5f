//! The tree for a terminal.

use std::fmt::Write as _;

use super::scene::{AcsState, Node, Scene, shortened};
use crate::groups::Grouping;
use crate::machine::Machine;

/// Columns of a line of [`text`].
const COLUMNS: usize = 100;

/// The least that is left of a name.
const LEAST_NAME: usize = 16;

/// Draws `machine` as a tree: one line for each function with its group, kind, ACS services and
/// name. The text ends with a line feed. Names are shortened, so that a line has at most 100
/// columns where its other parts permit.
///
/// ACS shows SV, RR, CR and UF of ports, and of functions that have the capability: `+` enabled,
/// `-` off, `.` not implemented (which Linux counts as given), `*` given by a quirk; `?` after them
/// where that is assumed. The legend below the tree explains those signs that occur.
pub fn text(machine: &Machine, grouping: &Grouping) -> String {
    text_within(machine, grouping, COLUMNS)
}

/// As [`text`], with lines of at most so many columns.
pub fn text_within(machine: &Machine, grouping: &Grouping, columns: usize) -> String {
    let scene = Scene::new(machine, grouping);
    let mut lines = Vec::new();
    for root in &scene.roots {
        lines.push(Line::Root(&root.name));
        branches(&scene, &root.children, "", &mut lines);
    }
    let columns = Columns::of(&lines, columns);
    let mut out = String::new();
    for line in &lines {
        match line {
            Line::Root(name) if out.is_empty() => drop(writeln!(out, "root bus {name}")),
            Line::Root(name) => drop(writeln!(out, "\nroot bus {name}")),
            Line::Node { before, node } => columns.write(&mut out, before, node),
        }
    }
    out.push('\n');
    legend(&mut out, &scene);
    out
}

enum Line<'a> {
    Root(&'a str),
    Node { before: String, node: &'a Node },
}

fn branches<'a>(scene: &'a Scene, nodes: &[usize], before: &str, lines: &mut Vec<Line<'a>>) {
    for (n, &at) in nodes.iter().enumerate() {
        let (tee, bar) =
            if n + 1 == nodes.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let node = &scene.nodes[at];
        lines.push(Line::Node { before: format!("{before}{tee}"), node });
        branches(scene, &node.children, &format!("{before}{bar}"), lines);
    }
}

/// Widths of the columns and of the whole line, in characters.
struct Columns {
    line: usize,
    address: usize,
    group: usize,
    kind: usize,
}

impl Columns {
    fn of(lines: &[Line<'_>], columns: usize) -> Self {
        let widest = |width: &dyn Fn(&str, &Node) -> usize| {
            let widths = lines.iter().filter_map(|line| {
                if let Line::Node { before, node } = line {
                    Some(width(before, node))
                } else {
                    None
                }
            });
            widths.max().unwrap_or(0)
        };
        Self {
            line: columns,
            address: widest(&|before, node| before.chars().count() + node.address.len()),
            group: widest(&|_, node| group(node).len()),
            kind: widest(&|_, node| node.kind.chars().count()),
        }
    }

    fn write(&self, out: &mut String, before: &str, node: &Node) {
        let start = out.len();
        let address = self.address - before.chars().count();
        let _ = write!(
            out,
            "{before}{:address$}  {:>3$}  {:4$}",
            node.address,
            group(node),
            node.kind,
            self.group,
            self.kind
        );
        // ACS stands before the name, not in a column of its own: most functions have none.
        let acs = acs(node);
        if !acs.is_empty() {
            let _ = write!(out, "  {acs}");
        }
        let badges: String = node.badges.iter().map(|badge| format!("  {badge}")).collect();
        let used = out[start..].chars().count() + 2 + badges.chars().count();
        let _ = write!(
            out,
            "  {}{badges}",
            shortened(&node.short, self.line.saturating_sub(used).max(LEAST_NAME))
        );
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

fn group(node: &Node) -> String {
    node.group.map_or_else(|| "no group".to_owned(), |group| format!("group {group}"))
}

fn acs(node: &Node) -> String {
    let Some(indicators) = node.indicators else { return String::new() };
    if indicators.iter().all(|indicator| indicator.state == AcsState::None) {
        return if indicators[0].assumed { "no ACS?".to_owned() } else { "no ACS".to_owned() };
    }
    let signs: Vec<String> = indicators
        .iter()
        .map(|indicator| format!("{}{}", indicator.name, indicator.state.sign()))
        .collect();
    let assumed = if indicators.iter().any(|indicator| indicator.assumed) { "?" } else { "" };
    format!("{}{assumed}", signs.join(" "))
}

fn legend(out: &mut String, scene: &Scene) {
    let indicators = || scene.nodes.iter().filter_map(|node| node.indicators).flatten();
    let states = [AcsState::On, AcsState::Off, AcsState::NotImplemented, AcsState::Quirk];
    let mut parts: Vec<String> = states
        .into_iter()
        .filter(|state| indicators().any(|indicator| indicator.state == *state))
        .map(|state| format!("{} {}", state.sign(), state.words()))
        .collect();
    parts.extend(
        indicators().any(|indicator| indicator.assumed).then(|| "? assumed, not read".to_owned()),
    );
    let count =
        |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let _ = writeln!(
        out,
        "{} in {}",
        count(scene.nodes.len(), "function"),
        count(scene.groups, "group")
    );
    if !parts.is_empty() {
        let _ = writeln!(out, "ACS: {}", parts.join("; "));
    }
}
