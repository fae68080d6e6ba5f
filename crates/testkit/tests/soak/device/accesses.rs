//! The accesses that a device makes, each of another kind.

use sva_core::{Access, FaultReason};
use sva_sync::atomic::{Ordering, fence};
use sva_testkit::PAGE;

use super::{COLD, Defect, DeviceThread, MOST, Made, pieces};
use crate::life::State;
use crate::page::{LINE, OWNED, line_of, word_of};
use crate::spy;
use crate::world::{LEDGER, PAGES, Site, World};

impl DeviceThread {
    pub(super) fn read_stamps(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let at = self.rng.usize(0..OWNED / LINE) * LINE;
        let made = self.made(site, &[page], LINE, false, |port, pasid, buf| {
            port.read(Some(pasid), site.address(page) + at as u64, buf)
        })?;
        self.check(site, &[page], at, LINE, made)
    }

    /// A read that others are late to see the beginning of, and that is late itself when it has
    /// begun. Stores become visible in their order: the one that begins it waits for those in lines
    /// that the processor's caches lack, while it goes on.
    pub(super) fn read_late(
        &mut self,
        world: &World,
        site: &Site,
        page: usize,
    ) -> Result<(), Defect> {
        for _ in 0..COLD {
            world.cold[self.rng.usize(0..world.cold.len())].store(1, Ordering::Relaxed);
        }
        spy::linger();
        self.read_stamps(site, page)
    }

    /// A read by the PASID of another space, which has nothing there.
    pub(super) fn stray(&mut self, world: &World, site: &Site, page: usize) -> Result<(), Defect> {
        let other = &world.sites[self.rng.usize(0..world.sites.len())];
        let tie = other.ties[self.device].look();
        let Some(pasid) = tie.pasid().filter(|_| other.number != site.number) else {
            return Ok(());
        };
        let result = self.port.read(Some(pasid), site.address(page), &mut self.buf[..LINE]);
        fence(Ordering::Acquire);
        self.tally.count(result.is_ok(), false, false, false);
        // Where the bond has gone, the number may be this space's by now.
        let bound = tie.bound_until(other.ties[self.device].look());
        match result.as_ref().map_err(|error| error.fault().map(|fault| fault.reason)) {
            Err(Some(FaultReason::NotMapped)) => Ok(()),
            _ if !bound => Ok(()),
            _ => Err(format!(
                "{:?} was read by the PASID of site {}: {result:?}",
                site.name(page),
                other.number
            )),
        }
    }

    pub(super) fn scatter(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let pages: [usize; 4] = std::array::from_fn(|n| (page + 5 * n) % self.world.pages);
        let count = self.rng.usize(2..=pages.len());
        self.scatter_to(site, &pages[..count])
    }

    /// Writes to the thread's own lines of pages.
    pub(super) fn scatter_to(&mut self, site: &Site, pages: &[usize]) -> Result<(), Defect> {
        let at = line_of(self.number);
        self.written += 1;
        let (thread, number) = (self.number, self.written);
        let made = self.made(site, pages, LINE, true, |port, pasid, buf| {
            for (line, page) in buf.chunks_exact_mut(LINE).zip(pages) {
                let mark = site.name(*page).mark(thread, number).to_ne_bytes();
                line.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&mark));
            }
            match pages {
                [page] => port.write(Some(pasid), site.address(*page) + at as u64, buf),
                _ => port.scatter(
                    Some(pasid),
                    &pieces(site, pages, at, LINE)[..pages.len()],
                    buf,
                    Access::WRITE,
                ),
            }
        })?;
        let Some(made) = made else { return Ok(()) };
        for (n, page) in pages.iter().enumerate() {
            let known = &mut self.lines[site.number * PAGES + page];
            *known = match made.spans[n].settled() {
                Some(state) if n < made.done => {
                    Some((state.content, site.name(*page).mark(thread, number)))
                }
                // It was not written to.
                Some(_) => *known,
                None => None,
            };
        }
        Ok(())
    }

    /// Reads the thread's own line of a page: what it knows to have written there has to be there.
    pub(super) fn read_line(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let at = line_of(self.number);
        let made = self.made(site, &[page], LINE, false, |port, pasid, buf| {
            port.read(Some(pasid), site.address(page) + at as u64, buf)
        })?;
        let settled =
            made.as_ref().filter(|made| made.done == 1).and_then(|made| made.spans[0].settled());
        self.check(site, &[page], at, LINE, made)?;
        let Some(State { content, .. }) = settled else { return Ok(()) };
        let words: Vec<u64> = self.buf[..LINE]
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight")))
            .collect();
        let known = &mut self.lines[site.number * PAGES + page];
        let expected = known.filter(|known| known.0 == content).map_or(words[0], |known| known.1);
        if words.iter().any(|word| *word != expected) {
            return Err(format!(
                "its own line in {:?} holds {words:x?}, and it was {expected:#x} since contents \
                 {content}",
                site.name(page)
            ));
        }
        *known = Some((content, expected));
        Ok(())
    }

    /// A swap or a compare-exchange of the thread's own word of a page, which nobody else writes
    /// to.
    pub(super) fn operate(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let (at, index) = (word_of(self.number), site.number * PAGES + page);
        self.written += 1;
        let new = site.name(page).mark(self.number, self.written);
        let guess = self.rng.bool().then(|| self.words[index]).flatten();
        let mut was = (0, true);
        let made = self.made(site, &[page], 8, true, |port, pasid, _| {
            let (pasid, address) = (Some(pasid), site.address(page) + at as u64);
            was = match guess {
                Some((_, guess)) => port
                    .compare_exchange(pasid, address, guess, new)?
                    .map_or_else(|was| (was, false), |was| (was, true)),
                None => (port.swap(pasid, address, new)?, true),
            };
            Ok(())
        })?;
        let Some(Made { spans, done, .. }) = made else { return Ok(()) };
        let (was, replaced) = was;
        if done == 1 {
            if let Some((at, word)) = site.name(page).foreign(spans[0], at, &was.to_ne_bytes()) {
                return Err(format!(
                    "an atomic operation met {word:#x} at {at:#x} of {:?}, which was {}",
                    site.name(page),
                    spans[0]
                ));
            }
            if guess.is_some_and(|(_, guess)| replaced != (guess == was)) {
                return Err(format!(
                    "a compare-exchange met {was:#x} and replaced {guess:x?}: {replaced}"
                ));
            }
        }
        let known = &mut self.words[index];
        *known = match spans[0].settled() {
            Some(state) if done == 1 => {
                if let Some((_, expected)) =
                    known.filter(|known| known.0 == state.content && known.1 != was)
                {
                    return Err(format!(
                        "its own word in {:?} was {was:#x}, and it had left {expected:#x} there",
                        site.name(page)
                    ));
                }
                Some((state.content, if replaced { new } else { was }))
            }
            Some(_) => *known,
            None => None,
        };
        Ok(())
    }

    /// One is added to the ledger: what the threads have added and what is found there has to agree
    /// in the end.
    pub(super) fn add(&mut self, site: &Site) -> Result<(), Defect> {
        let made = self.made(site, &[LEDGER], 8, true, |port, pasid, _| {
            port.fetch_add(Some(pasid), site.address(LEDGER), 1u64).map(drop)
        })?;
        self.tally.added += made.map_or(0, |made| made.done as u64);
        Ok(())
    }

    pub(super) fn gather(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let pages: [usize; 4] = std::array::from_fn(|n| (page + 7 * n) % self.world.pages);
        let pages = &pages[..self.rng.usize(2..=pages.len())];
        let at = self.rng.usize(0..PAGE as usize / LINE) * LINE;
        let made = self.made(site, pages, LINE, false, |port, pasid, buf| {
            port.gather(
                Some(pasid),
                &pieces(site, pages, at, LINE)[..pages.len()],
                buf,
                Access::READ,
            )
        })?;
        self.check(site, pages, at, LINE, made)
    }

    /// Whole pages in one piece.
    pub(super) fn read_long(&mut self, site: &Site, page: usize) -> Result<(), Defect> {
        let pages: [usize; MOST] = std::array::from_fn(|n| page + n);
        let pages = &pages[..self.rng.usize(1..=MOST).min(self.world.pages - page)];
        let made = self.made(site, pages, PAGE as usize, false, |port, pasid, buf| {
            port.read(Some(pasid), site.address(page), buf)
        })?;
        self.check(site, pages, 0, PAGE as usize, made)
    }
}
