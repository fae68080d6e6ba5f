//! Handlers of the page requests that carry no PASID: one for each domain.

use std::fmt;
use std::sync::Arc;

use super::container::Container;
use crate::api::error::{DomainOf, HandlerError};
use crate::api::pri::PageRequestHandler;
use crate::table::{Domain, Iommu};
use crate::types::ids::GroupId;

/// The registration of a handler for the page requests of a domain. Its drop removes the handler. A
/// call of the handler that has begun before the drop can return after it.
#[must_use = "its drop gives the page requests back to the providers of the mapped memory"]
pub struct HandlerRegistration(Arc<Domain>);

impl HandlerRegistration {
    fn new(
        domain: Arc<Domain>,
        of: DomainOf,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<Self, HandlerError> {
        if domain.set_handler(handler) {
            Ok(Self(domain))
        } else {
            Err(HandlerError::Taken { domain: of })
        }
    }
}

impl Drop for HandlerRegistration {
    fn drop(&mut self) {
        let handler = self.0.take_handler();
        drop(handler);
    }
}

impl fmt::Debug for HandlerRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerRegistration")
    }
}

impl Iommu {
    /// Gives the page requests without PASID of a group that is in no container to `handler`: for
    /// IOVAs whose page tables the handler's implementer manages.
    ///
    /// The handler belongs to the group's own domain. A group that joins a container uses the
    /// container's domain, so its page requests go to the handler of that domain until the group
    /// leaves. The join answers the page request groups that this handler was handed before as
    /// invalid.
    ///
    /// # Errors
    /// See [`HandlerError`].
    pub fn handle_page_requests(
        &self,
        group: GroupId,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<HandlerRegistration, HandlerError> {
        let state = self.lock();
        let found = state.groups.get(&group).ok_or(HandlerError::NoSuchGroup { group })?;
        if let Some(container) = found.container {
            return Err(HandlerError::InContainer { group, container });
        }
        let domain = Arc::clone(&found.own_domain);
        self.unlock(state);
        HandlerRegistration::new(domain, DomainOf::Group(group), handler)
    }
}

impl Container {
    /// Gives the page requests without PASID of all groups of the container to `handler`, including
    /// groups that join later. The page requests of a group that leaves belong to the group's own
    /// domain again.
    ///
    /// # Errors
    /// The domain has a handler already.
    pub fn handle_page_requests(
        &self,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<HandlerRegistration, HandlerError> {
        HandlerRegistration::new(self.domain(), DomainOf::Container(self.id()), handler)
    }
}
