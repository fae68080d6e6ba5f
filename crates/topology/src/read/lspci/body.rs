//! The body of a function: fields known by their keys.

use sva_core::AddrRange;

use crate::acs::AcsBits;
use crate::machine::{
    BarReading, Buses, ExpressKind, ExpressReading, FunctionReading, HeaderReading, Hex, ListState,
    limit,
};
use crate::read::sanitize::sanitize;

use super::head;

/// Whether a line is the first of a body, as opposed to the rest of a title that a mail program
/// wrapped.
pub(super) fn begins_body(line: &str) -> bool {
    const FIRST: [&str; 20] = [
        "Bus:",
        "IOMMU group:",
        "NUMA node:",
        "Latency:",
        "Interrupt:",
        "Region ",
        "Memory at ",
        "Memory behind ",
        "Prefetchable memory ",
        "I/O ",
        "Subsystem:",
        "DeviceName:",
        "Device tree node:",
        "Physical Slot:",
        "Flags:",
        "Control:",
        "Capabilities:",
        "Kernel driver ",
        "Kernel modules:",
        "!!! ",
    ];
    FIRST.iter().any(|start| line.starts_with(start))
}

/// Whether a line goes on with a body after a blank line: most of its lines begin with a word and a
/// colon.
pub(super) fn continues_body(line: &str) -> bool {
    const OTHERS: [&str; 9] = [
        "Memory ",
        "Prefetchable memory ",
        "I/O ",
        "Region ",
        "Expansion ROM ",
        "[virtual] ",
        "IOMMU group:",
        "NUMA node:",
        "Secondary status:",
    ];
    let first = line.split_whitespace().next().unwrap_or_default();
    let key = first.ends_with(':') && first.starts_with(|c: char| c.is_ascii_alphabetic());
    key || begins_body(line) || OTHERS.iter().any(|start| line.starts_with(start))
}

/// What of a body is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Nothing,
    /// The end of it.
    End,
    /// Something that was left out, as the text says.
    Part,
}

/// Reads the words of a body.
pub(super) fn read(words: &[&str], missing: Missing, function: &mut FunctionReading) {
    let mut body = Body { function, seen: Seen::default(), bar: 0 };
    let mut rest = words;
    while let Some((_, after)) = rest.split_first() {
        body.field(rest);
        rest = after;
    }
    body.close(missing);
}

/// What decides how complete the lists are.
#[derive(Default)]
struct Seen {
    /// Fields that every verbose listing has.
    verbose: bool,
    /// A capability, whose registers may be named like fields of the header.
    capability: bool,
    extended: bool,
    hidden: bool,
    broken: bool,
    bridge: bool,
}

struct Body<'f> {
    function: &'f mut FunctionReading,
    seen: Seen,
    /// The number of the next BAR.
    bar: u8,
}

impl Body<'_> {
    /// Reads the field that begins at the first of `words`, if one does.
    fn field(&mut self, words: &[&str]) {
        match words {
            ["Flags:" | "Control:", ..] => self.seen.verbose = true,
            ["!!!", "Unknown", "header", ..] => self.seen.hidden = true,
            // Of a page in HTML the mark is `&lt;access denied&gt;`.
            ["Capabilities:", mark, denied, ..]
                if mark.ends_with("access") && denied.starts_with("denied") =>
            {
                self.seen.hidden = true
            }
            ["Capabilities:", place, ..] if !place.starts_with('[') => self.seen.broken = true,
            ["Capabilities:", place, name @ ..] => self.capability(place, name),
            ["Kernel", "driver", "in", "use:", name, ..] => {
                self.function.driver = Some(sanitize(name))
            }
            ["IOMMU", "group:", number, ..] => self.function.kernel_group = number.parse().ok(),
            _ if self.seen.capability => self.register(words),
            _ => self.header(words),
        }
    }

    /// Fields of the header, which precede all capabilities.
    fn header(&mut self, words: &[&str]) {
        match words {
            ["Bus:", _primary, secondary, subordinate, ..] => {
                self.seen.bridge = true;
                let number = |word: &str, key| {
                    u8::from_str_radix(word.strip_prefix(key)?.trim_end_matches(','), 16).ok()
                };
                let buses =
                    number(secondary, "secondary=").zip(number(subordinate, "subordinate="));
                self.function.buses =
                    buses.map(|(secondary, subordinate)| Buses { secondary, subordinate });
            }
            ["Subsystem:", rest @ ..] => {
                let ids = rest
                    .iter()
                    .take(24)
                    .take_while(|word| !word.ends_with(':'))
                    .find_map(|word| head::numbers(word).1);
                self.function.subsystem = ids.or(self.function.subsystem);
            }
            ["Region", number, ..] => {
                self.bar = number.trim_end_matches(':').parse().unwrap_or(self.bar)
            }
            ["Memory", "at", address, rest @ ..] => self.memory(address, rest),
            ["I/O", "ports", "at", ..] => self.bar = self.bar.saturating_add(1),
            ["Memory" | "memory", "behind", "bridge:", range, rest @ ..]
            | ["Memory", "window", _, range, rest @ ..] => {
                let open = !rest.iter().take(2).any(|word| *word == "[disabled]");
                if let Some(window) =
                    range_of(range).filter(|_| open && self.function.windows.len() < limit::RANGES)
                {
                    self.function.windows.push(window);
                }
            }
            _ => {}
        }
    }

    fn memory(&mut self, address: &str, rest: &[&str]) {
        let wide = rest.first().is_some_and(|word| word.starts_with("(64-bit"));
        let index = self.bar;
        self.bar = self.bar.saturating_add(1 + u8::from(wide));
        let mine = rest.iter().take(6).take_while(|word| {
            !matches!(**word, "Region" | "Memory" | "I/O" | "Expansion" | "Capabilities:")
        });
        let size =
            mine.filter_map(|word| size_of(word.strip_prefix("[size=")?.strip_suffix(']')?)).next();
        if let Ok(address) = u64::from_str_radix(address, 16)
            && index < 6
        {
            self.function.bars.push(BarReading {
                index,
                address: Hex(address),
                size: size.map(Hex),
            });
        }
    }

    /// A capability's title.
    fn capability(&mut self, place: &str, name: &[&str]) {
        self.seen.capability = true;
        let Some(offset) = place.strip_prefix('[').map(|text| text.trim_end_matches(']')) else {
            return;
        };
        self.seen.extended |= offset.len() >= 3;
        let name = match name {
            [version, name @ ..] if version.starts_with('v') && version.ends_with(']') => name,
            name => name,
        };
        let function = &mut *self.function;
        match name {
            ["Express", kind @ ..] => function.express = express(kind).or(function.express),
            ["Access", "Control", "Services", ..] => {
                function.acs.get_or_insert_default();
            }
            ["Address", "Translation", "Service", ..] => {
                function.ats.get_or_insert_default();
            }
            ["Page", "Request", "Interface", ..] => {
                function.pri.get_or_insert_default();
            }
            ["Process", "Address", "Space", ..] => {
                function.pasid.get_or_insert_default();
            }
            ["Single", "Root", "I/O", "Virtualization", ..] => {
                function.sriov.get_or_insert_default();
            }
            _ => {}
        }
    }

    /// A register of a capability.
    fn register(&mut self, words: &[&str]) {
        let function = &mut *self.function;
        let switch = |flags: &[&str], name| flags.iter().take(8).find_map(|word| flag(word, name));
        match words {
            ["ACSCap:", flags @ ..] => {
                function.acs.get_or_insert_default().implemented = acs_bits(flags)
            }
            ["ACSCtl:", flags @ ..] => {
                function.acs.get_or_insert_default().enabled = acs_bits(flags)
            }
            ["ATSCtl:", flags @ ..] => {
                function.ats.get_or_insert_default().enabled = switch(flags, "Enable")
            }
            ["PRICtl:", flags @ ..] => {
                function.pri.get_or_insert_default().enabled = switch(flags, "Enable")
            }
            ["PASIDCtl:", flags @ ..] => {
                function.pasid.get_or_insert_default().enabled = switch(flags, "Enable")
            }
            ["PASIDCap:", flags @ ..] => {
                let pasid = function.pasid.get_or_insert_default();
                (pasid.execute, pasid.privileged) = (switch(flags, "Exec"), switch(flags, "Priv"));
            }
            ["Max", "PASID", "Width:", width, ..] => {
                function.pasid.get_or_insert_default().width =
                    u8::from_str_radix(width, 16).ok().filter(|width| *width < 32);
            }
            ["Page", "Request", "Capacity:", capacity, ..] => {
                function.pri.get_or_insert_default().capacity =
                    u32::from_str_radix(capacity.trim_end_matches(','), 16).ok();
            }
            ["IOVCtl:", flags @ ..] => {
                function.sriov.get_or_insert_default().enabled = switch(flags, "Enable")
            }
            ["Number", "of", "VFs:", number, ..] => {
                function.sriov.get_or_insert_default().functions = decimal(number)
            }
            ["VF", "offset:", offset, "stride:", stride, ..] => {
                let sriov = function.sriov.get_or_insert_default();
                (sriov.offset, sriov.stride) = (decimal(offset), decimal(stride));
            }
            [word, ..] => {
                if let Some(on) = flag(word, "EETLPPrefix")
                    && let Some(express) = &mut function.express
                {
                    express.end_to_end_prefix = Some(on);
                }
            }
            [] => {}
        }
    }

    /// Concludes how much was shown, and which header it is.
    fn close(self, missing: Missing) {
        let Self { function, seen, .. } = self;
        let (mut capabilities, mut extended) = match () {
            () if seen.hidden => (ListState::Hidden, ListState::Hidden),
            () if seen.broken => (ListState::Truncated, ListState::Truncated),
            () if seen.verbose || seen.capability => (ListState::Complete, ListState::Complete),
            () => (ListState::NotPrinted, ListState::NotPrinted),
        };
        if missing != Missing::Nothing && capabilities != ListState::Hidden {
            extended = ListState::Truncated;
            // Extended capabilities come last.
            if !seen.extended || missing == Missing::Part {
                capabilities = ListState::Truncated;
            }
        }
        (function.capabilities, function.extended) = (capabilities, extended);
        let card_bus = function.class_code() == Some(0x0607)
            || function.class_name.as_deref() == Some("CardBus bridge");
        if seen.bridge {
            function.header =
                Some(if card_bus { HeaderReading::CardBus } else { HeaderReading::Bridge });
        }
    }
}

/// The device or port type, as the title of the capability words it.
fn express(words: &[&str]) -> Option<ExpressReading> {
    let (version, words) = match words {
        [version, rest @ ..] if version.starts_with("(v") => (Some(*version), rest),
        words => (None, words),
    };
    let bare = |word: &&str| word.trim_end_matches(',').to_owned();
    let first: Vec<String> = words.iter().take(4).map(bare).collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let kind = match first.as_slice() {
        ["Endpoint", ..] => ExpressKind::Endpoint.bits(),
        ["Legacy", "Endpoint", ..] => ExpressKind::LegacyEndpoint.bits(),
        ["Root", "Port", ..] => ExpressKind::RootPort.bits(),
        ["Upstream", "Port", ..] => ExpressKind::Upstream.bits(),
        ["Downstream", "Port", ..] => ExpressKind::Downstream.bits(),
        ["PCI-Express", "to", ..] | ["PCI/PCI-X", "Bridge", ..] => ExpressKind::PcieToPci.bits(),
        ["PCI/PCI-X", "to", ..] => ExpressKind::PciToPcie.bits(),
        ["Root", "Complex", "Integrated", ..] => ExpressKind::IntegratedEndpoint.bits(),
        ["Root", "Complex", "Event", ..] => ExpressKind::EventCollector.bits(),
        ["Unknown", "type", number, ..] => number.parse().ok().filter(|bits| *bits < 16)?,
        _ => return None,
    };
    Some(ExpressReading { kind, end_to_end_prefix: (version == Some("(v1)")).then_some(false) })
}

/// `Name+` or `Name-`, with or without a comma.
fn flag(word: &str, name: &str) -> Option<bool> {
    match word.strip_prefix(name)?.trim_end_matches([',', ';']) {
        "+" => Some(true),
        "-" => Some(false),
        _ => None,
    }
}

/// The services of an ACS register; none where not one of them is there, as in a text that ends
/// here.
fn acs_bits(words: &[&str]) -> Option<Hex<u16>> {
    const NAMES: [&str; 7] = [
        "SrcValid",
        "TransBlk",
        "ReqRedir",
        "CmpltRedir",
        "UpstreamFwd",
        "EgressCtrl",
        "DirectTrans",
    ];
    let bit = |word: &&str| {
        NAMES
            .iter()
            .enumerate()
            .find_map(|(bit, name)| flag(word, name).map(|on| u16::from(on) << bit))
    };
    let bits: Vec<u16> = words.iter().map_while(bit).collect();
    // All that grouping asks for must be there, or the text was cut within the line.
    let needed = AcsBits::ISOLATION.names().count() + 1;
    (bits.len() >= needed).then(|| Hex(bits.iter().fold(0, |all, bit| all | bit)))
}

fn decimal(word: &str) -> Option<u16> {
    word.trim_end_matches(',').parse().ok()
}

fn range_of(text: &str) -> Option<AddrRange> {
    let (first, last) = text.split_once('-')?;
    AddrRange::inclusive(u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?)
}

/// `16M` and the like: powers of 1024.
fn size_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
