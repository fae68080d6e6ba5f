//! Races by name, and how often a run has reached each.

use std::fmt;

/// An order of events that is worth being reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Race {
    /// A translation came after an invalidation that covers it had been taken.
    FillOvertaken,
    /// An unbind began while a response to a page request of that PASID was on its way.
    UnbindWithResponseOnItsWay,
    /// An unbind began while a group of that PASID was being resolved.
    UnbindWhileResolving,
    /// An unbind began while a translation was in use.
    UnbindWhileInUse,
    /// An unbind began while the page request queue had overflowed.
    UnbindDuringOverflow,
    /// A space was bound while a change of it was under way.
    BindDuringChange,
    /// A space was bound to a device while another bond of it was being unbound.
    BindDuringUnbind,
    /// A space ended while it had a bond that was being unbound.
    EndDuringUnbind,
    /// A space ended while a group of it was waiting or being resolved.
    EndWithFaultPending,
    /// A space ended unannounced, and a device used it before the announcement.
    UseBeforeAnnouncement,
    /// A device was removed while a group of it was being resolved.
    RemovalWhileResolving,
    /// A device was removed while an invalidation to it was under way.
    RemovalDuringInvalidation,
    /// A device was removed while a translation was in use.
    RemovalWhileInUse,
    /// A device came while an unbind was under way.
    HotplugDuringUnbind,
    /// A PASID was bound again while a completion or response for its earlier owner was on its way.
    ReuseWithLateMessage,
    /// A reset began while an invalidation to the device was under way.
    ResetDuringInvalidation,
    /// A reset began inside another one.
    NestedReset,
    /// A reset began while a group of the device was being resolved.
    ResetWhileResolving,
    /// A device was cut off, since it did not answer.
    CutOff,
    /// An invalidation was tried again.
    InvalidationRepeated,
    /// The page request queue overflowed.
    Overflow,
    /// An invalidation completion came twice, late or wrong.
    StrangeCompletion,
    /// A response came twice, late or wrong.
    StrangeResponse,
    /// A response failure stopped a device's page requests.
    ResponseFailure,
    /// An access met a translation whose change was under way.
    UseDuringChange,
    /// ATS was switched off while an invalidation was under way.
    DisableDuringInvalidation,
    /// A mapping of a domain was unmapped while a page request for it was being resolved or with an
    /// owner.
    UnmapWithFaultPending,
    /// A mapping of a domain was unmapped while the completion of a translation request for it was
    /// on its way.
    UnmapWithTranslationOnItsWay,
    /// A mapping of a domain was unmapped from inside the resolving of a page of it.
    UnmapWhileResolving,
    /// A device used an address of its domain after the unmap of it.
    UseAfterUnmap,
    /// An unbind began while an owner had a group of that PASID.
    UnbindWithOwner,
    /// A space ended while an owner had a group of it.
    EndWithOwner,
    /// A device was removed while an owner had a group of it.
    RemovalWithOwner,
    /// A reset began while an owner had a group of the device.
    ResetWithOwner,
    /// An owner answered a group before an earlier one of the same device.
    AnswerOutOfOrder,
    /// An owner answered a group that had been drained or forgotten.
    LateAnswer,
    /// An owner answered by the cookie of a group that it had answered before.
    SecondAnswer,
    /// An owner closed its queue with groups in it.
    OwnerGone,
    /// A group joined a container while a page request for its own domain was being resolved or
    /// with an owner.
    JoinWithFaultPending,
    /// A group joined a container while something was being unbound.
    JoinDuringUnbind,
    /// A group left a container while a page request of it was being resolved or with an owner.
    LeaveWithFaultPending,
    /// A group left a container while a translation was in use.
    LeaveWhileInUse,
    /// A container closed while a page request of it was being resolved or with an owner.
    CloseWithFaultPending,
    /// A container closed while a translation was in use.
    CloseWhileInUse,
    /// A space was bound, to a device or to a container, while a group was leaving one.
    BindDuringLeave,
    /// A device came into a group whose container has bindings.
    HotplugIntoContainer,
    /// A space ended that was bound to a container.
    EndInContainer,
    /// A device made an access that its bond does not grant.
    NotGranted,
    /// A device tried to execute what may not be executed.
    ExecuteRefused,
    /// A device executed by a translation whose change was under way.
    ExecuteDuringChange,
    /// A device made a privileged access by a translation whose change was under way.
    PrivilegedDuringChange,
}

impl Race {
    /// All of them.
    pub const ALL: [Self; 51] = [
        Self::FillOvertaken,
        Self::UnbindWithResponseOnItsWay,
        Self::UnbindWhileResolving,
        Self::UnbindWhileInUse,
        Self::UnbindDuringOverflow,
        Self::BindDuringChange,
        Self::BindDuringUnbind,
        Self::EndDuringUnbind,
        Self::EndWithFaultPending,
        Self::UseBeforeAnnouncement,
        Self::RemovalWhileResolving,
        Self::RemovalDuringInvalidation,
        Self::RemovalWhileInUse,
        Self::HotplugDuringUnbind,
        Self::ReuseWithLateMessage,
        Self::ResetDuringInvalidation,
        Self::NestedReset,
        Self::ResetWhileResolving,
        Self::CutOff,
        Self::InvalidationRepeated,
        Self::Overflow,
        Self::StrangeCompletion,
        Self::StrangeResponse,
        Self::ResponseFailure,
        Self::UseDuringChange,
        Self::DisableDuringInvalidation,
        Self::UnmapWithFaultPending,
        Self::UnmapWithTranslationOnItsWay,
        Self::UnmapWhileResolving,
        Self::UseAfterUnmap,
        Self::UnbindWithOwner,
        Self::EndWithOwner,
        Self::RemovalWithOwner,
        Self::ResetWithOwner,
        Self::AnswerOutOfOrder,
        Self::LateAnswer,
        Self::SecondAnswer,
        Self::OwnerGone,
        Self::JoinWithFaultPending,
        Self::JoinDuringUnbind,
        Self::LeaveWithFaultPending,
        Self::LeaveWhileInUse,
        Self::CloseWithFaultPending,
        Self::CloseWhileInUse,
        Self::BindDuringLeave,
        Self::HotplugIntoContainer,
        Self::EndInContainer,
        Self::NotGranted,
        Self::ExecuteRefused,
        Self::ExecuteDuringChange,
        Self::PrivilegedDuringChange,
    ];
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are the description: words out of capitals.
        let name = format!("{self:?}");
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{}", letter.to_lowercase())?;
        }
        Ok(())
    }
}

/// How often each race was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Races([u64; Race::ALL.len()]);

impl Default for Races {
    fn default() -> Self {
        Self([0; Race::ALL.len()])
    }
}

impl Races {
    /// It was reached.
    pub fn reached(&mut self, race: Race) {
        self.add(race, 1);
    }

    /// It was reached so many times more.
    pub fn add(&mut self, race: Race, times: u64) {
        self.0[race as usize] += times;
    }

    /// How often it was reached.
    pub fn count(&self, race: Race) -> u64 {
        self.0[race as usize]
    }

    /// Adds what another run has reached.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}
