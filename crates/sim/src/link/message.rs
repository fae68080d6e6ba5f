//! The messages of a link, and the points in their life at which a script can act.

use std::fmt;

use sva_core::link::{ToDevice, ToIommu};
use sva_core::{Pasid, Permissions};

/// A kind of message and a moment of its life: where a script can act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// A translation request.
    TranslationRequest(Moment),
    /// A translation completion.
    TranslationCompletion(Moment),
    /// An invalidation request.
    InvalidationRequest(Moment),
    /// An invalidation completion.
    InvalidationCompletion(Moment),
    /// A page request that is not the last of its group.
    PageRequest(Moment),
    /// The last page request of a group.
    LastPageRequest(Moment),
    /// A stop marker.
    StopMarker(Moment),
    /// A response to a page request group.
    PageResponse(Moment),
}

/// A moment in the life of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It has been sent.
    Sent,
    /// It is about to be delivered.
    Delivery,
}

/// A message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// From the device.
    Up(ToIommu),
    /// To the device.
    Down(ToDevice),
}

impl Message {
    /// The point that it reaches at this moment.
    pub fn point(&self, moment: Moment) -> Point {
        match self {
            Self::Up(ToIommu::Translate(_)) => Point::TranslationRequest(moment),
            Self::Up(ToIommu::Invalidated(_)) => Point::InvalidationCompletion(moment),
            Self::Up(ToIommu::Page(request)) if request.last => Point::LastPageRequest(moment),
            Self::Up(ToIommu::Page(_)) => Point::PageRequest(moment),
            Self::Down(ToDevice::Translated(_)) => Point::TranslationCompletion(moment),
            Self::Down(ToDevice::Invalidate(_)) => Point::InvalidationRequest(moment),
            Self::Down(ToDevice::Response(_)) => Point::PageResponse(moment),
            _ => Point::StopMarker(moment),
        }
    }

    /// Whether it keeps its order: page requests and stop markers do.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(self, Self::Up(ToIommu::Page(_) | ToIommu::Stop(_)))
    }

    /// Whether it can be lost, doubled or corrupted.
    pub fn can_fail(&self) -> bool {
        matches!(
            self,
            Self::Up(ToIommu::Invalidated(_))
                | Self::Down(ToDevice::Translated(_) | ToDevice::Response(_))
        )
    }
}

impl fmt::Display for Message {
    /// Without frames: they are numbered through the whole program, so that they differ between two
    /// runs of one seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |pasid: Option<Pasid>| {
            pasid.map_or_else(|| "no PASID".to_owned(), |pasid| format!("PASID {pasid}"))
        };
        match self {
            Self::Up(ToIommu::Translate(request)) => {
                write!(
                    f,
                    "translation request {} ({}, {} at {:#x})",
                    request.id.0,
                    of(request.pasid),
                    request.access(),
                    request.address
                )
            }
            Self::Up(ToIommu::Invalidated(done)) => {
                write!(f, "invalidation completion (tag {}, use {})", done.tag.get(), done.serial)
            }
            Self::Up(ToIommu::Page(page)) => {
                let (group, last, access) = (
                    page.index,
                    if page.last { ", the last" } else { "" },
                    if page.write { "write" } else { "read" },
                );
                write!(
                    f,
                    "page request (group {group}{last}, {}, {access} at {:#x})",
                    of(page.pasid),
                    page.address
                )
            }
            Self::Up(ToIommu::Stop(marker)) => write!(f, "stop marker (PASID {})", marker.pasid),
            Self::Down(ToDevice::Translated(completion)) => {
                write!(f, "translation completion {}: ", completion.id.0)?;
                match completion.result {
                    Ok(found) if found.permissions.is_empty() => f.write_str("no access"),
                    Ok(found) => {
                        write!(
                            f,
                            "2^{} bytes at {:#x}, may be written: {}",
                            found.range.bits(),
                            found.range.first(),
                            found.permissions.contains(Permissions::WRITE)
                        )
                    }
                    Err(refusal) => refusal.fmt(f),
                }
            }
            Self::Down(ToDevice::Invalidate(request)) => {
                let (tag, range) = (request.tag.get(), request.range);
                write!(
                    f,
                    "invalidation (tag {tag}, use {}, {}, 2^{} bytes at {:#x})",
                    request.serial,
                    of(request.pasid),
                    range.bits(),
                    range.first()
                )
            }
            Self::Down(ToDevice::Response(response)) => {
                write!(
                    f,
                    "response (group {}, {}): {}",
                    response.index,
                    of(response.pasid),
                    response.code
                )
            }
            other => write!(f, "{other:?}"),
        }
    }
}
