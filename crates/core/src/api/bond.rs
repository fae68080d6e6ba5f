//! Requests to bind, the values that their handlers get, and reports of unbinds.

use std::any::Any;
use std::sync::Arc;

use crate::api::device::Features;
use crate::api::pri::PageRequestHandler;
use crate::api::space::EndReason;
use crate::types::ids::{Bdf, Pasid, SpaceId};

/// The end of a bound address space, as an exit handler gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondEnd {
    /// The space that has ended.
    pub space: SpaceId,
    /// The PASID of the space. It is not reused before the last bond of the space is unbound.
    pub pasid: Pasid,
    /// How the space ended.
    pub reason: EndReason,
}

/// The loss of a bound device's isolation, as an isolation handler gets it: another device was
/// plugged into the group of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolationChange {
    /// The bound device.
    pub device: Bdf,
    /// The new device. It is not bound and cannot reach the space by the PASID of the bond, but it
    /// is not isolated from the bound device.
    pub newcomer: Bdf,
}

/// An exit handler with its drvdata.
pub(crate) type ExitHandler = Box<dyn FnOnce(&BondEnd) + Send>;
/// An isolation handler with its drvdata.
pub(crate) type IsolationHandler = Arc<dyn Fn(&IsolationChange) + Send + Sync>;

type OnExit<T> = Box<dyn FnOnce(&BondEnd, &T) + Send>;
type OnIsolation<T> = Box<dyn Fn(&IsolationChange, &T) + Send + Sync>;

/// The terms of a bind: the features that the bond grants, its drvdata and its handlers.
///
/// Handlers run with no lock of the core held, on a thread of the provider or on the thread that
/// unbinds. A handler may unbind any bond, its own included. An unbind from inside a handler stops
/// access and returns without waiting for the handler
/// ([`UnbindReport::deferred`]).
#[must_use = "it binds nothing by itself"]
pub struct Bind<T> {
    pub(crate) features: Features,
    pub(crate) data: Arc<T>,
    on_exit: Option<OnExit<T>>,
    on_isolation: Option<OnIsolation<T>>,
    on_pages: Option<Arc<dyn PageRequestHandler>>,
}

impl<T: Send + Sync + 'static> Bind<T> {
    /// Makes the terms of a bond with the default [`Features`] and without handlers. `drvdata`
    /// belongs to the bond and is passed to its handlers.
    pub fn new(drvdata: T) -> Self {
        Self {
            features: Features::default(),
            data: Arc::new(drvdata),
            on_exit: None,
            on_isolation: None,
            on_pages: None,
        }
    }

    /// Sets the features that the bond grants.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Sets the exit handler. It runs once when the space ends, and does not run if the bond is
    /// unbound before. Accesses by the bond are aborted from the end of the space on.
    pub fn on_exit(mut self, handler: impl FnOnce(&BondEnd, &T) + Send + 'static) -> Self {
        self.on_exit = Some(Box::new(handler));
        self
    }

    /// Sets the isolation handler. It runs when the device of a device bond was alone in its group
    /// and another device is plugged into that group.
    pub fn on_isolation_change(
        mut self,
        handler: impl Fn(&IsolationChange, &T) + Send + Sync + 'static,
    ) -> Self {
        self.on_isolation = Some(Box::new(handler));
        self
    }

    /// Sets the page request handler. It gets the page request groups of this bond, which the
    /// provider of the space resolves otherwise. It is for page tables that the owner of the bond
    /// manages, such as those of a guest.
    pub fn on_page_requests(mut self, handler: Arc<dyn PageRequestHandler>) -> Self {
        self.on_pages = Some(handler);
        self
    }

    pub(crate) fn take_page_handler(&mut self) -> Option<Arc<dyn PageRequestHandler>> {
        self.on_pages.take()
    }

    pub(crate) fn take_exit_handler(&mut self) -> Option<ExitHandler> {
        let handler = self.on_exit.take()?;
        let data = Arc::clone(&self.data);
        Some(Box::new(move |end| handler(end, &data)))
    }

    pub(crate) fn take_isolation_handler(&mut self) -> Option<IsolationHandler> {
        let handler = self.on_isolation.take()?;
        let data = Arc::clone(&self.data);
        Some(Arc::new(move |change| handler(change, &data)))
    }
}

/// drvdata that a container compares when a space is bound to it a second time.
pub(crate) trait AnyData: Any + Send + Sync {
    fn is_equal(&self, other: &dyn AnyData) -> bool;
}

impl<T: PartialEq + Send + Sync + 'static> AnyData for T {
    fn is_equal(&self, other: &dyn AnyData) -> bool {
        (other as &dyn Any).downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

/// The result of an unbind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnbindReport {
    /// The unbind was not waited for and was not over when this report was made, because it was
    /// called inside a callback or by a function that does not wait, such as
    /// [`Bond::begin_unbind`](crate::Bond::begin_unbind). No access starts; the other steps follow
    /// when the accesses in flight and the callbacks have ended.
    pub deferred: bool,
    /// The number of accesses that were in flight when access was stopped, and of pinned ranges
    /// ([`DmaPort::pin`](crate::DmaPort::pin)), each counted once. All of them have ended, unless
    /// the unbind is deferred.
    pub drained: usize,
    /// The number of page request groups that were outstanding and were answered with the response
    /// code Invalid Request.
    pub page_groups: usize,
    /// Whether the space had ended before the unbind began.
    pub space_ended: bool,
    /// Whether the exit handler has run, or is running if the unbind is deferred.
    pub handler_ran: bool,
    /// Whether the bond had ended before, because its device was removed or its container closed.
    pub already_ended: bool,
}
