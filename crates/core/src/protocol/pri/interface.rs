//! The page request interface of a device: the credit of outstanding requests, the page request
//! group indexes in use, and the responses to the groups (PCIe 6.0, sections 10.4 and 10.5.2).
//!
//! It is a state machine without locks, links or clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::ats::PAGE;
use crate::api::pri::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
use crate::types::access::Access;
use crate::types::ids::Pasid;

/// Why a page cannot be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageRequestError {
    /// The page request interface is off, or the device is being reset or has been removed.
    #[error(
        "page requests are off, or the device is being reset or has been removed; enable them, or \
         end the reset first"
    )]
    Disabled,
    /// The IOMMU answered with a response failure.
    #[error("the IOMMU answered a page request with a response failure; reset the device")]
    Failed,
    /// The device has as many requests outstanding as it is allowed.
    #[error("{outstanding} of {allowed} page requests are outstanding; wait for a response")]
    NoCredit {
        /// The number of outstanding requests.
        outstanding: u32,
        /// The number of requests that may be outstanding (Outstanding Page Request Allocation).
        allowed: u32,
    },
    /// The PASID has another owner than the one that the port is for, or none.
    #[error("the device is not bound to the owner that this port is for; stop using the PASID")]
    NotOwner,
    /// All group indexes are in use.
    #[error("all {0} group indexes are in use; wait for a response", PrgIndex::COUNT)]
    NoIndex,
    /// The group is not open: it was never opened, its last request has been sent, or the device
    /// was reset.
    #[error("page request group {0} is not open")]
    NotOpen(PrgIndex),
}

/// The state of a group in the interface of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More requests may follow.
    Open,
    /// The last request has been sent, at this time.
    Sent(Option<Duration>),
    /// The response has come and has not been collected.
    Answered(ResponseCode),
    /// No response came in time. The index is not used again before a reset, since the response may
    /// still come.
    TimedOut,
}

struct Group {
    pasid: Option<Pasid>,
    requests: u32,
    state: State,
}

/// The outcome of a page request group for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupOutcome {
    /// The IOMMU has responded.
    Response(ResponseCode),
    /// No response came in time.
    TimedOut,
    /// The device was reset, or the outcome was collected before.
    Forgotten,
}

/// Counts of the page request interface, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InterfaceCounts {
    /// Requests sent.
    pub requests: u64,
    /// Stop markers sent.
    pub stop_markers: u64,
    /// Responses that matched a group.
    pub responses: u64,
    /// Responses that matched none (Unexpected Page Request Group Index).
    pub unexpected: u64,
    /// Response failures.
    pub failures: u64,
    /// Groups that got no response in time.
    pub timed_out: u64,
}

/// A group that a response has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnsweredGroup {
    pub(crate) pasid: Option<Pasid>,
    /// The time at which its last request was sent.
    pub(crate) sent: Option<Duration>,
}

/// The page request interface of one device.
pub(crate) struct PageRequestInterface {
    is_enabled: bool,
    /// Whether the IOMMU has answered with a response failure since the last reset.
    has_failed: bool,
    /// The number of requests that may be outstanding.
    allowed: u32,
    /// Whether responses carry the PASID (PRG Response PASID Required).
    response_pasid: bool,
    outstanding: u32,
    groups: BTreeMap<PrgIndex, Group>,
    /// The index at which the search for a free one begins.
    next_index: u16,
    pub(crate) counts: InterfaceCounts,
}

impl PageRequestInterface {
    /// Makes an interface that is off. `allowed` is the number of requests that may be outstanding.
    pub(crate) fn new(allowed: u32, response_pasid: bool) -> Self {
        Self {
            is_enabled: false,
            has_failed: false,
            allowed,
            response_pasid,
            outstanding: 0,
            groups: BTreeMap::new(),
            next_index: 0,
            counts: InterfaceCounts::default(),
        }
    }

    /// Switches the interface on or off. Switching it off drops open groups, which cannot become
    /// complete any more.
    pub(crate) fn set_enabled(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
        if !is_enabled {
            self.outstanding -= self.drop_groups(|group| group.state == State::Open);
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// The number of groups that are open, or complete and not answered.
    pub(crate) fn outstanding_groups(&self) -> usize {
        self.groups
            .values()
            .filter(|group| matches!(group.state, State::Open | State::Sent(_)))
            .count()
    }

    /// The number of groups that are complete and not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.groups.values().filter(|group| matches!(group.state, State::Sent(_))).count()
    }

    /// Whether all group indexes are in use.
    pub(crate) fn is_full(&self) -> bool {
        self.groups.len() == PrgIndex::COUNT
    }

    /// Whether a request can be sent.
    fn check(&self) -> Result<(), PageRequestError> {
        if !self.is_enabled {
            return Err(PageRequestError::Disabled);
        }
        if self.has_failed {
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
    ///
    /// # Errors
    /// No request can be sent, or all group indexes are in use.
    pub(crate) fn open(&mut self, pasid: Option<Pasid>) -> Result<PrgIndex, PageRequestError> {
        self.check()?;
        let count = PrgIndex::COUNT as u16;
        let free = (0..count)
            .filter_map(|n| PrgIndex::new((self.next_index + n) % count))
            .find(|index| !self.groups.contains_key(index));
        let index = free.ok_or(PageRequestError::NoIndex)?;
        self.next_index = (index.get() + 1) % count;
        self.groups.insert(index, Group { pasid, requests: 0, state: State::Open });
        Ok(index)
    }

    /// The PASID of a group that is open or not answered; `None` if it has none.
    pub(crate) fn pasid_of(&self, index: PrgIndex) -> Option<Pasid> {
        self.groups.get(&index).and_then(|group| group.pasid)
    }

    /// Adds a request to an open group; `last` makes the group complete. Returns the message to
    /// send.
    ///
    /// # Errors
    /// No request can be sent, or the group is not open.
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

    /// Stops the use of a PASID: drops its open groups. Returns the stop marker to send; `None` if
    /// the interface is off.
    pub(crate) fn stop(&mut self, pasid: Pasid) -> Option<StopMarker> {
        let dropped: u32 =
            self.drop_groups(|group| group.state == State::Open && group.pasid == Some(pasid));
        self.outstanding -= dropped;
        self.is_enabled.then(|| {
            self.counts.stop_markers += 1;
            StopMarker { pasid }
        })
    }

    /// Drops groups, and returns the number of their requests.
    fn drop_groups(&mut self, selects: impl Fn(&Group) -> bool) -> u32 {
        let mut requests = 0;
        self.groups.retain(|_, group| {
            let is_dropped = selects(group);
            requests += if is_dropped { group.requests } else { 0 };
            !is_dropped
        });
        requests
    }

    /// Takes a response. Returns the group that it answers, or `None` if no group awaits it.
    pub(crate) fn respond(&mut self, response: PageResponse) -> Option<AnsweredGroup> {
        let response_pasid = self.response_pasid;
        let group = self
            .groups
            .get_mut(&response.index)
            .filter(|group| response.pasid == group.pasid.filter(|_| response_pasid));
        let answered = group.and_then(|group| match group.state {
            State::Sent(at) => {
                group.state = State::Answered(response.code);
                self.outstanding -= group.requests;
                Some(AnsweredGroup { pasid: group.pasid, sent: at })
            }
            State::Open | State::Answered(_) | State::TimedOut => None,
        });
        match answered {
            Some(_) => {
                self.counts.responses += 1;
                if response.code == ResponseCode::ResponseFailure {
                    self.has_failed = true;
                    self.counts.failures += 1;
                    // No further request can complete the open groups.
                    self.outstanding -= self.drop_groups(|group| group.state == State::Open);
                }
            }
            None => self.counts.unexpected += 1,
        }
        answered
    }

    /// Collects the outcome of a group, once; `None` while the group has no response.
    pub(crate) fn outcome(&mut self, index: PrgIndex) -> Option<GroupOutcome> {
        match self.groups.get(&index).map(|group| group.state) {
            None => Some(GroupOutcome::Forgotten),
            Some(State::Open | State::Sent(_)) => None,
            // The group stays in the map, so that its index is not used again.
            Some(State::TimedOut) => Some(GroupOutcome::TimedOut),
            Some(State::Answered(code)) => {
                self.groups.remove(&index);
                Some(GroupOutcome::Response(code))
            }
        }
    }

    /// Times out groups whose last request was sent at least `limit` ago, and returns the number of
    /// them.
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

    /// Resets the interface, as a function reset does: drops all groups. It stays enabled, since an
    /// operating system restores that after a reset.
    pub(crate) fn reset(&mut self) {
        self.groups.clear();
        self.outstanding = 0;
        self.has_failed = false;
    }
}
