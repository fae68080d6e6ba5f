//! A page around the drawing: below it every group with its members, why they share it and what
//! would part them.
//!
//! All of it is there without scripts; the one inline script only marks a group when one of its
//! functions is chosen.

use std::fmt::{self, Display, Formatter, Write as _};

use super::scene::{Node, Scene};
use super::style;
use super::svg::{self, Escaped};
use crate::groups::{Group, Grouping, Step, explain};
use crate::machine::Machine;

/// Groups whose advice is given; each takes several groupings of the machine.
const ADVISED: usize = 40;

/// Functions of a machine above which no advice is given, for the same reason.
const ADVISED_FUNCTIONS: usize = 2000;

/// Draws `machine` as an HTML page: the drawing of [`svg`](crate::picture::svg()), and its groups
/// in words. It refers to nothing outside and follows the viewer's light or dark scheme.
pub fn html(machine: &Machine, grouping: &Grouping) -> String {
    let scene = Scene::new(machine, grouping);
    let (title, subtitle) = svg::headline(machine, grouping);
    let mut drawing = String::new();
    svg::write(&mut drawing, machine, grouping, &scene, None);
    let groups = Groups::new(machine, grouping, &scene);
    let style = format!("{}{}{PAGE}{}", style::properties(":root"), style::classes(), colours());
    let mut out = String::new();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}: {}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n\
         <div class=\"drawing\">\n{drawing}</div>\n{groups}</main>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        Escaped(title),
        Escaped(&subtitle),
    );
    out
}

struct Groups<'a> {
    machine: &'a Machine,
    grouping: &'a Grouping,
    /// By number of the function.
    nodes: Vec<Option<&'a Node>>,
    colours: Box<dyn Fn(u32) -> Option<usize>>,
}

impl<'a> Groups<'a> {
    fn new(machine: &'a Machine, grouping: &'a Grouping, scene: &'a Scene) -> Self {
        let mut nodes = vec![None; machine.functions().len()];
        scene.nodes.iter().for_each(|node| nodes[node.function] = Some(node));
        Self { machine, grouping, nodes, colours: Box::new(svg::colours(grouping)) }
    }
}

impl Display for Groups<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let anomalies = self.machine.anomalies();
        if !anomalies.is_empty() {
            writeln!(f, "<h2>What cannot be, and was left out</h2>\n<ul>")?;
            anomalies.iter().try_for_each(|anomaly| {
                writeln!(f, "<li>{}</li>", Escaped(&anomaly.to_string()))
            })?;
            writeln!(f, "</ul>")?;
        }
        let (shared, alone): (Vec<&Group>, Vec<&Group>) =
            self.grouping.groups().iter().partition(|group| group.members.len() > 1);
        if !shared.is_empty() {
            writeln!(
                f,
                "<h2>Groups of several functions</h2>\n\
                 <p>Their devices can only be given away together; ports and bridges stay with the \
                 host.</p>\n<div class=\"cards\">"
            )?;
            let mut advised =
                if self.machine.functions().len() <= ADVISED_FUNCTIONS { ADVISED } else { 0 };
            for group in shared {
                self.card(f, group, advised > 0)?;
                advised = advised.saturating_sub(1);
            }
            writeln!(f, "</div>")?;
        }
        if !alone.is_empty() {
            writeln!(f, "<h2>Groups of one function</h2>\n<div class=\"table\"><table>\n<tbody>")?;
            alone.iter().try_for_each(|group| {
                group.members.iter().try_for_each(|member| self.row(f, Some(group.id), *member))
            })?;
            writeln!(f, "</tbody></table></div>")?;
        }
        let functions = 0..self.machine.functions().len();
        let none: Vec<usize> =
            functions.filter(|function| self.grouping.of(*function).is_none()).collect();
        if !none.is_empty() {
            writeln!(
                f,
                "<h2>In no group</h2>\n<p>No IOMMU translates their requests.</p>\n\
                 <div class=\"table\"><table>\n<tbody>"
            )?;
            none.iter().try_for_each(|function| self.row(f, None, *function))?;
            writeln!(f, "</tbody></table></div>")?;
        }
        Ok(())
    }
}

impl Groups<'_> {
    fn row(&self, f: &mut Formatter<'_>, group: Option<u32>, function: usize) -> fmt::Result {
        let Some(node) = self.nodes[function] else { return Ok(()) };
        let (id, number) = match group {
            Some(group) => {
                (format!(" id=\"group-{group}\" data-group=\"{group}\""), group.to_string())
            }
            None => (String::new(), "–".to_owned()),
        };
        writeln!(
            f,
            "<tr{id}><td><span class=\"number\">{number}</span></td><td><code>{}</code></td>\
             <td>{}</td><td>{}</td></tr>",
            node.bdf,
            Escaped(&node.kind),
            Escaped(&node.name)
        )
    }

    fn card(&self, f: &mut Formatter<'_>, group: &Group, advised: bool) -> fmt::Result {
        let colour = (self.colours)(group.id).unwrap_or_default();
        let id = group.id;
        writeln!(f, "<section class=\"card k{colour}\" id=\"group-{id}\" data-group=\"{id}\">")?;
        writeln!(
            f,
            "<h3><span class=\"number\">{id}</span> {} functions</h3>\n<table><tbody>",
            group.members.len()
        )?;
        for node in group.members.iter().filter_map(|member| self.nodes[*member]) {
            let (kind, name) = (Escaped(&node.kind), Escaped(&node.name));
            writeln!(
                f,
                "<tr><td><code>{}</code></td><td>{kind}</td><td>{name}</td></tr>",
                node.bdf
            )?;
        }
        writeln!(f, "</tbody></table>\n<h4>Why</h4>\n<ul>")?;
        for reason in &group.reasons {
            writeln!(f, "<li>{}</li>", Escaped(&reason.describe(self.machine, self.grouping)))?;
        }
        writeln!(f, "</ul>")?;
        if let (true, Some(last)) = (advised, group.reasons.last()) {
            let explanation = explain(self.machine, self.grouping, last.member);
            writeln!(
                f,
                "<details><summary>How {} came here, and what would help</summary>\n<ul>",
                self.machine.functions()[last.member].bdf
            )?;
            let steps = explanation.steps.iter().map(|step: &Step| step.describe(self.machine));
            let advice = explanation.advice.iter().map(|advice| advice.describe(self.machine));
            for line in steps.chain(advice) {
                writeln!(f, "<li>{}</li>", Escaped(&line))?;
            }
            writeln!(f, "</ul></details>")?;
        }
        writeln!(f, "</section>")
    }
}

/// The classes of cards: the colour of their group.
fn colours() -> String {
    (0..style::PALETTE)
        .map(|n| format!(".k{n}{{--area:var(--c{n});--edge:var(--c{n}line)}}\n"))
        .collect()
}

const PAGE: &str = "\
body{margin:0;background:var(--bg);color:var(--ink);\
font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',sans-serif}
main{padding:0 0 3rem}
h2{font-size:1.15rem;margin:2rem 28px .4rem}
p{margin:.2rem 28px 1rem;color:var(--muted)}
ul{margin:.3rem 0 .3rem;padding-left:1.2rem}
main>ul{margin-left:28px;margin-right:28px}
li{overflow-wrap:anywhere}
code{font:600 12.5px ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}
.drawing,.table{overflow-x:auto}
.drawing svg{display:block}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));\
gap:16px;margin:0 28px;align-items:start}
.card{border:1px solid var(--edge);border-left-width:6px;border-radius:8px;padding:.7rem 1rem;\
background:var(--box);min-width:0}
.card h3{margin:0 0 .5rem;font-size:1rem}
.card h4{margin:.7rem 0 0;font-size:.85rem;color:var(--muted)}
.card summary{cursor:pointer;color:var(--muted);font-size:.9rem}
.card li{font-size:.9rem}
.number{display:inline-block;min-width:1.4em;padding:0 .45em;border-radius:1em;\
text-align:center;font-weight:600;background:var(--edge,var(--pill));color:var(--bg)}
tr .number{color:var(--ink)}
table{border-collapse:collapse}
.table{margin:0 28px}
td{padding:.12rem .9rem .12rem 0;vertical-align:top}
td:nth-last-child(2){color:var(--muted);white-space:nowrap}
.node{cursor:pointer}
.marked .node:not(.chosen),.marked .region:not(.chosen){opacity:.25}
.card.chosen,tr.chosen{outline:2px solid var(--edge,var(--line));outline-offset:2px}
@media (prefers-reduced-motion:no-preference){.node,.region{transition:opacity .15s}}
";

/// Marks the group of the function that the pointer is on, and goes to its card on a click.
const SCRIPT: &str = "\
const svg = document.querySelector('.sva-topology');
const all = [...document.querySelectorAll('[data-group]')];
let held = null;
function mark(group) {
  svg.classList.toggle('marked', group !== null);
  for (const it of all) it.classList.toggle('chosen', group !== null && it.dataset.group === group);
}
for (const node of svg.querySelectorAll('.node[data-group]')) {
  node.addEventListener('pointerenter', () => mark(node.dataset.group));
  node.addEventListener('pointerleave', () => mark(held));
  node.addEventListener('click', (event) => {
    event.stopPropagation();
    held = held === node.dataset.group ? null : node.dataset.group;
    mark(held);
    if (held !== null) \
document.getElementById('group-' + held)?.scrollIntoView({ block: 'nearest' });
  });
}
svg.addEventListener('click', () => { held = null; mark(null); });
";
