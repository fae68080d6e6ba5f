//! The slow reference: plain lists, all of which each step searches.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cached {
    pasid: Option<Pasid>,
    pub(super) range: AlignedRange,
    frame: Frame,
    permissions: Permissions,
    privileged: bool,
}

struct SentRequest {
    request: TranslationRequest,
    /// The range of every invalidation of its PASID since.
    invalidated: Vec<AlignedRange>,
    answer: Option<TranslationAnswer>,
}

/// An access that has not ended.
pub(super) struct AccessInFlight {
    id: u64,
    pasid: Option<Pasid>,
    range: AlignedRange,
    is_void: bool,
}

/// The reference. It accepts any entry that a full cache evicts, as long as it is one.
#[derive(Default)]
pub(super) struct Reference {
    capacity: usize,
    allowed: usize,
    cached: Vec<Cached>,
    requests: Vec<SentRequest>,
    pub(super) accesses: Vec<AccessInFlight>,
    invalidations: Vec<(InvalidationCompletion, Vec<u64>)>,
    /// All requests ever made.
    sent: Vec<RequestId>,
    frames: u64,
    counts: AtcCounts,
}

fn overlap(a: AlignedRange, b: AlignedRange) -> bool {
    a.first() <= b.last() && b.first() <= a.last()
}

impl Atc {
    pub(super) fn contents(&self) -> Vec<Cached> {
        let plain = |e: &AtcEntry| Cached {
            pasid: e.pasid,
            range: e.range,
            frame: e.frame,
            permissions: e.permissions,
            privileged: e.privileged,
        };
        self.entries.values().map(plain).collect()
    }

    fn unreferenced(&self) -> Vec<Frame> {
        self.entries.values().filter(|entry| !entry.referenced).map(|entry| entry.frame).collect()
    }
}

impl Reference {
    pub(super) fn new(capacity: usize, allowed: usize) -> Self {
        Self { capacity, allowed, ..Self::default() }
    }

    /// Makes a step on both and compares the results.
    pub(super) fn step(&mut self, atc: &mut Atc, step: &Step) {
        match *step {
            Step::Request { pasid, page, access } => {
                let result = atc.request(pasid, page * PAGE + 5, access);
                if self.requests.len() == self.allowed {
                    assert_eq!((result, atc.is_full()), (Err(self.allowed), true));
                    return;
                }
                let request = result.expect("more requests are allowed");
                assert!(!self.sent.contains(&request.id), "the ID is new");
                assert_eq!(
                    (request.pasid, request.address, request.access()),
                    (pasid, page * PAGE + 5, access.kind())
                );
                self.sent.push(request.id);
                self.requests.push(SentRequest { request, invalidated: Vec::new(), answer: None });
            }
            Step::Complete { which, reply, bits, permissions } => {
                self.complete(atc, which, reply, bits, permissions)
            }
            Step::Answer { which } => {
                let Some(id) = self.pick(which) else { return };
                let at = self.requests.iter().position(|pending| pending.request.id == id);
                let expected = at.map(|at| self.requests[at].answer).ok_or(UnknownRequest);
                assert_eq!(atc.answer(id), expected);
                if let (Some(at), Ok(Some(_))) = (at, expected) {
                    self.requests.remove(at);
                }
            }
            Step::Abandon { which } => {
                let Some(id) = self.pick(which) else { return };
                atc.abandon(id);
                self.requests.retain(|pending| pending.request.id != id);
            }
            Step::Invalidate { pasid, range, global, tag, serial } => {
                self.invalidate(atc, InvalidationRequest { tag, serial, pasid, global, range });
            }
            Step::BeginAccess { pasid, address, access } => {
                self.begin_access(atc, pasid, address, access)
            }
            Step::EndAccess { which } => {
                if self.accesses.is_empty() {
                    return;
                }
                let ended = self.accesses.remove(which % self.accesses.len());
                assert_eq!(atc.is_valid(ended.id), !ended.is_void);
                for (_, accesses) in &mut self.invalidations {
                    accesses.retain(|id| *id != ended.id);
                }
                let (completed, left) = std::mem::take(&mut self.invalidations)
                    .into_iter()
                    .partition(|(_, accesses)| accesses.is_empty());
                self.invalidations = left;
                let completed: Vec<_> = Vec::into_iter(completed)
                    .map(|(completion, _): (InvalidationCompletion, Vec<u64>)| completion)
                    .collect();
                assert_eq!(atc.end_access(ended.id).to_vec(), completed);
            }
            Step::Reset => {
                atc.reset();
                self.cached.clear();
                self.requests.clear();
                self.invalidations.clear();
                self.accesses.iter_mut().for_each(|access| access.is_void = true);
            }
        }
    }

    /// The ID of a pending request, or of any request ever made.
    fn pick(&self, which: usize) -> Option<RequestId> {
        let pending = self
            .requests
            .get(which / 2 % self.requests.len().max(1))
            .filter(|_| which.is_multiple_of(2));
        pending
            .map(|pending| pending.request.id)
            .or_else(|| self.sent.get(which % self.sent.len().max(1)).copied())
    }

    fn complete(
        &mut self,
        atc: &mut Atc,
        which: usize,
        reply: Reply,
        bits: u8,
        permissions: Permissions,
    ) {
        let Some(id) = self.pick(which) else { return };
        let pending = self
            .requests
            .iter_mut()
            .find(|pending| pending.request.id == id && pending.answer.is_none());
        let address = pending.as_ref().map_or(0, |pending| pending.request.address);
        let privileged = pending.as_ref().is_some_and(|pending| pending.request.privileged);
        self.frames += 1;
        let at = if reply == Reply::OtherPage { address ^ (1 << LARGEST) } else { address };
        let frame = (reply != Reply::Untranslated).then_some(Frame(self.frames << 32));
        let translation =
            Translation { range: around(at, bits), frame, permissions, global: false };
        let result = if reply == Reply::Refused {
            Err(TranslationRefusal::Unsupported)
        } else {
            Ok(translation)
        };
        let unreferenced = atc.unreferenced();
        atc.complete(TranslationCompletion { id, result, privileged, owner: None });
        let Some(pending) = pending else {
            self.counts.unexpected += 1;
            return;
        };
        let permitted = permissions.permit(pending.request.access());
        let answer =
            if permitted { TranslationAnswer::Cached } else { TranslationAnswer::NoAccess };
        let overtaken = pending.invalidated.iter().any(|range| overlap(*range, translation.range));
        let expected = match reply {
            Reply::Refused => vec![TranslationAnswer::Refused(TranslationRefusal::Unsupported)],
            _ if permissions.is_empty() => vec![TranslationAnswer::NoAccess],
            Reply::Untranslated => vec![TranslationAnswer::Untranslated(permissions)],
            // shows T3: not cached if a part of it was invalidated. If more ranges were than the
            // request records, it may be discarded needlessly.
            _ if overtaken => vec![TranslationAnswer::Outdated],
            Reply::OtherPage if pending.invalidated.len() > MAX_INVALIDATED => {
                vec![TranslationAnswer::NoAccess, TranslationAnswer::Outdated]
            }
            Reply::OtherPage => vec![TranslationAnswer::NoAccess],
            Reply::Frame if pending.invalidated.len() > MAX_INVALIDATED => {
                vec![answer, TranslationAnswer::Outdated]
            }
            Reply::Frame => vec![answer],
        };
        let answer = atc.requests[&id].answer.expect("it has been answered");
        assert!(expected.contains(&answer), "{answer:?} and not {expected:?}");
        pending.answer = Some(answer);
        self.counts.outdated += u64::from(answer == TranslationAnswer::Outdated);
        if reply == Reply::Frame && !permissions.is_empty() && answer != TranslationAnswer::Outdated
        {
            let TranslationRequest { pasid, privileged, .. } = pending.request;
            let new = Cached {
                pasid,
                range: translation.range,
                frame: Frame(self.frames << 32),
                permissions,
                privileged,
            };
            self.insert(atc, new, &unreferenced);
        }
    }

    fn insert(&mut self, atc: &Atc, new: Cached, unreferenced: &[Frame]) {
        self.counts.fills += 1;
        self.cached.retain(|entry| entry.pasid != new.pasid || !overlap(entry.range, new.range));
        let now = atc.contents();
        let evicted: Vec<Cached> =
            self.cached.iter().filter(|entry| !now.contains(entry)).copied().collect();
        assert_eq!(
            evicted.len(),
            usize::from(self.cached.len() == self.capacity),
            "a full cache evicts one entry, another one none"
        );
        if let Some(victim) = evicted.first() {
            self.counts.evicted += 1;
            let spared = self.cached.iter().any(|entry| unreferenced.contains(&entry.frame));
            assert!(
                !spared || unreferenced.contains(&victim.frame),
                "an entry that was referenced is evicted before one that was not"
            );
            self.cached.retain(|entry| entry != victim);
        }
        self.cached.push(new);
    }

    fn invalidate(&mut self, atc: &mut Atc, request: InvalidationRequest) {
        let InvalidationRequest { tag, serial, pasid, global, range } = request;
        let completion = InvalidationCompletion { tag, serial };
        let completed = atc.invalidate(request);
        let applies_to = |of: Option<Pasid>| global || pasid.is_none() || of == pasid;
        let before = self.cached.len();
        self.cached.retain(|entry| !applies_to(entry.pasid) || !overlap(entry.range, range));
        self.counts.invalidated += (before - self.cached.len()) as u64;
        let affected = self
            .requests
            .iter_mut()
            .filter(|pending| pending.answer.is_none() && applies_to(pending.request.pasid));
        affected.for_each(|pending| pending.invalidated.push(range));
        let accesses: Vec<u64> = self
            .accesses
            .iter()
            .filter(|access| applies_to(access.pasid) && overlap(access.range, range))
            .map(|access| access.id)
            .collect();
        assert_eq!(completed, accesses.is_empty().then_some(completion));
        if completed.is_some() {
            return;
        }
        // The IOMMU waits for the last use of a tag.
        match self.invalidations.iter_mut().find(|(waiting, _)| waiting.tag == tag) {
            Some(earlier) if earlier.0.serial < serial => *earlier = (completion, accesses),
            Some(_) => {}
            None => self.invalidations.push((completion, accesses)),
        }
    }

    fn begin_access(&mut self, atc: &mut Atc, pasid: Option<Pasid>, address: u64, access: Access) {
        let found = atc.begin_access(pasid, address, access);
        let matches = |entry: &&Cached| {
            let inside = entry.range.first() <= address && address <= entry.range.last();
            entry.pasid == pasid
                && inside
                && entry.permissions.permit(access)
                && entry.privileged == access.is_privileged()
        };
        let expected = self.cached.iter().find(matches).copied();
        let translate = |entry: Cached| {
            (
                Frame(entry.frame.0 + (address - entry.range.first())),
                entry.range.last() - address + 1,
            )
        };
        assert_eq!(found.map(|access| (access.frame, access.len)), expected.map(translate));
        match (found, expected) {
            (Some(access), Some(Cached { pasid, range, .. })) => {
                self.counts.hits += 1;
                self.accesses.push(AccessInFlight { id: access.id, pasid, range, is_void: false });
            }
            _ => self.counts.misses += 1,
        }
    }

    /// Compares the state of both.
    pub(super) fn compare(&self, atc: &Atc) {
        let mut cached = self.cached.clone();
        cached.sort_by_key(|entry| (entry.pasid, entry.range.first()));
        assert_eq!(atc.contents(), cached);
        assert!(atc.len() <= self.capacity);
        let alone = |(n, one): (usize, &Cached)| {
            cached[n + 1..]
                .iter()
                .all(|other| one.pasid != other.pasid || !overlap(one.range, other.range))
        };
        assert!(cached.iter().enumerate().all(alone), "entries of one PASID do not overlap");
        assert_eq!(
            atc.outstanding(),
            self.requests.len() + self.accesses.len() + self.invalidations.len()
        );
        assert_eq!(atc.counts, self.counts);
    }
}
