//! The whole system under schedules, with the oracle (rules T1 to T4, U1 to U6, F1 to F7, G5).

use sva_testkit::schedule::{Exploration, Race, Races, World, WorldConfig};

/// Runs worlds through seeds and answers the races that they reached, the steps, and the accesses that the oracle saw.
fn explore(config: &WorldConfig, exploration: &Exploration) -> (Races, u64, u64) {
    let (mut races, mut steps, mut accesses) = (Races::default(), 0, 0);
    let config = config.clone();
    let outcome = exploration.run(
        || World::new(config.clone()),
        |_, world| {
            races.merge(world.races());
            steps += world.steps();
            accesses += world.accesses();
        },
    );
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    (races, steps, accesses)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

// shows T1, T2, T3, T4, U1, U2, U4, U5, U6, F1, F2, F3, F5, F7, G5
#[test]
fn no_order_of_events_breaks_the_contract() {
    let first = number("SVA_SCHEDULE_SEED", 0);
    let seeds = number("SVA_SCHEDULE_SEEDS", 40);
    let steps = number("SVA_SCHEDULE_STEPS", 1500) as usize;
    let exploration = Exploration { seeds: first..first + seeds, steps, ..Exploration::default() };
    let (races, steps, accesses) = explore(&WorldConfig::default(), &exploration);
    println!("{steps} steps, {accesses} accesses");
    for race in Race::ALL {
        println!("{:8} {race}", races.count(race));
    }
    assert!(accesses > steps / 200, "the devices hardly got anywhere: {accesses} accesses in {steps} steps");
}
