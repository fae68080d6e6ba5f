//! What lives at a site: a space, with the bonds of all devices, and its changes.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use sva_core::{AddressSpace, Bind, Bond, EndReason};
use sva_testkit::ArenaChange;
use sva_testkit::{ArenaSpace, Forwarding, PAGE, Protection};

use crate::life::{Reach, Span, State};
use crate::spy::Spy;
use crate::world::{LEDGER, PAGES, Site, World};

/// As little memory as will do, so that what is freed soon serves another page: what is mapped,
/// what takes its place, and some more.
const MEMORY: u64 = (2 * (PAGES as u64 + 1) + 2) * PAGE;
/// What stands in the memory of a space that has ended.
const DEAD: [u8; PAGE as usize] = [0xda; PAGE as usize];
/// And when nobody is bound to it any more.
pub(crate) const BURIED: [u8; PAGE as usize] = [0xdb; PAGE as usize];

/// Something was found that no space has permitted: in words.
type Defect = String;

/// What a change does to a range of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unmap,
    /// Other memory, full of stamps from the moment that it is there.
    Fresh,
    /// Other memory, full of zeros.
    Map,
    Protect(Reach),
    Replace,
    Absent,
    /// Puts them where no device looks, with all that is in them.
    Aside,
    Back,
}

/// See the module.
pub(crate) struct Tenant {
    site: usize,
    /// Of each device; before the space, which outlives them.
    bonds: Vec<Option<Bond<()>>>,
    space: ArenaSpace,
    states: [State; PAGES + 1],
    /// What the pages were that are put aside.
    aside: [State; PAGES + 1],
    /// The sum of a page that no device may write to.
    sums: [Option<u64>; PAGES + 1],
    /// The space before, with the pages that were mapped at its end.
    buried: Option<(ArenaSpace, Vec<usize>)>,
    dawdles: bool,
    /// What was found in the ledgers of those before.
    found: u64,
}

impl Tenant {
    /// The first one of a site.
    pub(crate) fn new(world: &World, site: usize, dawdles: bool) -> Self {
        let bonds = world.devices.iter().map(|_| None).collect();
        let (states, sums) = ([State::NEVER; PAGES + 1], [None; PAGES + 1]);
        let mut tenant = Self {
            site,
            bonds,
            space: arena(),
            states,
            aside: states,
            sums,
            buried: None,
            dawdles,
            found: 0,
        };
        tenant.settle_in(world);
        tenant
    }

    fn settle_in(&mut self, world: &World) {
        (0..self.bonds.len()).for_each(|device| self.bind(world, device));
        self.make(world, &[(Kind::Fresh, 0..world.pages), (Kind::Map, LEDGER..LEDGER + 1)]);
    }

    fn bind(&mut self, world: &World, device: usize) {
        let tie = &self.at(world).ties[device];
        tie.mark();
        let space: Arc<dyn AddressSpace> =
            Arc::new(Forwarding(Spy::new(self.space.handle(), self.dawdles)));
        let bond = world
            .iommu
            .bind_device(&world.devices[device], &space, Bind::new(()))
            .expect("it is not bound, and there are PASIDs");
        tie.settle(Some(bond.pasid()));
        self.bonds[device] = Some(bond);
    }

    fn unbind(&mut self, world: &World, device: usize) {
        let Some(bond) = self.bonds[device].take() else { return };
        let tie = &self.at(world).ties[device];
        tie.mark();
        let _ = bond.unbind();
        tie.settle(None);
    }

    /// Unbinds a device, and binds it again.
    pub(crate) fn rebind(&mut self, world: &World, device: usize) {
        self.unbind(world, device);
        if self.dawdles {
            thread::yield_now();
        }
        self.bind(world, device);
    }

    /// A change of ranges that do not overlap, waited for as one.
    pub(crate) fn change(
        &mut self,
        world: &World,
        steps: &[(Kind, Range<usize>)],
    ) -> Result<(), Defect> {
        steps
            .iter()
            .flat_map(|(_, pages)| pages.clone())
            .try_for_each(|page| self.inspect(world, page))?;
        self.make(world, steps);
        Ok(())
    }

    fn make(&mut self, world: &World, steps: &[(Kind, Range<usize>)]) {
        let site = self.at(world);
        for (kind, pages) in steps {
            for page in pages.clone() {
                let old = self.states[page];
                self.states[page] = self.after(*kind, page);
                if *kind == Kind::Aside {
                    self.aside[page] = old;
                }
                site.pages[page].mark(old, self.states[page]);
            }
        }
        let begun = steps.iter().map(|(kind, pages)| self.begin(site, *kind, pages));
        begun.reduce(ArenaChange::and).into_iter().for_each(ArenaChange::finish);
        for page in steps.iter().flat_map(|(_, pages)| pages.clone()) {
            let state = self.states[page];
            // From here on no device may write to it.
            self.sums[page] = (state.mapped() && state.reach != Reach::ReadWrite)
                .then(|| self.sum(site.address(page)));
            site.pages[page].settle(state);
        }
    }

    /// What becomes of a page.
    fn after(&self, kind: Kind, page: usize) -> State {
        let state = self.states[page];
        let content = state.content + 1;
        match kind {
            Kind::Fresh => State { reach: Reach::ReadWrite, content, blank: false },
            Kind::Map => State { reach: Reach::ReadWrite, content, blank: true },
            Kind::Unmap | Kind::Aside => State { reach: Reach::Gone, ..state },
            Kind::Back => self.aside[page],
            _ if !state.mapped() => state,
            Kind::Absent => State { content, blank: true, ..state },
            Kind::Protect(reach) => State { reach, ..state },
            Kind::Replace => state,
        }
    }

    fn begin(&self, site: &Site, kind: Kind, pages: &Range<usize>) -> ArenaChange {
        let (space, first, len) =
            (&self.space, site.address(pages.start), pages.len() as u64 * PAGE);
        match kind {
            Kind::Unmap => space.begin_unmap(first, len),
            Kind::Map => space.begin_map(first, len, Protection::READ_WRITE),
            Kind::Protect(reach) => space.begin_protect(first, len, protection(reach)),
            Kind::Replace => space.begin_replace(first, len),
            Kind::Absent => space.begin_absent(first, len),
            Kind::Aside => space.begin_remap(first, len, site.aside(pages.start)),
            Kind::Back => space.begin_remap(site.aside(pages.start), len, first),
            Kind::Fresh => {
                space.map(site.staging(pages.start), len, Protection::READ_WRITE);
                for page in pages.clone() {
                    let stamp = site.name(page).stamp(self.states[page].content).to_ne_bytes();
                    space.poke(site.staging(page), &stamp.repeat(PAGE as usize / stamp.len()));
                }
                space.begin_remap(site.staging(pages.start), len, first)
            }
        }
    }

    /// Puts pages aside and back: in between no device writes to them.
    pub(crate) fn put_aside(&mut self, world: &World, pages: &Range<usize>) -> Result<(), Defect> {
        self.change(world, &[(Kind::Aside, pages.clone())])?;
        let site = self.at(world);
        let there: Vec<usize> = pages.clone().filter(|page| self.aside[*page].mapped()).collect();
        let sums = || there.iter().map(|page| self.sum(site.aside(*page))).collect::<Vec<_>>();
        let before = sums();
        if self.dawdles {
            thread::yield_now();
        }
        if before != sums() {
            return Err(format!(
                "site {}: pages {there:?} were written to when they had been put aside",
                self.site
            ));
        }
        self.make(world, &[(Kind::Back, pages.clone())]);
        Ok(())
    }

    /// Looks at a page that nobody is changing: where no device may write, nothing has been;
    /// elsewhere nothing stands that nobody has written.
    fn inspect(&self, world: &World, page: usize) -> Result<(), Defect> {
        let (site, state) = (self.at(world), self.states[page]);
        match self.sums[page] {
            Some(sum) if self.sum(site.address(page)) != sum => {
                Err(format!("{:?} was written to while it was {state:?}", site.name(page)))
            }
            None if state.mapped() && page != LEDGER => {
                let now = site.pages[page].look();
                let bytes = self.space.peek(site.address(page), PAGE as usize);
                let foreign = site.name(page).foreign(Span { before: now, after: now }, 0, &bytes);
                foreign.map_or(Ok(()), |(at, word)| {
                    Err(format!(
                        "{word:#x} stood at {at:#x} of {:?}, which was {state:?}",
                        site.name(page)
                    ))
                })
            }
            _ => Ok(()),
        }
    }

    /// Nobody has written to memory that was free.
    pub(crate) fn look_at_free(&self) -> Result<(), Defect> {
        self.space.stale_write().map_or(Ok(()), |frame| {
            Err(format!("site {}: {frame:?} was written to when it was free", self.site))
        })
    }

    /// Ends the space, and puts another one in its place.
    pub(crate) fn succeed(&mut self, world: &World) -> Result<(), Defect> {
        (0..=PAGES).try_for_each(|page| self.inspect(world, page))?;
        let site = self.at(world);
        let mapped: Vec<usize> = (0..=PAGES).filter(|page| self.states[*page].mapped()).collect();
        site.ties.iter().for_each(|tie| tie.mark());
        for page in 0..=PAGES {
            let old = self.states[page];
            self.states[page].reach = Reach::Gone;
            self.sums[page] = None;
            site.pages[page].mark(old, self.states[page]);
        }
        self.space.end(EndReason::Closed);
        (0..=PAGES).for_each(|page| site.pages[page].settle(self.states[page]));
        self.found += self.ledger(site);
        mapped.iter().for_each(|page| self.space.poke(site.address(*page), &DEAD));
        self.look_at_free()?;
        (0..self.bonds.len()).for_each(|device| self.unbind(world, device));
        site.ties.iter().for_each(|tie| tie.settle(None));
        mapped.iter().for_each(|page| self.space.poke(site.address(*page), &BURIED));
        self.dig(world)?;
        self.buried = Some((std::mem::replace(&mut self.space, arena()), mapped));
        self.settle_in(world);
        Ok(())
    }

    /// Nobody has written to the memory of the space before.
    fn dig(&mut self, world: &World) -> Result<(), Defect> {
        let site = self.at(world);
        let Some((space, pages)) = self.buried.take() else { return Ok(()) };
        match pages.iter().find(|page| space.peek(site.address(**page), PAGE as usize) != BURIED) {
            Some(page) => {
                Err(format!("{:?} of a space was written to when that had ended", site.name(*page)))
            }
            None => Ok(()),
        }
    }

    /// The last look, when no device is there any more. Answers what was added to the ledgers.
    pub(crate) fn close(&mut self, world: &World) -> Result<u64, Defect> {
        (0..=PAGES).try_for_each(|page| self.inspect(world, page))?;
        self.look_at_free()?;
        self.dig(world)?;
        Ok(self.found + self.ledger(self.at(world)))
    }

    fn ledger(&self, site: &Site) -> u64 {
        u64::from_ne_bytes(
            self.space.peek(site.address(LEDGER), 8).try_into().expect("eight bytes"),
        )
    }

    fn sum(&self, address: u64) -> u64 {
        let bytes = self.space.peek(address, PAGE as usize);
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
        // Odd: no difference is lost on the way.
        words.fold(0, |sum: u64, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn at<'a>(&self, world: &'a World) -> &'a Site {
        &world.sites[self.site]
    }
}

fn arena() -> ArenaSpace {
    ArenaSpace::new(MEMORY).poisoning()
}

fn protection(reach: Reach) -> Protection {
    match reach {
        Reach::Gone | Reach::Nothing => Protection::NONE,
        Reach::Read => Protection::READ,
        Reach::ReadWrite => Protection::READ_WRITE,
    }
}
