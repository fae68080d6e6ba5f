//! The device's page request interface: how many requests it may have outstanding, which group
//! indexes are in use, and what the groups were answered.
//!
//! A state machine without locks, links or clock (PCIe 6.0, sections 10.4 and 10.5.2).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::ats::PAGE;
use crate::api::pri::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
use crate::types::access::Access;
use crate::types::ids::Pasid;

/// Why a page cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageRequestError {
    /// The page request interface is off, or the device is being reset or has been removed.
    #[error(
        "page requests are off, or the device is being reset or has been removed; enable them, or end the reset first"
    )]
    Disabled,
    /// The IOMMU answered with a response failure.
    #[error("the IOMMU answered a page request with a response failure; reset the device")]
    Failed,
    /// All that the device may have outstanding is.
    #[error("{outstanding} of {allowed} page requests are outstanding; wait for a response")]
    NoCredit {
        /// Requests outstanding.
        outstanding: u32,
        /// Requests that may be.
        allowed: u32,
    },
    /// The PASID has another owner than the one that the port is for, or none.
    #[error("the device is not bound to the owner that this port is for; stop using the PASID")]
    NotOwner,
    /// All group indexes are in use.
    #[error("all {0} group indexes are in use; wait for a response", PrgIndex::COUNT)]
    NoIndex,
    /// No such group is open: it was never opened, its last request has been sent, or the device
    /// was reset.
    #[error("page request group {0} is not open")]
    NotOpen(PrgIndex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More requests may follow.
    Open,
    /// The last one has been sent.
    Sent(Option<Duration>),
    Answered(ResponseCode),
    /// No answer came in time. The index is not used again before a reset: the answer may come yet.
    TimedOut,
}

struct Group {
    pasid: Option<Pasid>,
    requests: u32,
    state: State,
}

/// What came of a group, as its device sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupOutcome {
    /// It was answered.
    Response(ResponseCode),
    /// No answer came in time.
    TimedOut,
    /// The device was reset meanwhile.
    Forgotten,
}

/// What happened, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InterfaceCounts {
    /// Requests sent.
    pub requests: u64,
    /// Stop markers sent.
    pub stop_markers: u64,
    /// Responses that fit a group.
    pub responses: u64,
    /// Responses that fit none (Unexpected Page Request Group Index).
    pub unexpected: u64,
    /// Response failures.
    pub failures: u64,
    /// Groups that got no answer in time.
    pub timed_out: u64,
}

/// The group that a response has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnsweredGroup {
    pub(crate) pasid: Option<Pasid>,
    pub(crate) sent: Option<Duration>,
}

/// The page request interface of one device.
pub(crate) struct Interface {
    enabled: bool,
    failed: bool,
    allowed: u32,
    /// Responses name the PASID (PRG Response PASID Required).
    names_pasid: bool,
    outstanding: u32,
    groups: BTreeMap<PrgIndex, Group>,
    next: u16,
    pub(crate) counts: InterfaceCounts,
}

impl Interface {
    /// Off, with `allowed` requests that may be outstanding once it is on.
    pub(crate) fn new(allowed: u32, names_pasid: bool) -> Self {
        Self {
            enabled: false,
            failed: false,
            allowed,
            names_pasid,
            outstanding: 0,
            groups: BTreeMap::new(),
            next: 0,
            counts: InterfaceCounts::default(),
        }
    }

    /// Switches it on, or off: groups that are still open cannot become complete then and are given
    /// up.
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        if !enabled {
            self.outstanding -= self.drop_groups(|group| group.state == State::Open);
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Groups that are open or not answered.
    pub(crate) fn outstanding_groups(&self) -> usize {
        self.groups
            .values()
            .filter(|group| matches!(group.state, State::Open | State::Sent(_)))
            .count()
    }

    /// Groups that are complete and not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.groups.values().filter(|group| matches!(group.state, State::Sent(_))).count()
    }

    /// Whether all group indexes are in use.
    pub(crate) fn is_full(&self) -> bool {
        self.groups.len() == PrgIndex::COUNT
    }

    fn check(&self) -> Result<(), PageRequestError> {
        if !self.enabled {
            return Err(PageRequestError::Disabled);
        }
        if self.failed {
            return Err(PageRequestError::Failed);
        }
        if self.outstanding >= self.allowed {
            return Err(PageRequestError::NoCredit {
                outstanding: self.outstanding,
                allowed: self.allowed,
            });
        }
        Ok(())
    }

    /// Opens a group.
    pub(crate) fn open(&mut self, pasid: Option<Pasid>) -> Result<PrgIndex, PageRequestError> {
        self.check()?;
        let count = PrgIndex::COUNT as u16;
        let free = (0..count)
            .filter_map(|n| PrgIndex::new((self.next + n) % count))
            .find(|index| !self.groups.contains_key(index));
        let index = free.ok_or(PageRequestError::NoIndex)?;
        self.next = (index.get() + 1) % count;
        self.groups.insert(index, Group { pasid, requests: 0, state: State::Open });
        Ok(index)
    }

    /// The PASID of a group that is open or not answered; `None` where it has none.
    pub(crate) fn pasid_of(&self, index: PrgIndex) -> Option<Pasid> {
        self.groups.get(&index).and_then(|group| group.pasid)
    }

    /// Adds a request to an open group; with `last` the group is complete. Answers the message to
    /// send.
    pub(crate) fn add(
        &mut self,
        index: PrgIndex,
        address: u64,
        access: Access,
        last: bool,
        now: Option<Duration>,
    ) -> Result<PageRequest, PageRequestError> {
        self.check()?;
        let group = self
            .groups
            .get_mut(&index)
            .filter(|group| group.state == State::Open)
            .ok_or(PageRequestError::NotOpen(index))?;
        group.requests += 1;
        self.outstanding += 1;
        self.counts.requests += 1;
        if last {
            group.state = State::Sent(now);
        }
        Ok(PageRequest {
            pasid: group.pasid,
            address: address & !(PAGE - 1),
            // An execute request is a read as well (PCIe 6.0, section 10.4.1).
            read: !access.is_write(),
            write: access.is_write(),
            execute: access.is_execute(),
            privileged: access.is_privileged(),
            index,
            last,
        })
    }

    /// The device stops to use a PASID: groups of it that are still open are given up. Answers the
    /// message to send; `None` where the interface is off.
    pub(crate) fn stop(&mut self, pasid: Pasid) -> Option<StopMarker> {
        let given_up: u32 =
            self.drop_groups(|group| group.state == State::Open && group.pasid == Some(pasid));
        self.outstanding -= given_up;
        self.enabled.then(|| {
            self.counts.stop_markers += 1;
            StopMarker { pasid }
        })
    }

    /// Removes groups, and answers how many requests they had.
    fn drop_groups(&mut self, which: impl Fn(&Group) -> bool) -> u32 {
        let mut requests = 0;
        self.groups.retain(|_, group| {
            let goes = which(group);
            requests += if goes { group.requests } else { 0 };
            !goes
        });
        requests
    }

    /// A response has come. Answers the group that it is for, where that is awaiting it.
    pub(crate) fn respond(&mut self, response: PageResponse) -> Option<AnsweredGroup> {
        let names_pasid = self.names_pasid;
        let group = self
            .groups
            .get_mut(&response.index)
            .filter(|group| response.pasid == group.pasid.filter(|_| names_pasid));
        let sent = group.and_then(|group| match group.state {
            State::Sent(at) => {
                group.state = State::Answered(response.code);
                self.outstanding -= group.requests;
                Some(AnsweredGroup { pasid: group.pasid, sent: at })
            }
            State::Open | State::Answered(_) | State::TimedOut => None,
        });
        match sent {
            Some(_) => {
                self.counts.responses += 1;
                if response.code == ResponseCode::ResponseFailure {
                    self.failed = true;
                    self.counts.failures += 1;
                    // No request follows that could complete them.
                    self.outstanding -= self.drop_groups(|group| group.state == State::Open);
                }
            }
            None => self.counts.unexpected += 1,
        }
        sent
    }

    /// What came of a group, once; `None` while it is awaited.
    pub(crate) fn outcome(&mut self, index: PrgIndex) -> Option<GroupOutcome> {
        match self.groups.get(&index).map(|group| group.state) {
            None => Some(GroupOutcome::Forgotten),
            Some(State::Open | State::Sent(_)) => None,
            // It stays in the table, so that its index is not used again.
            Some(State::TimedOut) => Some(GroupOutcome::TimedOut),
            Some(State::Answered(code)) => {
                self.groups.remove(&index);
                Some(GroupOutcome::Response(code))
            }
        }
    }

    /// Gives up on groups that were sent `limit` or longer ago.
    pub(crate) fn expire(&mut self, now: Duration, limit: Duration) -> usize {
        let mut expired = 0;
        for group in self.groups.values_mut() {
            if let State::Sent(Some(at)) = group.state
                && now.saturating_sub(at) >= limit
            {
                group.state = State::TimedOut;
                expired += 1;
            }
        }
        self.counts.timed_out += expired as u64;
        expired
    }

    /// Forgets everything, as a function reset does; it stays enabled, as an operating system
    /// restores it.
    pub(crate) fn reset(&mut self) {
        self.groups.clear();
        self.outstanding = 0;
        self.failed = false;
    }
}
