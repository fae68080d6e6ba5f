//! Owners of the page requests that carry no PASID: one handler for each domain.

use std::fmt;
use std::sync::Arc;

use super::container::Container;
use crate::api::error::{DomainOf, HandlerError};
use crate::api::pri::PageRequestHandler;
use crate::table::{Domain, Iommu};
use crate::types::ids::GroupId;

/// The page requests of a domain go to a handler as long as this lives. A call of the handler that
/// is under way when it is dropped may finish after.
#[must_use = "dropping it gives the page requests back to the providers of the mapped memory"]
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
    /// IOVAs that the owner manages.
    ///
    /// The handler is one of the group's own domain. A group that joins a container uses the
    /// container's domain instead, and its requests go to the handler of that, where there is one;
    /// this one gets nothing until the group has left, and then again. What it was handed
    /// before is answered as invalid with the join.
    ///
    /// # Errors
    /// See [`HandlerError`].
    pub fn handle_page_requests(
        &self,
        group: GroupId,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<HandlerRegistration, HandlerError> {
        let domain = {
            let state = self.lock();
            let found = state.groups.get(&group).ok_or(HandlerError::NoSuchGroup { group })?;
            if let Some(container) = found.container {
                return Err(HandlerError::InContainer { group, container });
            }
            Arc::clone(&found.own_domain)
        };
        HandlerRegistration::new(domain, DomainOf::Group(group), handler)
    }
}

impl Container {
    /// Gives the page requests without PASID of all its groups to `handler`, those of groups that
    /// join later included. A group that leaves takes its requests to its own domain again.
    ///
    /// # Errors
    /// Somebody else has them.
    pub fn handle_page_requests(
        &self,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<HandlerRegistration, HandlerError> {
        HandlerRegistration::new(self.domain(), DomainOf::Container(self.id()), handler)
    }
}
