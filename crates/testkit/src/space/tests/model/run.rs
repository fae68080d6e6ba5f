//! A space and its model: makes each step on both and compares them.

use super::*;

/// The real space beside the model.
pub(super) struct Run {
    space: MemorySpace,
    handle: Arc<dyn AddressSpace>,
    watcher: Arc<Watcher>,
    changes: Vec<Change>,
    model: Model,
    /// Step -> what its frames' numbers are above their pages' addresses; learned from
    /// translations.
    bases: BTreeMap<u64, u64>,
}

impl Run {
    pub(super) fn new() -> Self {
        let (space, watcher) = (MemorySpace::new(), Arc::new(Watcher::default()));
        let handle = space.handle();
        handle.watch(watcher.clone()).expect("alive");
        Self {
            space,
            handle,
            watcher,
            changes: Vec::new(),
            model: Model::default(),
            bases: BTreeMap::new(),
        }
    }

    fn frame(&self, frame: Made) -> Option<Frame> {
        Some(Frame(address(frame.page).wrapping_add(*self.bases.get(&frame.step)?)))
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.model.steps += 1;
        let at = |range: &Range<u64>| (address(range.start), (range.end - range.start) * PAGE);
        let begun = match step {
            Step::Map(range, protection) => {
                self.space.begin_map(at(range).0, at(range).1, *protection)
            }
            Step::Unmap(range) => self.space.begin_unmap(at(range).0, at(range).1),
            Step::Protect(range, protection) => {
                self.space.begin_protect(at(range).0, at(range).1, *protection)
            }
            Step::Remap(range, to) => {
                let len = range.end - range.start;
                if to + len > PAGES || (*to < range.end && range.start < to + len) {
                    return;
                }
                self.space.begin_remap(at(range).0, at(range).1, address(*to))
            }
            Step::Replace(range) => self.space.begin_replace(at(range).0, at(range).1),
            Step::Absent(range) => self.space.begin_absent(at(range).0, at(range).1),
            other => return self.access(other),
        };
        self.changes.push(begun);
        let told: Vec<_> = self
            .model
            .change(step)
            .iter()
            .map(|range| AddrRange::new(at(range).0, at(range).1).expect("pages"))
            .collect();
        assert_eq!(std::mem::take(&mut *self.watcher.invalidated.lock()), told);
    }

    fn access(&mut self, step: &Step) {
        match step {
            Step::Resolve(page) => {
                let entry = self
                    .model
                    .pages
                    .get_mut(page)
                    .filter(|entry| entry.protection.permits(Access::READ));
                let expected = entry.map(|entry| entry.present = true).is_some();
                assert_eq!(self.handle.resolve(address(*page), Access::READ).is_ok(), expected);
            }
            Step::Write(page, byte) => {
                let Some(entry) = self.model.pages.get(page) else { return };
                self.space.poke(address(*page), &[*byte; PAGE as usize]);
                self.model.contents.insert(self.model.same_as[&entry.frame], *byte);
            }
            Step::WriteFrame(nth, byte) if !self.model.same_as.is_empty() => {
                let (made, same_as) = self
                    .model
                    .same_as
                    .iter()
                    .nth(nth % self.model.same_as.len())
                    .expect("in range");
                let Some(frame) = self.frame(*made) else { return };
                let written = self.handle.write_frame(frame, &[*byte; PAGE as usize]);
                assert_eq!(written.is_ok(), self.model.is_live(*made), "{made:?}");
                if written.is_ok() {
                    self.model.contents.insert(*same_as, *byte);
                }
            }
            Step::Finish(nth) if !self.changes.is_empty() => {
                let nth = nth % self.changes.len();
                self.changes.remove(nth).finish();
                self.model.finish(nth);
            }
            _ => {}
        }
    }

    pub(super) fn check(&mut self) {
        for page in 0..PAGES {
            self.check_translation(page);
        }
        for &(page, made) in &self.model.history {
            let frame = self.frame(made).expect("seen");
            for access in accesses() {
                let (real, expected) = (
                    self.space.audit(address(page) + 1, access, Frame(frame.0 + 1)),
                    self.model.permits(page, access, made),
                );
                assert_eq!(real.is_ok(), expected, "page {page}, {made:?}, {access:?}: {real:?}");
            }
        }
        for (made, same_as) in &self.model.same_as {
            let Some(frame) = self.frame(*made) else { continue };
            let mut buf = [0; PAGE as usize];
            let real = self
                .handle
                .read_frame(frame, &mut buf)
                .map(|()| [buf[0], buf[PAGE as usize - 1]])
                .ok();
            let expected = self.model.contents.get(same_as).copied().unwrap_or(0);
            assert_eq!(real, self.model.is_live(*made).then_some([expected; 2]), "{made:?}");
        }
        let live: BTreeSet<_> =
            self.model.same_as.keys().filter(|made| self.model.is_live(**made)).collect();
        assert_eq!(
            (self.space.frames(), self.space.changes_under_way()),
            (live.len() as u64, self.changes.len())
        );
    }

    fn check_translation(&mut self, page: u64) {
        let entry = self.model.pages.get(&page).copied();
        for privileged in [false, true] {
            let (real, entry) = match (self.handle.translate(address(page) + 17, privileged), entry)
            {
                (Err(StopCause::NotMapped), None) => return,
                (Err(StopCause::NotPresent), Some(Page { present: false, .. })) => return,
                (Ok(real), Some(entry @ Page { present: true, .. })) => (real, entry),
                (real, expected) => {
                    panic!("page {page}: {real:?} where the model has {expected:?}")
                }
            };
            let alike = self.model.alike(page);
            assert_eq!(
                (real.range.first(), real.range.last()),
                (address(alike.start), address(alike.end) - 1),
                "page {page}: {entry:?}"
            );
            assert_eq!(real.permissions, entry.protection.permissions(privileged));
            assert_eq!(real.frame.is_some(), !real.permissions.is_empty());
            let Some(Frame(frame)) = real.frame else { continue };
            let base = frame
                .wrapping_add(address(page) - address(alike.start))
                .wrapping_sub(address(entry.frame.page));
            assert_eq!(
                *self.bases.entry(entry.frame.step).or_insert(base),
                base,
                "the frames of a step are contiguous and stay"
            );
            self.model.history.insert((page, entry.frame));
        }
    }
    /// Checks the numbers of all frames, takes everything away, and checks that nothing is left.
    pub(super) fn end(mut self) {
        let made = self.model.same_as.keys();
        let numbers: BTreeSet<_> = made.filter_map(|made| Some(self.frame(*made)?.0)).collect();
        let known = self.model.same_as.keys().filter(|made| self.frame(**made).is_some()).count();
        assert_eq!(numbers.len(), known, "no number is given twice");
        assert!(numbers.first().is_none_or(|first| *first >= 1 << 60));
        self.changes.clear();
        self.space.unmap(BASE, PAGES * PAGE);
        let stored = self.space.shared.memory.read().stored();
        assert_eq!((self.space.frames(), self.space.changes_under_way(), stored), (0, 0, 0));
    }
}
