//! A description as TOML. The format is documented in docs/fabric-config.md.
//!
//! The text is foreign: its length is bounded before it is read, unknown keys are refused, and
//! numbers are checked as they are read. What the elements say about each other is checked when the
//! fabric is built.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use sva_core::device::PasidCapability;
use sva_core::topology::PathPolicy;
use sva_core::{AddrRange, Bdf, Capabilities, PasidWidth};
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::error::{ConfigError, Decoder, SpecError, escaped};
use crate::fabric::limit;
use crate::fabric::spec::{BarSpec, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};
use crate::fabric::tree::host_bdf;
use crate::number::{BadNumber, parse_address, parse_size};

/// The fabric of the command `sva` where no other is given; also an example of the format.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

impl FabricSpec {
    /// Reads a description.
    ///
    /// # Errors
    /// The text is too long, no TOML, not of the format (with line and column), or says something
    /// that no element can be. Whether the elements go together is for
    /// [`Fabric::new`](crate::Fabric::new) to say.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        if text.len() > limit::TEXT {
            return Err(ConfigError::TooLong { len: text.len() });
        }
        let file: FileText = toml::from_str(text).map_err(|reason| {
            let (line, column) = position(text, reason.span().map_or(0, |span| span.start));
            ConfigError::Toml {
                line,
                column,
                reason: Box::new(reason),
                excerpt: excerpt(text, line, column),
            }
        })?;
        Ok(file.into_spec()?)
    }
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

/// What a message shows of a line: some of it before the column, most of it behind.
fn excerpt(text: &str, line: usize, column: usize) -> String {
    let before = limit::EXCERPT / 4;
    let rest = text.split('\n').nth(line - 1).unwrap_or("").chars();
    escaped(
        &rest.skip((column - 1).saturating_sub(before)).take(limit::EXCERPT).collect::<String>(),
        limit::EXCERPT,
    )
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    policy: PolicyText,
    #[serde(default)]
    host_bridge: Vec<HostText>,
    #[serde(default)]
    port: Vec<PortText>,
    #[serde(default)]
    device: Vec<DeviceText>,
    #[serde(default)]
    group: Vec<GroupText>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    members: Vec<Parsed<Bdf>>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum PolicyText {
    #[default]
    Strict,
    Permissive,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HostText {
    id: String,
    #[serde(default)]
    segment: u32,
    #[serde(default)]
    bus: u8,
    #[serde(default)]
    p2p: bool,
    windows: Vec<RangeText>,
    reserved: Option<Vec<RangeText>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PortText {
    id: String,
    parent: String,
    kind: KindText,
    bdf: Parsed<Bdf>,
    secondary: u8,
    acs: Option<Vec<Parsed<AcsBits>>>,
    acs_implemented: Option<Vec<Parsed<AcsBits>>>,
    #[serde(default)]
    multifunction: bool,
    tlp_prefix: Option<bool>,
    #[serde(default)]
    windows: Vec<RangeText>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindText {
    RootPort,
    Upstream,
    Downstream,
    PciBridge,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    parent: String,
    bdf: Parsed<Bdf>,
    model: Option<String>,
    pasid: Option<PasidText>,
    #[serde(default)]
    ats: bool,
    pri: Option<u32>,
    response_pasid: Option<bool>,
    #[serde(default)]
    page_faults: bool,
    acs: Option<Vec<Parsed<AcsBits>>>,
    acs_implemented: Option<Vec<Parsed<AcsBits>>>,
    #[serde(default)]
    bars: Vec<BarText>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PasidText {
    width: u64,
    #[serde(default)]
    execute: bool,
    #[serde(default)]
    privileged: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeText {
    address: Number<Address>,
    size: Number<Size>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BarText {
    index: Option<u8>,
    address: Number<Address>,
    size: Number<Size>,
}

impl FileText {
    fn into_spec(self) -> Result<FabricSpec, SpecError> {
        let policy = match self.policy {
            PolicyText::Strict => PathPolicy::Strict,
            PolicyText::Permissive => PathPolicy::Permissive,
        };
        let mut spec = FabricSpec::new(policy);
        for host in self.host_bridge {
            spec.host_bridges.push(host.into_spec()?);
        }
        for port in self.port {
            spec.ports.push(port.into_spec()?);
        }
        for device in self.device {
            spec.functions.push(device.into_spec()?);
        }
        spec.groups.extend(
            self.group
                .into_iter()
                .map(|group| group.members.into_iter().map(|member| member.0).collect()),
        );
        Ok(spec)
    }
}

impl RangeText {
    fn range(&self, decoder: Decoder) -> Result<AddrRange, SpecError> {
        let (address, size) = (self.address.value, self.size.value);
        if size == 0 {
            return Err(SpecError::Empty { decoder, address });
        }
        AddrRange::new(address, size).ok_or(SpecError::Wraps { decoder, address, size })
    }
}

fn ranges(texts: &[RangeText], decoder: Decoder) -> Result<Vec<AddrRange>, SpecError> {
    texts.iter().map(|text| text.range(decoder)).collect()
}

impl HostText {
    fn into_spec(self) -> Result<HostBridgeSpec, SpecError> {
        let mut host = HostBridgeSpec {
            segment: self.segment,
            bus: self.bus,
            p2p: self.p2p,
            ..HostBridgeSpec::new(self.id, [])
        };
        let bdf = host_bdf(&host);
        host.windows = ranges(&self.windows, Decoder::HostBridge(bdf))?;
        if let Some(reserved) = self.reserved {
            host.reserved = ranges(&reserved, Decoder::Reserved(bdf))?;
        }
        Ok(host)
    }
}

impl PortText {
    fn into_spec(self) -> Result<PortSpec, SpecError> {
        let kind = match self.kind {
            KindText::RootPort => PortKind::Root,
            KindText::Upstream => PortKind::Upstream,
            KindText::Downstream => PortKind::Downstream,
            KindText::PciBridge => PortKind::PciBridge,
        };
        let mut port = PortSpec::new(kind, self.id, self.parent, self.bdf.0, self.secondary);
        port.acs = acs(self.acs, self.acs_implemented, Acs::port);
        port.multifunction = self.multifunction;
        port.tlp_prefix = self.tlp_prefix.unwrap_or(port.tlp_prefix);
        port.windows = ranges(&self.windows, Decoder::Port(port.bdf))?;
        Ok(port)
    }
}

impl DeviceText {
    fn into_spec(self) -> Result<FunctionSpec, SpecError> {
        let bdf = self.bdf.0;
        let pasid = self.pasid.map(|pasid| pasid.into_capability(bdf)).transpose()?;
        let mut function = FunctionSpec::new(self.parent, bdf);
        function.model = self.model;
        let response_pasid = self.response_pasid.unwrap_or(self.pri.is_some());
        function.capabilities = Capabilities {
            pasid,
            ats: self.ats,
            pri: self.pri,
            response_pasid,
            page_faults: self.page_faults,
        };
        function.acs = acs(self.acs, self.acs_implemented, Acs::function);
        for (n, bar) in self.bars.into_iter().enumerate() {
            let index = bar.index.unwrap_or(u8::try_from(n).unwrap_or(u8::MAX));
            function.bars.push(BarSpec { index, address: bar.address.value, size: bar.size.value });
        }
        Ok(function)
    }
}

impl PasidText {
    fn into_capability(self, bdf: Bdf) -> Result<PasidCapability, SpecError> {
        let width = u8::try_from(self.width)
            .ok()
            .and_then(PasidWidth::new)
            .ok_or(SpecError::PasidWidth { bdf, width: self.width })?;
        Ok(PasidCapability { width, execute: self.execute, privileged: self.privileged })
    }
}

/// Either list makes a capability; what is implemented is by default what `usual` says.
fn acs(
    enabled: Option<Vec<Parsed<AcsBits>>>,
    implemented: Option<Vec<Parsed<AcsBits>>>,
    usual: fn(AcsBits) -> Acs,
) -> Option<Acs> {
    if enabled.is_none() && implemented.is_none() {
        return None;
    }
    let all =
        |bits: Vec<Parsed<AcsBits>>| bits.into_iter().fold(AcsBits::NONE, |all, bit| all | bit.0);
    let acs = usual(enabled.map_or(AcsBits::NONE, all));
    Some(Acs { implemented: implemented.map_or(acs.implemented, all), ..acs })
}

/// A value that is a string in the file.
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Parsed).map_err(D::Error::custom)
    }
}

/// A number that is an integer or a string in the file.
struct Number<K> {
    value: u64,
    kind: PhantomData<K>,
}

trait Kind {
    const WHAT: &'static str;
    fn parse(text: &str) -> Result<u64, BadNumber>;
}

struct Address;
struct Size;

impl Kind for Address {
    const WHAT: &'static str = "an address such as \"0x80000000\"";
    fn parse(text: &str) -> Result<u64, BadNumber> {
        parse_address(text)
    }
}

impl Kind for Size {
    const WHAT: &'static str = "a size such as \"64K\"";
    fn parse(text: &str) -> Result<u64, BadNumber> {
        parse_size(text)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Number<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor<K>(PhantomData<K>);
        impl<K: Kind> Visitor<'_> for NumberVisitor<K> {
            type Value = u64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(K::WHAT)
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
                u64::try_from(value)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
                K::parse(text).map_err(E::custom)
            }
        }
        let value = deserializer.deserialize_any(NumberVisitor::<K>(PhantomData))?;
        Ok(Self { value, kind: PhantomData })
    }
}
