//! How values of a [`Reading`](super::Reading) are written in JSON and read back, within bounds.

use std::fmt::{self, Display, LowerHex};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sva_core::{AddrRange, Bdf};

use super::limit;

/// A number written `0x..` in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<T>(pub T);

impl<T: LowerHex> Serialize for Hex<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Hex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = text::deserialize::<Prefixed, _>(deserializer)?.0;
        T::try_from(number)
            .map(Self)
            .map_err(|_| D::Error::custom(format_args!("{number:#x} is too large here")))
    }
}

struct Prefixed(u64);

impl FromStr for Prefixed {
    type Err = NotHex;
    fn from_str(text: &str) -> Result<Self, NotHex> {
        let digits = text
            .strip_prefix("0x")
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .ok_or(NotHex)?;
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| NotHex)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("write a number of up to 64 bits as 0x and hexadecimal digits")]
struct NotHex;

/// Values with a text of their own.
pub(super) mod text {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        struct Parse<T>(PhantomData<T>);
        impl<T: FromStr<Err: Display>> Visitor<'_> for Parse<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                // What is longer is none of these values; so an error that repeats the text stays
                // short.
                if text.len() > 64 {
                    return Err(E::custom("a text of this length stands for no value here"));
                }
                text.parse().map_err(|error: T::Err| E::custom(error))
            }
        }
        deserializer.deserialize_str(Parse(PhantomData))
    }
}

pub(super) mod optional_text {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        text::deserialize(deserializer).map(Some)
    }
}

/// Ranges as pairs of first and last address.
pub(super) mod ranges {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        ranges: &[AddrRange],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ranges.iter().map(|range| [Hex(range.first()), Hex(range.last())]))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<AddrRange>, D::Error> {
        let pairs: Vec<[Hex<u64>; 2]> = bounded::<_, _, { limit::RANGES }>(deserializer)?;
        let range = |[first, last]: [Hex<u64>; 2]| {
            AddrRange::inclusive(first.0, last.0)
                .ok_or_else(|| D::Error::custom("a range ends before it begins"))
        };
        pairs.into_iter().map(range).collect()
    }
}

/// Addresses of functions.
pub(super) mod devices {
    use super::*;

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct At(#[serde(with = "text")] Bdf);

    pub(in super::super) fn serialize<S: Serializer>(
        devices: &Option<Vec<Bdf>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(devices.iter().flatten().map(ToString::to_string))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<Bdf>>, D::Error> {
        let devices: Vec<At> = bounded::<_, _, { limit::FUNCTIONS }>(deserializer)?;
        Ok(Some(devices.into_iter().map(|at| at.0).collect()))
    }
}

/// A list of at most `MOST`: a few bytes of JSON become hundreds in memory, so a bound on the input
/// alone bounds too little.
pub(super) fn bounded<'de, T: Deserialize<'de>, D: Deserializer<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                if all.len() == MOST {
                    return Err(A::Error::custom(format_args!(
                        "the list has more than {MOST} entries"
                    )));
                }
                all.push(one);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_seq(List::<T, MOST>(PhantomData))
}
