//! The fabric as a tree of text.

use crate::fabric::runtime::Fabric;
use crate::fabric::view::{
    AcsView, FabricView, FunctionView, GroupView, HostBridgeView, NodeView, PortView, RangeView,
};
use crate::number::size_text;

/// Columns of a line of [`render`].
const COLUMNS: usize = 100;

/// Draws the fabric: ports with their ACS as lspci writes it, windows, functions with their
/// capabilities, groups.
///
/// Lines are wrapped at 100 columns. ACS shows the implemented services, `+` where enabled. The
/// text ends with a line feed.
pub fn render(fabric: &Fabric) -> String {
    render_within(fabric, COLUMNS)
}

/// As [`render`], with lines that are wrapped at so many columns. A line that is one word is longer
/// where that word is.
pub fn render_within(fabric: &Fabric, columns: usize) -> String {
    let view = FabricView::new(fabric);
    let mut out = Drawing { text: String::new(), columns };
    let demand = match view.policy.as_str() {
        "strict" => "a bind asks for ACS RR and UF and the TLP prefix on the whole path",
        _ => "a bind asks nothing of the path",
    };
    out.line("", "", &format!("policy {}: {demand}", view.policy));
    for host in &view.host_bridges {
        out.line("", "", "");
        host_lines(&mut out, host);
    }
    out.line("", "", "");
    out.line("", "", "groups");
    view.groups.iter().for_each(|group| group_lines(&mut out, group));
    out.text
}

struct Drawing {
    text: String,
    columns: usize,
}

impl Drawing {
    /// Writes `text` after `first`, wrapped, with `rest` before what goes on in another line.
    fn line(&mut self, first: &str, rest: &str, text: &str) {
        let mut column = first.chars().count();
        self.text.push_str(first);
        let mut at_start = true;
        for word in text.split(' ') {
            let length = word.chars().count();
            if !at_start && column + 1 + length > self.columns {
                self.end();
                self.text.push_str(rest);
                column = rest.chars().count();
                at_start = true;
            }
            if !at_start {
                self.text.push(' ');
                column += 1;
            }
            self.text.push_str(word);
            column += length;
            at_start = false;
        }
        self.end();
    }

    fn end(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// The branches of one element: before its first line, before its further lines, before its
/// children.
struct Branch {
    head: String,
    body: String,
    below: String,
}

fn branch(before: &str, last: bool, has_children: bool) -> Branch {
    let (tee, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    let inner = if has_children { "│    " } else { "     " };
    Branch {
        head: format!("{before}{tee}"),
        body: format!("{before}{bar}{inner}"),
        below: format!("{before}{bar}"),
    }
}

fn host_lines(out: &mut Drawing, host: &HostBridgeView) {
    let p2p = if host.p2p { "forwards between peers" } else { "no peer-to-peer" };
    out.line("", "  ", &format!("{} host bridge {}, {p2p}", host.bdf, host.id));
    let body = if host.children.is_empty() { "     " } else { "│    " };
    let continued = format!("{body}  ");
    host.windows
        .iter()
        .for_each(|window| out.line(body, &continued, &format!("window {}", range(window))));
    host.reserved
        .iter()
        .for_each(|reserved| out.line(body, &continued, &format!("reserved {}", range(reserved))));
    nodes(out, "", &host.children);
}

fn nodes(out: &mut Drawing, before: &str, nodes: &[NodeView]) {
    for (n, node) in nodes.iter().enumerate() {
        let last = n + 1 == nodes.len();
        match node {
            NodeView::Port(port) => port_lines(out, before, last, port),
            NodeView::Function(function) => function_lines(out, before, last, function),
        }
    }
}

fn port_lines(out: &mut Drawing, before: &str, last: bool, port: &PortView) {
    let at = branch(before, last, !port.children.is_empty());
    let continued = format!("{}  ", at.body);
    let buses = if port.secondary == port.subordinate {
        format!("bus {:02x}", port.secondary)
    } else {
        format!("buses {:02x}-{:02x}", port.secondary, port.subordinate)
    };
    out.line(&at.head, &at.body, &format!("{} {} {}, {buses}", port.bdf, port.kind, port.id));
    if matches!(port.kind, "root-port" | "downstream") {
        out.line(&at.body, &continued, &acs(port.acs.as_ref()));
    }
    if !port.tlp_prefix && port.kind != "pci-bridge" {
        out.line(&at.body, &continued, "drops TLP prefixes: no PASID passes");
    }
    port.windows
        .iter()
        .for_each(|window| out.line(&at.body, &continued, &format!("window {}", range(window))));
    nodes(out, &at.below, &port.children);
}

fn function_lines(out: &mut Drawing, before: &str, last: bool, function: &FunctionView) {
    let at = branch(before, last, false);
    let continued = format!("{}  ", at.body);
    let model = function.model.as_deref().unwrap_or("endpoint");
    out.line(
        &at.head,
        &at.body,
        &format!("{} {model}, group {}: {}", function.bdf, function.group, capabilities(function)),
    );
    if function.requester != function.bdf {
        out.line(&at.body, &continued, &format!("issues requests as {}", function.requester));
    }
    if function.acs.is_some() {
        out.line(&at.body, &continued, &acs(function.acs.as_ref()));
    }
    for bar in &function.bars {
        out.line(&at.body, &continued, &format!("BAR {} {}", bar.index, range(&bar.range)));
    }
    if let Some(defect) = &function.path_defect {
        out.line(&at.body, &continued, &format!("path: {defect}"));
    }
    if let (true, Some(port)) = (function.ats, &function.translation_blocked) {
        out.line(&at.body, &continued, &format!("ATS: {port} stops translated requests"));
    }
    for caught in &function.caught {
        let what = if caught.claimed { "caught by" } else { "lost in" };
        out.line(
            &at.body,
            &continued,
            &format!("{what} {}: {}", caught.decoder, range(&caught.range)),
        );
    }
    if function.caught_more > 0 {
        out.line(
            &at.body,
            &continued,
            &format!("and {} more ranges that do not reach the IOMMU", function.caught_more),
        );
    }
}

fn capabilities(function: &FunctionView) -> String {
    let mut parts = Vec::new();
    match &function.pasid {
        Some(pasid) => {
            let mut text = format!("PASID {} bits", pasid.width);
            [(pasid.execute, " exec"), (pasid.privileged, " priv")]
                .iter()
                .filter(|(on, _)| *on)
                .for_each(|(_, name)| text.push_str(name));
            parts.push(text);
        }
        None => parts.push("no PASID".to_owned()),
    }
    parts.extend(function.ats.then(|| "ATS".to_owned()));
    parts.extend(function.pri.map(|requests| format!("PRI {requests}")));
    parts.extend(function.page_faults.then(|| "page faults".to_owned()));
    parts.join(", ")
}

fn acs(acs: Option<&AcsView>) -> String {
    let Some(acs) = acs else { return "no ACS".to_owned() };
    let sign = |name| if acs.enabled.contains(name) { '+' } else { '-' };
    acs.implemented
        .iter()
        .fold("ACS".to_owned(), |text, name| format!("{text} {name}{}", sign(name)))
}

fn range(range: &RangeView) -> String {
    format!("[{}, {}] {}", range.first, range.last, size_text(range.size))
}

fn group_lines(out: &mut Drawing, group: &GroupView) {
    let members = group.members.join(" ");
    let because = group.because.as_ref().map(|because| format!(": {because}")).unwrap_or_default();
    out.line("  ", "      ", &format!("{:<3} {members}{because}", group.number));
}
