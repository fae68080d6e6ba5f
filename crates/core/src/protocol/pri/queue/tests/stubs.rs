//! Devices, PASID entries and domains, with the state that the queue uses.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::types::ids::{Bdf, Generation};

/// An address space, which may end.
pub(super) struct Space {
    pub(super) generation: Generation,
    pub(super) has_ended: Cell<bool>,
}

impl Space {
    /// Makes a space with a new generation.
    pub(super) fn new() -> Rc<Self> {
        thread_local!(static NEXT: Cell<u64> = const { Cell::new(1) });
        let generation = Generation(NEXT.replace(NEXT.get() + 1));
        Rc::new(Self { generation, has_ended: Cell::new(false) })
    }
}

/// A PASID entry.
pub(super) struct TableEntry {
    pub(super) pasid: Pasid,
    pub(super) space: Rc<Space>,
    pub(super) is_published: Cell<bool>,
    pub(super) is_closed: Cell<bool>,
}

/// An attachment of a domain.
#[derive(Default)]
pub(super) struct Domain {
    pub(super) is_closed: Cell<bool>,
    // Attachments are compared by address, so they must have a size.
    _sized: u8,
}

#[derive(Clone)]
pub(super) enum Target {
    Entry(Rc<TableEntry>),
    Domain(Rc<Domain>),
}

impl PageRequestTarget for Target {
    fn pasid(&self) -> Option<Pasid> {
        match self {
            Self::Entry(entry) => Some(entry.pasid),
            Self::Domain(_) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Entry(one), Self::Entry(other)) => Rc::ptr_eq(one, other),
            (Self::Domain(one), Self::Domain(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn resolve_key(&self) -> ResolveKey {
        match self {
            Self::Entry(entry) => ResolveKey::Space(entry.space.generation),
            Self::Domain(domain) => ResolveKey::Domain(Rc::as_ptr(domain) as usize),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Entry(entry) => entry.is_closed.get(),
            Self::Domain(domain) => domain.is_closed.get(),
        }
    }

    fn accepts_page_requests(&self) -> bool {
        let is_usable = match self {
            Self::Entry(entry) => entry.is_published.get() && !entry.space.has_ended.get(),
            Self::Domain(_) => true,
        };
        is_usable && !self.is_closed()
    }
}

/// A device whose responses carry the PASID.
#[derive(Clone)]
pub(super) struct Device(pub(super) Rc<DeviceState>);

pub(super) struct DeviceState {
    key: DeviceKey,
    pub(super) table: RefCell<BTreeMap<Pasid, Rc<TableEntry>>>,
    pub(super) domain: RefCell<Rc<Domain>>,
}

impl Device {
    pub(super) fn new(key: DeviceKey) -> Self {
        Self(Rc::new(DeviceState { key, table: RefCell::default(), domain: RefCell::default() }))
    }

    /// Programs a new entry for the space.
    pub(super) fn bind(&self, pasid: Pasid, space: &Rc<Space>) {
        let entry = TableEntry {
            pasid,
            space: Rc::clone(space),
            is_published: Cell::new(true),
            is_closed: Cell::new(false),
        };
        self.0.table.borrow_mut().insert(pasid, Rc::new(entry));
    }

    pub(super) fn bound(&self, pasid: Pasid) -> Rc<TableEntry> {
        Rc::clone(&self.0.table.borrow()[&pasid])
    }
}

impl PageRequester for Device {
    type Target = Target;

    fn key(&self) -> DeviceKey {
        self.0.key
    }

    fn bdf(&self) -> Bdf {
        Bdf::new(0, 1, self.0.key as u8 + 1, 0).expect("small")
    }

    fn entry(&self, pasid: Pasid) -> Option<Target> {
        self.0.table.borrow().get(&pasid).cloned().map(Target::Entry)
    }

    fn domain(&self) -> Target {
        Target::Domain(Rc::clone(&self.0.domain.borrow()))
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn response_pasid(&self) -> bool {
        true
    }
}
