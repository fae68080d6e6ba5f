//! The queue that the handler of page requests reads in its own time (section 5, rules F1 to F4,
//! G5, S2, U2).

use std::sync::Arc;

use sva_core::pri::{AnswerError, AnswersError, GroupAnswer, NoRoom, PrgIndex};
use sva_core::pri::{FaultQueue, ResponseCode};
use sva_core::{Bind, Bond};
use sva_sync::Mutex;
use sva_testkit::MemorySpace;

use crate::paging::*;
use crate::support::{Noted, World, watched};

/// A world with a device whose page requests a queue gets, by its bond.
pub(crate) struct Owned {
    pub(crate) world: World,
    pub(crate) requester: PageRequester,
    pub(crate) space: MemorySpace,
    pub(crate) queue: FaultQueue,
    pub(crate) bond: Bond<()>,
    pub(crate) notified: Noted<()>,
}

impl Owned {
    pub(crate) fn new(capacity: usize) -> Self {
        let world = World::new();
        let requester = world.requester(1, requesting());
        let space = absent();
        let notified: Noted<()> = Arc::new(Mutex::new(Vec::new()));
        let notes = notified.clone();
        let queue = FaultQueue::new(capacity, move || notes.lock().push(()));
        let bond = world
            .iommu
            .bind_device(
                &requester.device,
                &space.handle(),
                Bind::new(()).on_page_requests(queue.handler()),
            )
            .expect("free");
        Self { world, requester, space, queue, bond, notified }
    }

    /// Asks for a group of so many pages, and has it delivered.
    pub(crate) fn request(&self, pages: u64) -> PrgIndex {
        let group = self
            .requester
            .request(Some(self.bond.pasid()), &(0..pages).map(page).collect::<Vec<_>>());
        assert_eq!(self.world.resolve(), 1);
        group
    }

    /// Reads with this room. Answers the cookies, each with the number of its requests.
    pub(crate) fn read(&self, room: usize) -> Result<Vec<(u64, usize)>, NoRoom> {
        let mut groups = Vec::new();
        let count =
            self.queue.read(room, |cookie, _, requests| groups.push((cookie, requests.len())))?;
        assert_eq!(groups.len(), count);
        Ok(groups)
    }

    pub(crate) fn read_all(&self) -> Vec<u64> {
        self.read(usize::MAX)
            .expect("there is room")
            .into_iter()
            .map(|(cookie, _)| cookie)
            .collect()
    }

    pub(crate) fn outcomes(&self, groups: &[PrgIndex]) -> Vec<Option<sva_core::pri::GroupOutcome>> {
        groups.iter().map(|group| self.requester.outcome(*group)).collect()
    }
}

pub(crate) fn success(cookie: u64) -> GroupAnswer {
    GroupAnswer { cookie, code: ResponseCode::Success }
}

// shows F1
#[test]
fn a_reader_without_room_for_a_group_gets_no_part_of_it() {
    let owned = Owned::new(8);
    let groups = [owned.request(2), owned.request(2), owned.request(1)];
    let read = owned.read(3).expect("there is room for the first");
    assert_eq!(
        read.iter().map(|(_, requests)| *requests).collect::<Vec<_>>(),
        [2],
        "a whole group, and not the half of another"
    );
    let rest = owned.read(3).expect("there is room for both");
    assert_eq!(rest.iter().map(|(_, requests)| *requests).collect::<Vec<_>>(), [2, 1]);
    let answers: Vec<GroupAnswer> =
        read.iter().chain(&rest).map(|(cookie, _)| success(*cookie)).collect();
    owned.queue.answer(&answers).expect("all are pending");
    assert_eq!(owned.outcomes(&groups), [SUCCESS; 3]);
}

// shows F1
#[test]
fn a_group_that_is_larger_than_the_room_is_refused_with_both_numbers_and_stays() {
    let owned = Owned::new(8);
    let group = owned.request(3);
    for room in [0, 2] {
        assert_eq!(owned.read(room), Err(NoRoom { requests: 3, room }));
    }
    assert_eq!((owned.queue.len(), owned.read(3).map(|read| read.len())), ((1, 0), Ok(1)));
    assert_eq!(
        (owned.requester.outcome(group), owned.read(0)),
        (None, Ok(vec![])),
        "an empty queue needs no room"
    );
}

// shows F2, S2
#[test]
fn answers_are_taken_exactly_up_to_the_first_that_cannot_be() {
    let owned = Owned::new(8);
    let groups = [owned.request(1), owned.request(1), owned.request(1)];
    let cookies = owned.read_all();
    let unknown = 12_345;
    let result = owned.queue.answer(&[
        success(cookies[0]),
        success(cookies[1]),
        success(unknown),
        success(cookies[2]),
    ]);
    assert_eq!(
        result,
        Err(AnswersError { done: 2, cause: AnswerError::Unknown { cookie: unknown } })
    );
    assert_eq!(owned.outcomes(&groups), [SUCCESS, SUCCESS, None], "the one after it is not taken");
    assert_eq!(
        owned.queue.answer(&[success(cookies[0])]).map_err(|error| error.done),
        Err(0),
        "no second answer"
    );
    owned.requester.device.reset().expect("plugged").end();
    let gone = AnswersError { done: 0, cause: AnswerError::NotPending { cookie: cookies[2] } };
    assert_eq!(owned.queue.answer(&[success(cookies[2])]), Err(gone));
    assert!(owned.queue.is_empty());
}

// shows S2
#[test]
fn a_group_that_was_not_read_cannot_be_answered() {
    let owned = Owned::new(8);
    let (group, other) = (owned.request(1), owned.request(1));
    let first = owned.read(1).expect("room for one")[0].0;
    let guessed = first + 1;
    let result = owned.queue.answer(&[success(guessed)]);
    assert_eq!(
        result,
        Err(AnswersError { done: 0, cause: AnswerError::Unknown { cookie: guessed } })
    );
    assert_eq!((owned.outcomes(&[group, other]), owned.queue.len()), (vec![None, None], (1, 1)));
}

// shows F4
#[test]
fn a_reader_that_causes_a_fault_of_its_own_queue_gets_that_group_as_well() {
    watched(|| {
        let owned = Owned::new(8);
        owned.request(1);
        let mut read = Vec::new();
        let count = owned.queue.read(8, |cookie, _, _| {
            read.push(cookie);
            if read.len() < 3 {
                // What a copy to the reader's memory may come to, where that is reached through the
                // device.
                owned.request(1);
            }
        });
        assert_eq!((count, read.len(), owned.queue.len()), (Ok(3), 3, (0, 3)));
    });
}

// shows F3, G5
#[test]
fn closing_the_queue_answers_everything_in_it_and_what_comes_later_and_leaves_nothing() {
    let owned = Owned::new(8);
    let groups = [owned.request(1), owned.request(2), owned.request(1)];
    owned.read(1).expect("room for one");
    assert_eq!((owned.queue.len(), owned.world.pages_under_way()), ((2, 1), (0, 3)));
    let Owned { world, requester, space: _space, queue, bond, .. } = owned;
    drop(queue);
    assert!(groups.iter().all(|group| requester.outcome(*group) == INVALID));
    assert_eq!(world.pages_under_way(), (0, 0));
    let later = requester.request(Some(bond.pasid()), &[page(0)]);
    assert_eq!(
        (world.resolve(), requester.outcome(later), world.pages_under_way()),
        (1, INVALID, (0, 0))
    );
    drop(bond);
    world.take_down(&[&requester]);
    // A group that is left somewhere keeps its system.
    let bus = world.bus.clone();
    drop((world, requester));
    assert_eq!(Arc::strong_count(&bus), 1);
}

// shows S2
#[test]
fn groups_beyond_the_capacity_are_answered_invalid_and_an_answer_makes_room() {
    let owned = Owned::new(2);
    let groups = [owned.request(1), owned.request(1), owned.request(1)];
    assert_eq!(
        (owned.outcomes(&groups), owned.queue.len(), owned.notified.lock().len()),
        (vec![None, None, INVALID], (2, 0), 2)
    );
    let cookies = owned.read_all();
    let read_counts_as_well = owned.request(1);
    assert_eq!(owned.requester.outcome(read_counts_as_well), INVALID);
    owned.queue.answer(&[success(cookies[0])]).expect("pending");
    let fits = owned.request(1);
    assert_eq!((owned.requester.outcome(fits), owned.queue.len()), (None, (1, 1)));
}

// shows U2, S2
#[test]
fn groups_that_were_drained_are_not_read_any_more_and_take_no_room() {
    let owned = Owned::new(2);
    owned.request(1);
    let cookie = owned.read_all()[0];
    owned.request(1);
    let Owned { world, requester, space, queue, bond, .. } = owned;
    assert_eq!(bond.unbind().page_groups, 2);
    assert_eq!(queue.read(8, |_, _, _| panic!("its bond is gone")), Ok(0));
    let bond = world
        .iommu
        .bind_device(
            &requester.device,
            &space.handle(),
            Bind::new(()).on_page_requests(queue.handler()),
        )
        .expect("free");
    let groups = [
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request(Some(bond.pasid()), &[page(1)]),
    ];
    world.resolve();
    assert_eq!(
        (requester.outcome(groups[0]), requester.outcome(groups[1]), queue.len()),
        (None, None, (2, 0))
    );
    assert!(queue.answer(&[success(cookie)]).is_err());
}
