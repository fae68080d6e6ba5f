//! Configuration space bytes, decoded: what live machines and `lspci -x` give.
//!
//! The bytes are untrusted: each list is walked over at most as many entries as fit the space, a
//! capability that lies partly outside of what was read counts as not seen, and a list that leaves
//! its space or comes back to an entry is [`ListState::Truncated`]. (PCI Local Bus 3.0, section 6.1
//! and 6.7; PCIe 6.0, chapter 7.)

use sva_core::AddrRange;

use crate::machine::{
    AcsReading, AtsReading, BarReading, Buses, Class, ExpressReading, FunctionReading,
    HeaderReading, Hex, Ids, ListState, PasidReading, PriReading, SriovReading,
};

/// Bytes of the header, of conventional and of extended configuration space.
pub(crate) const HEADER: usize = 64;
const CONVENTIONAL: usize = 256;
const EXTENDED: usize = 4096;

/// Where capabilities are, by identifier.
mod cap {
    pub(super) const SUBSYSTEM: u8 = 0x0d;
    pub(super) const EXPRESS: u8 = 0x10;
    pub(super) const ACS: u16 = 0x0d;
    pub(super) const ATS: u16 = 0x0f;
    pub(super) const SRIOV: u16 = 0x10;
    pub(super) const PRI: u16 = 0x13;
    pub(super) const PASID: u16 = 0x1b;
}

/// Adds to `reading` what `bytes` (from offset 0) say, over what text beside them said; a list is
/// as complete as the better of both. Returns whether they are those of a function that answers and
/// agree with the vendor and device that are known; otherwise nothing was changed.
pub(crate) fn decode(bytes: &[u8], reading: &mut FunctionReading) -> bool {
    let space = Space(bytes.get(..EXTENDED).unwrap_or(bytes));
    let Some(kind) = space.byte(0x0e).filter(|_| space.0.len() >= HEADER).map(|byte| byte & 0x7f)
    else {
        return false;
    };
    let Some(ids) = space.ids(0) else { return false };
    // A virtual function's vendor and device read as ones; they are those of another register,
    // which sysfs knows.
    let absent = ids.vendor == 0xffff;
    if kind > 2
        || (absent && reading.ids.is_none())
        || (!absent && reading.ids.is_some_and(|known| known != ids))
    {
        return false;
    }
    if !absent {
        reading.ids = Some(ids);
    }
    reading.class = space.dword(8).map(|dword| Class(dword >> 8)).or(reading.class);
    reading.multifunction = space.byte(0x0e).map(|byte| byte & 0x80 != 0);
    header(&space, kind, reading);
    conventional(&space, kind, reading);
    if reading.capabilities == ListState::Complete && reading.express.is_none() {
        // Only PCI Express (and PCI-X mode 2, which no machine with an IOMMU has) has extended
        // space.
        reading.extended = ListState::Complete;
    } else if space.0.len() > CONVENTIONAL {
        extended(&space, reading);
    } else {
        reading.extended = reading.extended.max(ListState::Hidden);
    }
    true
}

/// Bytes with bounds.
struct Space<'a>(&'a [u8]);

impl Space<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn dword(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn ids(&self, at: usize) -> Option<Ids> {
        Some(Ids { vendor: self.word(at)?, device: self.word(at + 2)? })
    }
}

/// What the type of the header says: buses, windows, BARs, subsystem.
fn header(space: &Space<'_>, kind: u8, reading: &mut FunctionReading) {
    let (header, bars) = match kind {
        0 => (HeaderReading::Endpoint, 6),
        1 => (HeaderReading::Bridge, 2),
        _ => (HeaderReading::CardBus, 1),
    };
    reading.header = Some(header);
    if header == HeaderReading::Endpoint {
        reading.subsystem = space
            .ids(0x2c)
            .filter(|ids| ids.vendor != 0 && ids.vendor != 0xffff)
            .or(reading.subsystem);
    } else {
        let buses = space
            .byte(0x19)
            .zip(space.byte(0x1a))
            .map(|(secondary, subordinate)| Buses { secondary, subordinate });
        // A primary bus other than the function's own: someone has renumbered the text and left the
        // bytes as they were.
        let elsewhere = space.byte(0x18) != Some(reading.bdf.bus());
        reading.buses = reading.buses.filter(|_| elsewhere).or(buses);
        reading.windows = if header == HeaderReading::Bridge {
            bridge_windows(space)
        } else {
            card_bus_windows(space)
        };
    }
    let sizes: Vec<BarReading> = std::mem::take(&mut reading.bars);
    let size_of =
        |address| sizes.iter().find(|bar| bar.address == Hex(address)).and_then(|bar| bar.size);
    let mut index = 0;
    while index < bars {
        let Some(low) = space.dword(0x10 + 4 * index) else { break };
        let wide = low & 7 == 4;
        let high = if wide { space.dword(0x14 + 4 * index).unwrap_or_default() } else { 0 };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        if low & 1 == 0 && address != 0 && low != u32::MAX {
            reading.bars.push(BarReading {
                index: index as u8,
                address: Hex(address),
                size: size_of(address),
            });
        }
        index += 1 + usize::from(wide);
    }
    if reading.bars.is_empty() {
        // A virtual function's BARs are in its physical function; the kernel lists them.
        reading.bars = sizes;
    }
}

/// The two memory windows of a PCI-to-PCI bridge that are open (PCI-to-PCI Bridge 1.2, section
/// 3.2.5).
fn bridge_windows(space: &Space<'_>) -> Vec<AddrRange> {
    let edge = |at: usize, upper: usize, low: u64| {
        let word = u64::from(space.word(at)?);
        let wide = word & 0xf == 1 && upper != 0;
        let high = if wide { u64::from(space.dword(upper)?) } else { 0 };
        Some(high << 32 | (word & 0xfff0) << 16 | low)
    };
    let window = |base: (usize, usize), last: (usize, usize)| {
        // All zero is what a bridge has that implements no such window.
        if space.dword(base.0)? == 0 {
            return None;
        }
        AddrRange::inclusive(edge(base.0, base.1, 0)?, edge(last.0, last.1, 0xf_ffff)?)
    };
    [window((0x20, 0), (0x22, 0)), window((0x24, 0x28), (0x26, 0x2c))]
        .into_iter()
        .flatten()
        .collect()
}

/// The two memory windows of a CardBus bridge.
fn card_bus_windows(space: &Space<'_>) -> Vec<AddrRange> {
    let window = |at: usize| {
        let (base, last) = (space.dword(at)? & !0xfff, space.dword(at + 4)? & !0xfff);
        if last == 0 { None } else { AddrRange::inclusive(base.into(), u64::from(last) | 0xfff) }
    };
    [window(0x1c), window(0x24)].into_iter().flatten().collect()
}

/// Walks the list of conventional capabilities.
fn conventional(space: &Space<'_>, kind: u8, reading: &mut FunctionReading) {
    let has_list = space.word(6).is_some_and(|status| status & 0x10 != 0);
    if !has_list {
        reading.capabilities = ListState::Complete;
        return;
    }
    if space.0.len() < CONVENTIONAL {
        reading.capabilities = reading.capabilities.max(ListState::Hidden);
        return;
    }
    let mut at =
        usize::from(space.byte(if kind == 2 { 0x14 } else { 0x34 }).unwrap_or_default() & 0xfc);
    let mut left = (CONVENTIONAL - HEADER) / 4;
    while at >= HEADER && left > 0 {
        left -= 1;
        match space.byte(at) {
            Some(cap::EXPRESS) => reading.express = express(space, at).or(reading.express),
            Some(cap::SUBSYSTEM) => {
                reading.subsystem =
                    space.ids(at + 4).filter(|ids| ids.vendor != 0).or(reading.subsystem)
            }
            Some(0xff) | None => break,
            Some(_) => {}
        }
        at = usize::from(space.byte(at + 1).unwrap_or_default() & 0xfc);
    }
    reading.capabilities =
        reading.capabilities.max(if at == 0 { ListState::Complete } else { ListState::Truncated });
}

fn express(space: &Space<'_>, at: usize) -> Option<ExpressReading> {
    let flags = space.word(at + 2)?;
    // Version 1 has no Device Capabilities 2.
    let second = if flags & 0xf >= 2 { space.dword(at + 0x24)? } else { 0 };
    Some(ExpressReading {
        kind: (flags >> 4 & 0xf) as u8,
        end_to_end_prefix: Some(second & 1 << 21 != 0),
    })
}

/// Walks the list of extended capabilities.
fn extended(space: &Space<'_>, reading: &mut FunctionReading) {
    let mut at = CONVENTIONAL;
    let mut left = (EXTENDED - CONVENTIONAL) / 8;
    let walked = loop {
        let Some(head) = space.dword(at) else { break ListState::Truncated };
        if head == 0 || head == u32::MAX {
            // At the start: the function has none. Further on: a damaged list.
            break if at == CONVENTIONAL { ListState::Complete } else { ListState::Truncated };
        }
        extended_capability(space, at, head as u16, reading);
        let next = (head >> 20) as usize & 0xffc;
        left -= 1;
        if next == 0 {
            break ListState::Complete;
        }
        if next < CONVENTIONAL || left == 0 {
            break ListState::Truncated;
        }
        at = next;
    };
    reading.extended = reading.extended.max(walked);
}

fn extended_capability(space: &Space<'_>, at: usize, id: u16, reading: &mut FunctionReading) {
    let pair = |first: usize| space.word(at + first).zip(space.word(at + first + 2));
    match id {
        cap::ACS => {
            let dwords = space
                .dword(at + 4)
                .zip(space.dword(at + 8))
                .map(|(capability, control)| [Hex(capability), Hex(control)]);
            if let Some((implemented, enabled)) = pair(4) {
                reading.acs = Some(AcsReading {
                    implemented: Some(Hex(implemented)),
                    enabled: Some(Hex(enabled)),
                    dwords,
                });
            }
        }
        cap::ATS => {
            if let Some(control) = space.word(at + 6) {
                reading.ats = Some(AtsReading { enabled: Some(control & 1 << 15 != 0) });
            }
        }
        cap::PRI => {
            if let Some((control, capacity)) = space.word(at + 4).zip(space.dword(at + 8)) {
                reading.pri =
                    Some(PriReading { enabled: Some(control & 1 != 0), capacity: Some(capacity) });
            }
        }
        cap::PASID => {
            if let Some((capability, control)) = pair(4) {
                reading.pasid = Some(PasidReading {
                    enabled: Some(control & 1 != 0),
                    width: Some((capability >> 8 & 0x1f) as u8),
                    execute: Some(capability & 2 != 0),
                    privileged: Some(capability & 4 != 0),
                });
            }
        }
        cap::SRIOV => {
            if let (Some(control), Some(functions), Some((offset, stride))) =
                (space.word(at + 8), space.word(at + 0x10), pair(0x14))
            {
                let enabled = Some(control & 1 != 0);
                reading.sriov = Some(SriovReading {
                    enabled,
                    functions: Some(functions),
                    offset: Some(offset),
                    stride: Some(stride),
                });
            }
        }
        _ => {}
    }
}
