//! The fabric at run time.
//!
//! One lock, below all locks of the core: it guards which tree is the current one and what answers
//! behind the BARs. It is held to look up or to build a tree, which neither blocks nor calls out;
//! never while a model runs.

mod topology;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sva_core::topology::{ChangeCounter, PathPolicy};
use sva_core::{AddrRange, Bdf, DeviceSpec};
use sva_sync::RwLock;
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::bar::{BarModel, RamBar};
use crate::fabric::check;
use crate::fabric::enumerate::enumerate;
use crate::fabric::error::{
    AddError, ConfigError, ControlError, Decoder, ModelError, NotPresent, SpecError,
};
use crate::fabric::grouping;
use crate::fabric::route::{self, AddressType, Route};
use crate::fabric::spec::{FabricSpec, FunctionSpec};
use crate::fabric::tree::{Parent, Tree};

/// A fabric: the bus that the devices of an IOMMU sit on.
///
/// A function that is not there reaches nothing: its path has a defect, all addresses are caught,
/// and reads and writes abort. It is answered so that a device that was removed while it was
/// working fails safely; its group is the one of its position.
///
/// Each change ([`add`](Self::add), [`remove`](Self::remove), [`set_acs`](Self::set_acs)) raises
/// the [count of changes](sva_core::Topology::changes), by which an IOMMU learns that its copies
/// are old.
pub struct Fabric {
    policy: PathPolicy,
    /// How many trees there have been. Raised with the lock held, once the new tree is in: whoever
    /// sees the new count gets the new tree.
    changes: ChangeCounter,
    state: RwLock<State>,
}

struct State {
    /// What is there, with the windows of the ports as they were programmed at first.
    spec: FabricSpec,
    /// ACS control where it was changed since.
    control: BTreeMap<Bdf, AcsBits>,
    models: BTreeMap<(Bdf, u8), BarBackend>,
    tree: Arc<Tree>,
}

/// What answers behind a BAR.
enum BarBackend {
    Ram(Arc<RamBar>),
    Model(Arc<dyn BarModel>),
}

impl Fabric {
    /// Builds the fabric and programs the windows of its bridges.
    ///
    /// # Errors
    /// The description is no fabric.
    pub fn new(mut spec: FabricSpec) -> Result<Self, SpecError> {
        let tree = enumerate(&spec, &BTreeMap::new())?;
        check::members(&spec)?;
        for (port, built) in spec.ports.iter_mut().zip(&tree.ports) {
            port.windows.clone_from(&built.windows);
        }
        let mut state =
            State { spec, control: BTreeMap::new(), models: BTreeMap::new(), tree: Arc::new(tree) };
        let functions = state.spec.functions.clone();
        functions.iter().for_each(|function| state.give_memory(function));
        Ok(Self {
            policy: state.spec.policy,
            changes: ChangeCounter::default(),
            state: RwLock::new(state),
        })
    }

    /// Reads and builds a fabric; the format is in docs/fabric-config.md.
    ///
    /// # Errors
    /// The text is not of the format, or describes no fabric.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Ok(Self::new(FabricSpec::from_toml(text)?)?)
    }

    /// The functions that are there, as they are plugged into an IOMMU, in the order of their
    /// addresses.
    pub fn devices(&self) -> Vec<DeviceSpec> {
        let tree = self.tree();
        tree.in_order()
            .map(|function| DeviceSpec {
                bdf: function.spec.bdf,
                capabilities: function.spec.capabilities,
            })
            .collect()
    }

    /// What was said about the function at `bdf`.
    pub fn function(&self, bdf: Bdf) -> Option<FunctionSpec> {
        self.tree().function(bdf).map(|function| function.spec.clone())
    }

    /// ACS of the port or function at `bdf` as it is now; `None` where it has no capability or is
    /// not there.
    pub fn acs(&self, bdf: Bdf) -> Option<Acs> {
        find_acs(&self.tree(), bdf).flatten()
    }

    /// Follows one request from `from` to `address`, hop by hop.
    pub fn route(&self, from: Bdf, address: u64) -> Route {
        self.route_of(AddressType::Untranslated, from, address)
    }

    /// Follows one request with a translated address (ATS) from `from` to `address`, hop by hop.
    pub fn route_translated(&self, from: Bdf, address: u64) -> Route {
        self.route_of(AddressType::Translated, from, address)
    }

    fn route_of(&self, address_type: AddressType, from: Bdf, address: u64) -> Route {
        let tree = self.tree();
        match tree.function(from) {
            Some(function) => route::route(&tree, function, address_type, address),
            None => Route::Dropped { bridge: from },
        }
    }

    /// Plugs a function in. Windows of bridges stay as they are, so its BARs must lie in those of
    /// its parent.
    ///
    /// # Errors
    /// It does not fit, or would move a device that is there to another group. The fabric is
    /// unchanged.
    pub fn add(&self, function: FunctionSpec) -> Result<(), AddError> {
        let mut state = self.state.write();
        fits_programmed_windows(&state.tree, &function)?;
        let mut spec = state.spec.clone();
        spec.functions.push(function.clone());
        let tree = enumerate(&spec, &state.control)?;
        for present in state.tree.in_order() {
            let device = present.spec.bdf;
            let (from, to) = (grouping::key(&state.tree, device), grouping::key(&tree, device));
            if from != to {
                return Err(AddError::GroupWouldChange { added: function.bdf, device, from, to });
            }
        }
        state.spec = spec;
        self.publish(&mut state, tree);
        state.give_memory(&function);
        Ok(())
    }

    /// Takes the function at `bdf` out. Requests of others that are on their way to it may still
    /// arrive; later ones are aborted or lost.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, bdf: Bdf) -> Result<FunctionSpec, NotPresent> {
        let mut state = self.state.write();
        let at = state
            .spec
            .functions
            .iter()
            .position(|function| function.bdf == bdf)
            .ok_or(NotPresent(bdf))?;
        let mut spec = state.spec.clone();
        let removed = spec.functions.swap_remove(at);
        let mut control = state.control.clone();
        control.remove(&bdf);
        // A fabric without one of its functions is a fabric: every rule that holds for some
        // functions holds for fewer.
        let Ok(tree) = enumerate(&spec, &control) else { return Err(NotPresent(bdf)) };
        let models: Vec<_> =
            removed.bars.iter().filter_map(|bar| state.models.remove(&(bdf, bar.index))).collect();
        state.spec = spec;
        state.control = control;
        self.publish(&mut state, tree);
        drop(state);
        // A model's own drop may do anything; no lock is held for it.
        drop(models);
        Ok(removed)
    }

    /// Takes out all functions of the device that `bdf` is one of; answers what was there.
    pub fn remove_device(&self, bdf: Bdf) -> Vec<FunctionSpec> {
        let functions: Vec<Bdf> = self.tree().slot(bdf).map(|function| function.spec.bdf).collect();
        functions.into_iter().filter_map(|function| self.remove(function).ok()).collect()
    }

    /// Sets the ACS control of a port or function, as setpci would. Routing follows at once; groups
    /// stay as they were enumerated.
    ///
    /// # Errors
    /// Nothing there, no capability, or a service that it does not implement.
    pub fn set_acs(&self, bdf: Bdf, enabled: AcsBits) -> Result<(), ControlError> {
        let mut state = self.state.write();
        let acs = find_acs(&state.tree, bdf)
            .ok_or(ControlError::NotPresent(bdf))?
            .ok_or(ControlError::NoCapability(bdf))?;
        let bits = enabled & !acs.implemented;
        if !bits.is_empty() {
            return Err(ControlError::NotImplemented { bdf, bits });
        }
        if enabled.contains(AcsBits::EC) {
            return Err(ControlError::EgressControl(bdf));
        }
        let mut control = state.control.clone();
        control.insert(bdf, enabled);
        let tree = enumerate(&state.spec, &control).map_err(|_| ControlError::NotPresent(bdf))?;
        state.control = control;
        self.publish(&mut state, tree);
        Ok(())
    }

    /// Puts `model` behind a BAR, in place of what was there.
    ///
    /// # Errors
    /// No such function or BAR.
    pub fn attach_model(
        &self,
        bdf: Bdf,
        index: u8,
        model: Arc<dyn BarModel>,
    ) -> Result<(), ModelError> {
        let mut state = self.state.write();
        if state.tree.function(bdf).is_none() {
            return Err(ModelError::NotPresent(bdf));
        }
        let backend =
            state.models.get_mut(&(bdf, index)).ok_or(ModelError::NoBar { bdf, index })?;
        let before = std::mem::replace(backend, BarBackend::Model(model));
        drop(state);
        // A model's own drop may do anything; no lock is held for it.
        drop(before);
        Ok(())
    }

    /// The memory behind a BAR, where no other model was attached.
    pub fn memory(&self, bdf: Bdf, index: u8) -> Option<Arc<RamBar>> {
        match self.state.read().models.get(&(bdf, index)) {
            Some(BarBackend::Ram(ram)) => Some(Arc::clone(ram)),
            _ => None,
        }
    }

    fn publish(&self, state: &mut State, tree: Tree) {
        state.tree = Arc::new(tree);
        self.changes.increment();
    }

    /// The fabric as it is now.
    pub(crate) fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.state.read().tree)
    }
}

impl State {
    fn give_memory(&mut self, function: &FunctionSpec) {
        let memory = |index| ((function.bdf, index), BarBackend::Ram(Arc::new(RamBar::new())));
        self.models.extend(function.bars.iter().map(|bar| memory(bar.index)));
    }
}

fn fits_programmed_windows(tree: &Tree, function: &FunctionSpec) -> Result<(), SpecError> {
    // A parent that does not exist, and BARs that are none, are found when the tree is built.
    let Some(above) = tree.bus_of(function.bdf) else { return Ok(()) };
    let windows = match above {
        Parent::HostBridge(host) => &tree.hosts[host].spec.windows,
        Parent::Port(port) => &tree.ports[port].windows,
    };
    for bar in &function.bars {
        let Some(range) = AddrRange::new(bar.address, bar.size) else { continue };
        if !windows.iter().any(|window| window.covers(range)) {
            let decoder = Decoder::Bar { device: function.bdf, index: bar.index };
            return Err(SpecError::OutsideWindow { decoder, range, above: tree.bdf_above(above) });
        }
    }
    Ok(())
}

/// ACS of what is at `bdf`; `None` where nothing is.
fn find_acs(tree: &Tree, bdf: Bdf) -> Option<Option<Acs>> {
    match tree.function(bdf) {
        Some(function) => Some(function.acs),
        None => tree.ports.iter().find(|port| port.spec.bdf == bdf).map(|port| port.acs),
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.tree();
        let counts = (tree.hosts.len(), tree.ports.len(), tree.functions.len());
        write!(
            f,
            "Fabric({} host bridges, {} ports, {} functions, {})",
            counts.0, counts.1, counts.2, self.policy
        )
    }
}
