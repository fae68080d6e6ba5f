//! The stale-translation oracle under real threads: devices access spaces while their owners take
//! memory away, protect it, replace it, unbind devices and end spaces. Each access is checked
//! against what its page and its bond permitted while it was under way.
//!
//! Not a part of the ordinary run: `cargo xtask soak`. `SVA_SOAK_SEED` and `SVA_SOAK_ACCESSES` say
//! which and how many.

mod device;
mod life;
mod owner;
mod page;
mod round;
mod spy;
mod tally;
mod tenant;
mod world;

use std::time::{Duration, Instant};

use round::{Round, Shape};
use tally::Tally;
use world::PAGES;

/// Accesses where nobody says how many.
const ACCESSES: u64 = 200_000_000;
/// One access of so many has to overlap a change, at the least.
const OVERLAPPING: u64 = 1000;
/// All of it ends by then, whatever has been reached.
const LIMIT: Duration = Duration::from_secs(480);

/// From one thread of each kind to more than there are processors, from one space to more than a
/// port knows at once; with the default table and with the least. In the first, most accesses are
/// such as others are late to see: nothing else shows a barrier that is missing.
const SHAPES: [Shape; 6] = [
    Shape {
        percent: 4,
        owners: 1,
        threads: 1,
        sites: 1,
        pages: 2,
        iotlb_bytes: TABLE,
        late: 192,
        dawdles: false,
    },
    Shape {
        percent: 21,
        owners: 1,
        threads: 1,
        sites: 1,
        pages: PAGES,
        iotlb_bytes: TABLE,
        late: 2,
        dawdles: false,
    },
    Shape {
        percent: 15,
        owners: 2,
        threads: 2,
        sites: 2,
        pages: PAGES,
        iotlb_bytes: 0,
        late: 2,
        dawdles: false,
    },
    Shape {
        percent: 20,
        owners: 2,
        threads: 3,
        sites: 3,
        pages: PAGES,
        iotlb_bytes: TABLE,
        late: 1,
        dawdles: true,
    },
    Shape {
        percent: 20,
        owners: 2,
        threads: 6,
        sites: 4,
        pages: PAGES,
        iotlb_bytes: TABLE,
        late: 1,
        dawdles: true,
    },
    Shape {
        percent: 20,
        owners: 3,
        threads: 12,
        sites: 20,
        pages: PAGES,
        iotlb_bytes: 0,
        late: 1,
        dawdles: true,
    },
];
const TABLE: usize = 4 << 20;

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is to be a number, and is {text:?}"))
}

// shows T1, T2, T3, T4, T6, U2, U4
#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn no_access_sees_or_touches_what_its_space_had_taken_away() {
    let (seed, accesses) = (number("SVA_SOAK_SEED", 0x5eed), number("SVA_SOAK_ACCESSES", ACCESSES));
    println!("seed {seed}, {accesses} accesses; others with SVA_SOAK_SEED, SVA_SOAK_ACCESSES");
    let begun = Instant::now();
    let (mut all, mut changes) = (Tally::default(), 0);
    let rounds = SHAPES.len() as u64;
    for (number, shape) in SHAPES.into_iter().enumerate() {
        println!("round {} of {rounds}: {shape}", number + 1);
        let part = (accesses * shape.percent).div_ceil(100);
        let round = Round {
            shape,
            seed: seed.wrapping_mul(rounds).wrapping_add(number as u64),
            accesses: part,
            until: begun + LIMIT,
        };
        let (tally, made) = round.run(begun);
        println!("  {:4.0} s: {tally}; {made} changes", begun.elapsed().as_secs_f64());
        all += tally;
        changes += made;
    }
    println!("{all}; {changes} changes; {:.0} s", begun.elapsed().as_secs_f64());
    assert!(
        all.accesses >= accesses,
        "the time was over before: {} of {accesses} accesses",
        all.accesses
    );
    assert!(
        all.overlapping_made >= accesses / OVERLAPPING,
        "too few of those that were made overlapped a change to show much"
    );
    assert!(all.kept > all.accesses / 2, "what is kept is what this is about");
}
