//! A thread that owns sites: it changes what is mapped there, unbinds and binds devices, ends
//! spaces and puts others in their place; and looks for what devices have done to memory that they
//! may not touch.

use std::hint;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sva_sync::atomic::Ordering;

use crate::life::Reach;
use crate::tenant::{Kind, Tenant};
use crate::world::{LEDGER, World};

/// Changes between two looks at all memory that is free.
const LOOKS: u64 = 256;
/// How long owners that dawdle sleep now and then.
const PAUSE: Duration = Duration::from_micros(50);
/// How often they go round at most where they wait without sleeping.
const SPINS: u32 = 1000;

pub(crate) struct OwnerThread {
    world: Arc<World>,
    rng: fastrand::Rng,
    tenants: Vec<Tenant>,
    dawdles: bool,
}

impl OwnerThread {
    /// Puts a space, to which all devices are bound, at each of these sites.
    pub(crate) fn new(
        world: Arc<World>,
        sites: impl Iterator<Item = usize>,
        seed: u64,
        dawdles: bool,
    ) -> Self {
        let tenants = sites.map(|site| Tenant::new(&world, site, dawdles)).collect();
        Self { rng: fastrand::Rng::with_seed(seed), tenants, dawdles, world }
    }

    /// Until the owners are told that it is over. Answers what was added to the ledgers.
    pub(crate) fn run(mut self) -> u64 {
        let world = Arc::clone(&self.world);
        let mut changes = 0;
        let mut outcome = Ok(());
        while outcome.is_ok() && !world.owners_over.load(Ordering::Relaxed) {
            outcome = self.step(&world, changes);
            changes += 1;
            world.changes.fetch_add(1, Ordering::Relaxed);
            self.pause();
        }
        let found =
            outcome.and_then(|()| self.tenants.iter_mut().map(|tenant| tenant.close(&world)).sum());
        found.unwrap_or_else(|defect| {
            world.report(defect);
            0
        })
    }

    fn step(&mut self, world: &World, number: u64) -> Result<(), String> {
        let Self { rng, tenants, .. } = self;
        let chosen = rng.usize(0..tenants.len());
        let tenant = &mut tenants[chosen];
        if number.is_multiple_of(LOOKS) {
            tenant.look_at_free()?;
        }
        let pages = world.pages;
        match rng.u8(..) {
            0 => tenant.succeed(world),
            1..=8 => {
                tenant.rebind(world, rng.usize(0..world.devices.len()));
                Ok(())
            }
            9..=16 => tenant.put_aside(world, &range(rng, pages)),
            17..=20 => tenant.put_aside(world, &(LEDGER..LEDGER + 1)),
            21..=28 => {
                let kind =
                    [Kind::Protect(Reach::Read), Kind::Protect(Reach::ReadWrite), Kind::Replace]
                        [rng.usize(0..3)];
                tenant.change(world, &[(kind, LEDGER..LEDGER + 1)])
            }
            29..=60 => {
                let cut = rng.usize(1..pages);
                let (one, other) = (range(rng, cut), range(rng, pages - cut));
                let steps = [(kind(rng), one), (kind(rng), other.start + cut..other.end + cut)];
                tenant.change(world, &steps)
            }
            _ => tenant.change(world, &[(kind(rng), range(rng, pages))]),
        }
    }

    /// Devices have the sites for themselves for a moment. Who gives up a turn where there are few
    /// processors is away for long.
    fn pause(&mut self) {
        match self.rng.u8(0..32) {
            0 if self.dawdles => thread::sleep(PAUSE),
            1..=8 if self.dawdles => thread::yield_now(),
            9..=16 => (0..self.rng.u32(0..SPINS)).for_each(|_| hint::spin_loop()),
            _ => {}
        }
    }
}

/// Some of the first `pages`: mostly few, sometimes all.
fn range(rng: &mut fastrand::Rng, pages: usize) -> Range<usize> {
    let most = match rng.u8(0..16) {
        0 => return 0..pages,
        1..=4 => pages,
        _ => pages.min(4),
    };
    let len = rng.usize(1..=most);
    let first = rng.usize(0..=pages - len);
    first..first + len
}

fn kind(rng: &mut fastrand::Rng) -> Kind {
    match rng.u8(0..16) {
        0 => Kind::Unmap,
        1..=5 => Kind::Fresh,
        6 => Kind::Map,
        7 => Kind::Protect(Reach::Nothing),
        8..=9 => Kind::Protect(Reach::Read),
        10..=12 => Kind::Protect(Reach::ReadWrite),
        13..=14 => Kind::Replace,
        _ => Kind::Absent,
    }
}
