//! The cache against a slow reference that keeps lists and looks at all of them.

use proptest::prelude::*;

use super::*;
use crate::api::ats::Itag;

const PAGE: u64 = 4096;
/// Pages that the steps use; the largest translation holds all of them.
const PAGES: u64 = 16;
const LARGEST: u8 = 16;

/// One step. Numbers choose among what there is, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Ask { pasid: Option<Pasid>, page: u64, access: Access },
    Complete { which: usize, reply: Reply, bits: u8, permissions: Permissions },
    Answer { which: usize },
    Abandon { which: usize },
    Invalidate { pasid: Option<Pasid>, range: AlignedRange, global: bool, tag: Itag, serial: u64 },
    BeginUse { pasid: Option<Pasid>, address: u64, access: Access },
    GiveBack { which: usize },
    Reset,
}

/// What a completion says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reply {
    /// A frame for the address that was asked for.
    Frame,
    /// A frame for another page.
    Elsewhere,
    Untranslated,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cached {
    pasid: Option<Pasid>,
    range: AlignedRange,
    frame: Frame,
    permissions: Permissions,
    privileged: bool,
}

struct Question {
    request: TranslationRequest,
    /// Every invalidation since, that is meant for its PASID.
    since: Vec<AlignedRange>,
    answer: Option<TranslationAnswer>,
}

/// An access that has not been given back.
struct InUse {
    id: u64,
    pasid: Option<Pasid>,
    range: AlignedRange,
    void: bool,
}

/// See the module. Which entry is given up when it is full is the cache's own affair, as long as it
/// is one.
#[derive(Default)]
struct Reference {
    capacity: usize,
    allowed: usize,
    kept: Vec<Cached>,
    asked: Vec<Question>,
    uses: Vec<InUse>,
    closing: Vec<(InvalidationCompletion, Vec<u64>)>,
    /// All requests that there have been, those included that are forgotten.
    sent: Vec<RequestId>,
    frames: u64,
    counts: AtcCounts,
}

fn overlap(a: AlignedRange, b: AlignedRange) -> bool {
    a.first() <= b.last() && b.first() <= a.last()
}

fn around(address: u64, bits: u8) -> AlignedRange {
    AlignedRange::new(address >> bits << bits, bits).expect("aligned")
}

impl Atc {
    fn contents(&self) -> Vec<Cached> {
        let plain = |e: &Entry| Cached {
            pasid: e.pasid,
            range: e.range,
            frame: e.frame,
            permissions: e.permissions,
            privileged: e.privileged,
        };
        self.entries.values().map(plain).collect()
    }

    fn unused(&self) -> Vec<Frame> {
        self.entries.values().filter(|entry| !entry.used).map(|entry| entry.frame).collect()
    }
}

impl Reference {
    /// Does a step to both and compares what they answer.
    fn step(&mut self, atc: &mut Atc, step: &Step) {
        match *step {
            Step::Ask { pasid, page, access } => {
                let asked = atc.ask(pasid, page * PAGE + 5, access);
                if self.asked.len() == self.allowed {
                    assert_eq!((asked, atc.is_full()), (Err(self.allowed), true));
                    return;
                }
                let request = asked.expect("it may have more");
                assert!(!self.sent.contains(&request.id), "used before");
                assert_eq!(
                    (request.pasid, request.address, request.access()),
                    (pasid, page * PAGE + 5, access.kind())
                );
                self.sent.push(request.id);
                self.asked.push(Question { request, since: Vec::new(), answer: None });
            }
            Step::Complete { which, reply, bits, permissions } => {
                self.complete(atc, which, reply, bits, permissions)
            }
            Step::Answer { which } => {
                let Some(id) = self.pick(which) else { return };
                let at = self.asked.iter().position(|asked| asked.request.id == id);
                let expected = at.map(|at| self.asked[at].answer).ok_or(Forgotten);
                assert_eq!(atc.answer(id), expected);
                if let (Some(at), Ok(Some(_))) = (at, expected) {
                    self.asked.remove(at);
                }
            }
            Step::Abandon { which } => {
                let Some(id) = self.pick(which) else { return };
                atc.abandon(id);
                self.asked.retain(|asked| asked.request.id != id);
            }
            Step::Invalidate { pasid, range, global, tag, serial } => {
                self.invalidate(atc, InvalidationRequest { tag, serial, pasid, global, range });
            }
            Step::BeginUse { pasid, address, access } => {
                self.begin_use(atc, pasid, address, access)
            }
            Step::GiveBack { which } => {
                if self.uses.is_empty() {
                    return;
                }
                let gone = self.uses.remove(which % self.uses.len());
                assert_eq!(atc.is_valid(gone.id), !gone.void);
                self.closing.iter_mut().for_each(|(_, uses)| uses.retain(|id| *id != gone.id));
                let (over, left) = std::mem::take(&mut self.closing)
                    .into_iter()
                    .partition(|(_, uses)| uses.is_empty());
                self.closing = left;
                let over: Vec<_> = Vec::into_iter(over)
                    .map(|(completion, _): (InvalidationCompletion, Vec<u64>)| completion)
                    .collect();
                assert_eq!(atc.give_back(gone.id).to_vec(), over);
            }
            Step::Reset => {
                atc.reset();
                self.kept.clear();
                self.asked.clear();
                self.closing.clear();
                self.uses.iter_mut().for_each(|used| used.void = true);
            }
        }
    }

    /// A request that is known, or any that has ever been sent.
    fn pick(&self, which: usize) -> Option<RequestId> {
        let known =
            self.asked.get(which / 2 % self.asked.len().max(1)).filter(|_| which.is_multiple_of(2));
        known
            .map(|asked| asked.request.id)
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
        let asked =
            self.asked.iter_mut().find(|asked| asked.request.id == id && asked.answer.is_none());
        let address = asked.as_ref().map_or(0, |asked| asked.request.address);
        let privileged = asked.as_ref().is_some_and(|asked| asked.request.privileged);
        self.frames += 1;
        let at = if reply == Reply::Elsewhere { address ^ (1 << LARGEST) } else { address };
        let frame = (reply != Reply::Untranslated).then_some(Frame(self.frames << 32));
        let translation =
            Translation { range: around(at, bits), frame, permissions, global: false };
        let result = if reply == Reply::Refused {
            Err(TranslationRefusal::Unsupported)
        } else {
            Ok(translation)
        };
        let unused = atc.unused();
        atc.complete(TranslationCompletion { id, result, privileged, owner: None });
        let Some(asked) = asked else {
            self.counts.unexpected += 1;
            return;
        };
        let permitted = permissions.permit(asked.request.access());
        let kept = if permitted { TranslationAnswer::Cached } else { TranslationAnswer::NoAccess };
        let overtaken = asked.since.iter().any(|range| overlap(*range, translation.range));
        let expected = match reply {
            Reply::Refused => vec![TranslationAnswer::Refused(TranslationRefusal::Unsupported)],
            _ if permissions.is_empty() => vec![TranslationAnswer::NoAccess],
            Reply::Untranslated => vec![TranslationAnswer::Untranslated(permissions)],
            // Rule T3: never kept where something of it was invalidated; where more was than is
            // remembered, it may be dropped without need.
            _ if overtaken => vec![TranslationAnswer::Outdated],
            Reply::Elsewhere if asked.since.len() > REMEMBERED => {
                vec![TranslationAnswer::NoAccess, TranslationAnswer::Outdated]
            }
            Reply::Elsewhere => vec![TranslationAnswer::NoAccess],
            Reply::Frame if asked.since.len() > REMEMBERED => {
                vec![kept, TranslationAnswer::Outdated]
            }
            Reply::Frame => vec![kept],
        };
        let answer = atc.asked[&id].answer.expect("it has been answered");
        assert!(expected.contains(&answer), "{answer:?} and not {expected:?}");
        asked.answer = Some(answer);
        self.counts.outdated += u64::from(answer == TranslationAnswer::Outdated);
        if reply == Reply::Frame && !permissions.is_empty() && answer != TranslationAnswer::Outdated
        {
            let TranslationRequest { pasid, privileged, .. } = asked.request;
            let new = Cached {
                pasid,
                range: translation.range,
                frame: Frame(self.frames << 32),
                permissions,
                privileged,
            };
            self.keep(atc, new, &unused);
        }
    }

    fn keep(&mut self, atc: &Atc, new: Cached, unused: &[Frame]) {
        self.counts.fills += 1;
        self.kept.retain(|kept| kept.pasid != new.pasid || !overlap(kept.range, new.range));
        let now = atc.contents();
        let given_up: Vec<Cached> =
            self.kept.iter().filter(|kept| !now.contains(kept)).copied().collect();
        assert_eq!(
            given_up.len(),
            usize::from(self.kept.len() == self.capacity),
            "one goes where it is full, and none elsewhere"
        );
        if let Some(gone) = given_up.first() {
            self.counts.evicted += 1;
            let spared = self.kept.iter().any(|kept| unused.contains(&kept.frame));
            assert!(
                !spared || unused.contains(&gone.frame),
                "one that was used goes before one that was not"
            );
            self.kept.retain(|kept| kept != gone);
        }
        self.kept.push(new);
    }

    fn invalidate(&mut self, atc: &mut Atc, request: InvalidationRequest) {
        let InvalidationRequest { tag, serial, pasid, global, range } = request;
        let completion = InvalidationCompletion { tag, serial };
        let over = atc.invalidate(request);
        let meant = |of: Option<Pasid>| global || pasid.is_none() || of == pasid;
        let before = self.kept.len();
        self.kept.retain(|kept| !meant(kept.pasid) || !overlap(kept.range, range));
        self.counts.invalidated += (before - self.kept.len()) as u64;
        let asked = self
            .asked
            .iter_mut()
            .filter(|asked| asked.answer.is_none() && meant(asked.request.pasid));
        asked.for_each(|asked| asked.since.push(range));
        let uses: Vec<u64> = self
            .uses
            .iter()
            .filter(|used| meant(used.pasid) && overlap(used.range, range))
            .map(|used| used.id)
            .collect();
        assert_eq!(over, uses.is_empty().then_some(completion));
        if over.is_some() {
            return;
        }
        // The last use of a tag is what somebody waits for.
        match self.closing.iter_mut().find(|(waiting, _)| waiting.tag == tag) {
            Some(earlier) if earlier.0.serial < serial => *earlier = (completion, uses),
            Some(_) => {}
            None => self.closing.push((completion, uses)),
        }
    }

    fn begin_use(&mut self, atc: &mut Atc, pasid: Option<Pasid>, address: u64, access: Access) {
        let found = atc.begin_use(pasid, address, access);
        let fits = |kept: &&Cached| {
            let inside = kept.range.first() <= address && address <= kept.range.last();
            kept.pasid == pasid
                && inside
                && kept.permissions.permit(access)
                && kept.privileged == access.is_privileged()
        };
        let expected = self.kept.iter().find(fits).copied();
        let leads = |kept: Cached| {
            (Frame(kept.frame.0 + (address - kept.range.first())), kept.range.last() - address + 1)
        };
        assert_eq!(found.map(|used| (used.frame, used.len)), expected.map(leads));
        match (found, expected) {
            (Some(used), Some(Cached { pasid, range, .. })) => {
                self.counts.hits += 1;
                self.uses.push(InUse { id: used.id, pasid, range, void: false });
            }
            _ => self.counts.misses += 1,
        }
    }

    /// What both say about themselves is the same.
    fn compare(&self, atc: &Atc) {
        let mut kept = self.kept.clone();
        kept.sort_by_key(|kept| (kept.pasid, kept.range.first()));
        assert_eq!(atc.contents(), kept);
        assert!(atc.len() <= self.capacity);
        let alone = |(n, one): (usize, &Cached)| {
            kept[n + 1..]
                .iter()
                .all(|other| one.pasid != other.pasid || !overlap(one.range, other.range))
        };
        assert!(kept.iter().enumerate().all(alone), "entries of one PASID do not overlap");
        assert_eq!(atc.outstanding(), self.asked.len() + self.uses.len() + self.closing.len());
        assert_eq!(atc.counts, self.counts);
    }
}

fn pasids() -> impl Strategy<Value = Option<Pasid>> + Clone {
    prop_oneof![Just(None), Just(Pasid::new(1)), Just(Pasid::new(2))]
}

fn accesses() -> impl Strategy<Value = Access> {
    let kinds =
        prop_oneof![4 => Just(Access::READ), 2 => Just(Access::WRITE), 1 => Just(Access::EXECUTE)];
    let accesses = (kinds, prop::bool::weighted(0.1));
    accesses.prop_map(
        |(kind, privileged)| {
            if privileged { kind | Access::PRIVILEGED } else { kind }
        },
    )
}

fn permissions() -> impl Strategy<Value = Permissions> {
    let random = any::<u8>().prop_map(Permissions::from_bits_truncate);
    prop_oneof![3 => Just(Permissions::READ_WRITE), 1 => random]
}

fn steps() -> impl Strategy<Value = Step> {
    let replies = prop_oneof![8 => Just(Reply::Frame), 1 => Just(Reply::Elsewhere), 1 => Just(Reply::Untranslated), 1 => Just(Reply::Refused)];
    let addresses = 0..PAGES * PAGE;
    let ranges =
        (addresses.clone(), 12..=LARGEST).prop_map(|(address, bits)| around(address, bits));
    // Few, so that one comes again while accesses keep its last use waiting.
    let tags = (0..4u8).prop_map(|tag| Itag::new(tag).expect("0..=31"));
    let which = 0..1000usize;
    prop_oneof![
        4 => (pasids(), 0..PAGES, accesses()).prop_map(|(pasid, page, access)| Step::Ask { pasid, page, access }),
        5 => (which.clone(), replies, 12..=LARGEST, permissions())
            .prop_map(|(which, reply, bits, permissions)| Step::Complete { which, reply, bits, permissions }),
        2 => which.clone().prop_map(|which| Step::Answer { which }),
        1 => which.clone().prop_map(|which| Step::Abandon { which }),
        3 => (pasids(), ranges, prop::bool::weighted(0.1), tags, 0..64u64)
            .prop_map(|(pasid, range, global, tag, serial)| Step::Invalidate { pasid, range, global, tag, serial }),
        4 => (pasids(), addresses, accesses())
            .prop_map(|(pasid, address, access)| Step::BeginUse { pasid, address, access }),
        3 => which.prop_map(|which| Step::GiveBack { which }),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    // shows T3, T4
    #[test]
    fn it_does_what_the_slow_reference_does(capacity in 1..6usize, allowed in 1..6usize, steps in prop::collection::vec(steps(), 1..200)) {
        let (mut atc, mut reference) = (Atc::new(capacity, allowed), Reference { capacity, allowed, ..Reference::default() });
        for step in &steps {
            reference.step(&mut atc, step);
            reference.compare(&atc);
        }
        while !reference.uses.is_empty() {
            reference.step(&mut atc, &Step::GiveBack { which: 0 });
        }
        assert!(atc.closing.is_empty(), "every invalidation has been completed");
        reference.step(&mut atc, &Step::Reset);
        assert_eq!((atc.len(), atc.outstanding()), (0, 0));
    }
}

#[test]
fn one_that_is_used_again_and_again_stays_while_others_come_and_go() {
    let mut atc = Atc::new(4, 1);
    let pasid = Pasid::new(1);
    let fill = |atc: &mut Atc, page: u64| {
        let request =
            atc.ask(pasid, page * PAGE, Access::READ).expect("the last one was collected");
        let range = AlignedRange::page(page * PAGE);
        let translation = Translation {
            range,
            frame: Some(Frame(page << 32)),
            permissions: Permissions::READ_WRITE,
            global: false,
        };
        atc.complete(TranslationCompletion {
            id: request.id,
            result: Ok(translation),
            privileged: false,
            owner: None,
        });
        assert_eq!(atc.answer(request.id), Ok(Some(TranslationAnswer::Cached)));
    };
    for page in 0..5 {
        fill(&mut atc, page);
    }
    // One that has survived the first round; from here on it is always in use when somebody has to
    // go.
    let hot = atc.contents().first().expect("it is full").range.first();
    for page in 100..200 {
        let used = atc.begin_use(pasid, hot, Access::READ).expect("it is still there");
        atc.give_back(used.id);
        fill(&mut atc, page);
    }
}
