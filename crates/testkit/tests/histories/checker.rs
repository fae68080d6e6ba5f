//! Whether there is an order of the calls of a history in which the reference could have executed
//! them: linearizability (Herlihy and Wing), by the search of Wing and Gong with a cache of the
//! visited states. A call is placed in the order only when the return of another one requires it
//! (Lowe).

use std::collections::HashSet;

use crate::reference::{Call, Operation, PAGES, State};

/// What is called or returns, in the order of time; `true`: returns.
fn events(calls: &[Call]) -> Vec<(usize, bool)> {
    let both = calls
        .iter()
        .enumerate()
        .flat_map(|(number, call)| [(call.called, number, false), (call.returned, number, true)]);
    let mut events: Vec<_> = both.collect();
    events.sort_unstable();
    events.into_iter().map(|(_, number, returns)| (number, returns)).collect()
}

/// A state, and a bit for each thread whose present call has taken effect in it.
type Reached = (State, u32);

/// Looks for an order. Where there is none: the number of the call that cannot have returned what
/// it did.
pub(crate) fn check(calls: &[Call]) -> Result<(), usize> {
    let mut present = Vec::new();
    let mut reached = HashSet::from([(State::new(), 0)]);
    for (number, returns) in events(calls) {
        if !returns {
            present.push(number);
            continue;
        }
        reached = with_effect(calls, &present, number, reached);
        present.retain(|other| *other != number);
        if reached.is_empty() {
            return Err(number);
        }
    }
    Ok(())
}

/// All that can be reached before a call returns, as it is after.
fn with_effect(
    calls: &[Call],
    present: &[usize],
    number: usize,
    from: HashSet<Reached>,
) -> HashSet<Reached> {
    let thread = calls[number].thread;
    let mut to_do: Vec<_> = from.iter().cloned().collect();
    let (mut seen, mut after) = (from, HashSet::new());
    while let Some((state, effective)) = to_do.pop() {
        if effective & 1 << thread != 0 {
            let returned = state.clone().returned(thread);
            let is_same = returned == state;
            after.insert((returned, effective & !(1 << thread)));
            // Others may have to take effect before what the change took is out of use.
            if is_same {
                continue;
            }
        }
        let left =
            || present.iter().copied().filter(|next| effective & 1 << calls[*next].thread == 0);
        // What leaves the state as it is cannot do so too early: nothing else needs to be tried.
        let first = left()
            .find(|next| calls[*next].is_pure() && !state.effects(*next, &calls[*next]).is_empty());
        for next in left().filter(|next| first.is_none_or(|first| first == *next)) {
            let effective = effective | 1 << calls[next].thread;
            let new = state.effects(next, &calls[next]).into_iter().map(|state| (state, effective));
            to_do.extend(new.filter(|reached| seen.insert(reached.clone())));
        }
    }
    after
}

/// As small a part as is found that has no order either: up to the call that cannot be, of one page
/// where that will do, without what changes nothing.
pub(crate) fn smallest(calls: &[Call]) -> Vec<Call> {
    let mut left = until_impossible(calls);
    // What becomes of a page depends on no other one, unless one is moved.
    let moves = left.iter().any(|call| matches!(call.operation, Operation::Remap { .. }));
    let of_page = |page| {
        left.iter()
            .filter(|call| call.operation.pages().contains(&page))
            .cloned()
            .collect::<Vec<_>>()
    };
    if let Some(fewer) =
        (0..PAGES).filter(|_| !moves).map(of_page).find(|calls| check(calls).is_err())
    {
        left = fewer;
    }
    left = until_impossible(&left);
    for at in (0..left.len()).rev() {
        let mut fewer = left.clone();
        if fewer.remove(at).can_be_left_out() && check(&fewer).is_err() {
            left = fewer;
        }
    }
    left
}

fn until_impossible(calls: &[Call]) -> Vec<Call> {
    let Err(number) = check(calls) else { return calls.to_vec() };
    let at = calls[number].returned;
    calls.iter().filter(|call| call.called < at).cloned().collect()
}
