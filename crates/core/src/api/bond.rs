//! What a bind asks for, and what its owner learns.

use std::any::Any;
use std::sync::Arc;

use crate::api::device::Features;
use crate::api::pri::PageRequestHandler;
use crate::api::space::EndReason;
use crate::types::ids::{Bdf, Pasid, SpaceId};

/// What an exit handler learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondEnd {
    /// The space that has ended.
    pub space: SpaceId,
    /// Its PASID, held until its last bond is gone.
    pub pasid: Pasid,
    /// How it ended.
    pub reason: EndReason,
}

/// What the owner of a device bond learns when its group grows (rule G4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolationChange {
    /// The bound device.
    pub device: Bdf,
    /// The device that it is not isolated from any more. It is not bound and cannot reach the
    /// space.
    pub newcomer: Bdf,
}

/// An exit handler with its drvdata.
pub(crate) type ExitHandler = Box<dyn FnOnce(&BondEnd) + Send>;
/// An isolation handler with its drvdata.
pub(crate) type IsolationHandler = Arc<dyn Fn(&IsolationChange) + Send + Sync>;

type OnExit<T> = Box<dyn FnOnce(&BondEnd, &T) + Send>;
type OnIsolation<T> = Box<dyn Fn(&IsolationChange, &T) + Send + Sync>;

/// What a bind asks for beside device and space.
///
/// Handlers run with no lock of the core held, on a thread of the provider or on the one that
/// unbinds. They may unbind any bond, their own included; such an unbind does not wait (rule U3).
pub struct Bind<T> {
    pub(crate) features: Features,
    pub(crate) data: Arc<T>,
    on_exit: Option<OnExit<T>>,
    on_isolation: Option<OnIsolation<T>>,
    on_pages: Option<Arc<dyn PageRequestHandler>>,
}

impl<T: Send + Sync + 'static> Bind<T> {
    /// The default features, no handlers. `drvdata` belongs to the bond and is passed to its
    /// handlers (rule B6).
    pub fn new(drvdata: T) -> Self {
        Self {
            features: Features::default(),
            data: Arc::new(drvdata),
            on_exit: None,
            on_isolation: None,
            on_pages: None,
        }
    }

    /// Grants these features instead of the default ones.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Has `handler` run once when the space ends, unless the bond is unbound before (rule U4).
    pub fn on_exit(mut self, handler: impl FnOnce(&BondEnd, &T) + Send + 'static) -> Self {
        self.on_exit = Some(Box::new(handler));
        self
    }

    /// Has `handler` run when a device bond's device, alone in its group until then, gets a sibling
    /// (rule G4).
    pub fn on_isolation_change(
        mut self,
        handler: impl Fn(&IsolationChange, &T) + Send + Sync + 'static,
    ) -> Self {
        self.on_isolation = Some(Box::new(handler));
        self
    }

    /// Has `handler` get the page requests of this bond, by whole groups, instead of the provider
    /// of the space: for page tables that the owner manages, such as a guest's.
    pub fn on_page_requests(mut self, handler: Arc<dyn PageRequestHandler>) -> Self {
        self.on_pages = Some(handler);
        self
    }

    pub(crate) fn take_pages(&mut self) -> Option<Arc<dyn PageRequestHandler>> {
        self.on_pages.take()
    }

    pub(crate) fn take_exit(&mut self) -> Option<ExitHandler> {
        let handler = self.on_exit.take()?;
        let data = Arc::clone(&self.data);
        Some(Box::new(move |end| handler(end, &data)))
    }

    pub(crate) fn take_isolation(&mut self) -> Option<IsolationHandler> {
        let handler = self.on_isolation.take()?;
        let data = Arc::clone(&self.data);
        Some(Arc::new(move |change| handler(change, &data)))
    }
}

/// drvdata that a container compares when a space is bound a second time (rule B5).
pub(crate) trait AnyData: Any + Send + Sync {
    fn same(&self, other: &dyn AnyData) -> bool;
}

impl<T: PartialEq + Send + Sync + 'static> AnyData for T {
    fn same(&self, other: &dyn AnyData) -> bool {
        (other as &dyn Any).downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

/// What an unbind found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnbindReport {
    /// It was asked from inside a callback: access has stopped, and the rest follows when those
    /// callbacks have returned (rule U3).
    pub deferred: bool,
    /// Accesses that were in flight when access was stopped, and ranges in hand
    /// ([`DmaPort::pin`](crate::DmaPort::pin)), each once; all are over, unless deferred.
    pub drained: usize,
    /// Groups of page requests that waited and were answered as invalid (rule U1).
    pub page_groups: usize,
    /// The space had ended before the unbind began.
    pub space_ended: bool,
    /// The exit handler has run, or is running where deferred.
    pub handler_ran: bool,
    /// The system had ended the bond before: its device was removed, or its container closed.
    pub already_ended: bool,
}
