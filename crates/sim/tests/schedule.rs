//! The whole system under schedules, with the oracle (rules T1 to T4, T8, U1 to U6, U9, F1 to F7,
//! B5, G2 to G6).

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_core::ats::{TranslationAnswer, TranslationGuard};
use sva_core::link::ToDevice;
use sva_core::pri::GroupOutcome;
use sva_core::pri::ResponseCode;
use sva_core::{
    Access, AtsPort, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Iommu, IommuConfig, Pasid,
    PasidWidth, Plug,
};
use sva_sim::{
    CheckedPort, Choices, DeviceModel, Exploration, Fate, Message, Moment, Point, Race, Races,
    ScheduledLink, Subject, World, WorldConfig, replay,
};
use sva_sync::Mutex;
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

/// Runs worlds through seeds and answers the races that they reached, the steps, and the accesses
/// that the oracle saw.
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

// shows T1, T2, T3, T4, T8, U1, U2, U4, U5, U6, U9, F1, F2, F3, F5, F6, F7, B5, G2, G3, G4, G5, G6
#[test]
fn no_order_of_events_breaks_the_contract() {
    let first = number("SVA_SCHEDULE_SEED", 0);
    let seeds = number("SVA_SCHEDULE_SEEDS", 40);
    let steps = number("SVA_SCHEDULE_STEPS", 1500) as usize;
    // Every second run without resets and removals, and with few messages that fail: what takes
    // longer to come about is not cut short there.
    let calm = WorldConfig::default().containers(1).device_faults(false).message_faults(40);
    let (mut races, mut made, mut accesses) = (Races::default(), 0, 0);
    for (config, seeds) in [
        (WorldConfig::default(), first..first + seeds.div_ceil(2)),
        (calm, first + seeds.div_ceil(2)..first + seeds),
    ] {
        let found = explore(&config, &Exploration::default().seeds(seeds).steps(steps));
        races.merge(&found.0);
        (made, accesses) = (made + found.1, accesses + found.2);
    }
    let steps = made;
    println!("{steps} steps, {accesses} accesses");
    for race in Race::ALL {
        println!("{:8} {race}", races.count(race));
    }
    if steps >= 10_000_000 {
        let rare: Vec<String> = Race::ALL
            .iter()
            .filter(|race| races.count(**race) < 1000)
            .map(Race::to_string)
            .collect();
        assert!(rare.is_empty(), "reached less than 1,000 times: {rare:?}");
    }
    assert!(
        accesses > steps / 200,
        "the devices hardly got anywhere: {accesses} accesses in {steps} steps"
    );
}

/// A device whose messages are held, and a space of four pages that it is bound to.
struct OneDevice {
    iommu: Iommu,
    device: Device,
    link: Arc<ScheduledLink>,
    space: Arc<MemorySpace>,
    bond: Option<Bond<()>>,
}

impl Drop for OneDevice {
    fn drop(&mut self) {
        // The device has to answer: a bond that is dropped waits for that.
        let unbinding = self.bond.take().map(Bond::begin_unbind);
        assert!(self.link.settle(100), "the device and the IOMMU go on for ever");
        assert!(unbinding.is_some_and(|unbinding| unbinding.is_over()) || std::thread::panicking());
    }
}

const BASE: u64 = 0x10_0000;

impl OneDevice {
    fn new() -> Self {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let (link, space) = (ScheduledLink::new(), Arc::new(MemorySpace::new()));
        space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
        let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
        let device = iommu.plug(Plug::new(spec).link(link.clone())).expect("free").device;
        device.enable_ats().and_then(|()| device.enable_pri()).expect("it has both");
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
        Self { iommu, device, link, space, bond: Some(bond) }
    }

    fn pasid(&self) -> Option<Pasid> {
        self.bond.as_ref().map(Bond::pasid)
    }
}

// shows T3
#[test]
fn a_race_can_be_scripted_at_a_named_point() {
    let system = OneDevice::new();
    let port = system.device.ats_port();
    let begun = Arc::new(Mutex::new(None));
    let (space, change) = (Arc::clone(&system.space), Arc::clone(&begun));
    // The page goes between the walk and the completion: the invalidation is sent after it and
    // overtakes it.
    system.link.at(Point::TranslationCompletion(Moment::Sent), 0, move || {
        *change.lock() = Some(space.begin_unmap(BASE, PAGE))
    });
    let request = port.request_translation(system.pasid(), BASE, Access::READ).expect("it is on");
    let mut quiet = Choices::seeded(0);
    system.link.release(0, Fate::Deliver, &mut quiet);
    let messages = system.link.messages();
    assert!(
        matches!(
            messages[..],
            [Message::Down(ToDevice::Invalidate(_)), Message::Down(ToDevice::Translated(_))]
        ),
        "{messages:?}"
    );
    assert!(system.link.settle(10));
    assert_eq!(port.translation(request), Some(TranslationAnswer::Outdated));
    assert!(port.use_translation(system.pasid(), BASE, Access::READ).is_none(), "it is not kept");
    let change = begun.lock().take();
    assert!(change.is_some_and(|change| change.is_over()));
}

// shows U6, F2
#[test]
fn a_lost_a_doubled_and_a_corrupted_response_leave_nobody_with_a_wrong_answer() {
    for (fate, outcomes) in [
        (Fate::Lose, [None, None]),
        (
            Fate::Double,
            [Some(GroupOutcome::Response(ResponseCode::Success)), Some(GroupOutcome::Forgotten)],
        ),
        (Fate::Corrupt, [None, None]),
    ] {
        let system = OneDevice::new();
        let port = system.device.ats_port();
        let group = port.open_group(system.pasid()).expect("there is credit");
        port.request_page(group, BASE, Access::READ, true).expect("it is open");
        assert!(system.link.settle(10));
        assert!(system.iommu.sort_page_request());
        system.iommu.next_page_request_job().expect("a group").run();
        // Of a response the recording says: flip bit 0 of the index.
        let mut choices = Choices::recorded(&[vec![0]]);
        system.link.release(0, fate, &mut choices);
        assert_eq!(port.outcome(group), outcomes[0], "{fate:?}");
        assert!(system.link.settle(10));
        assert_eq!(port.outcome(group), outcomes[1], "{fate:?}");
        let unexpected = u64::from(fate != Fate::Lose);
        assert_eq!(system.device.page_request_counts().unexpected, unexpected, "{fate:?}");
    }
}

/// Fails in its second step, and where that is the first waits for ever.
struct Waits(u32);

impl Subject for Waits {
    fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
        self.0 += 1;
        match (self.0, choices.below(1000)) {
            (2, _) => Err("the second step".to_owned()),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        // Only a run that was made smaller comes here.
        std::thread::sleep(Duration::from_secs(100));
        Ok(())
    }
}

#[test]
fn a_smaller_run_that_waits_for_ever_ends_the_program_with_its_seed() {
    const INSIDE: &str = "SVA_SCHEDULE_WAITS";
    if std::env::var_os(INSIDE).is_some() {
        let _ = Exploration::default()
            .seeds(7..8)
            .step_timeout(Duration::from_millis(500))
            .run(|| Waits(0), |_, _| {});
        return;
    }
    let program = std::env::current_exe().expect("this test is a program");
    let name = "a_smaller_run_that_waits_for_ever_ends_the_program_with_its_seed";
    let begun = Instant::now();
    let ended = Command::new(program)
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("it starts");
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        !ended.status.success() && words.contains("seed 7: step") && words.contains("a deadlock"),
        "{words}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

// shows T2
#[test]
fn a_failure_comes_with_a_recording_that_shows_it_again() {
    /// Holds a translation and never gives it back.
    struct Hoarder(Option<Pasid>, Vec<TranslationGuard>);
    impl DeviceModel for Hoarder {
        fn bound(&mut self, pasid: Pasid, _: &[u64]) {
            self.0 = Some(pasid);
        }
        fn stop(&mut self, _: Pasid, _: &AtsPort) {}
        fn step(&mut self, port: &mut CheckedPort<'_>, _: &mut Choices) {
            let Some(pasid) = self.0 else { return };
            match port.hold(Some(pasid), BASE, Access::READ) {
                Some(held) => self.1.push(held),
                None => drop(port.ats_port().request_translation(Some(pasid), BASE, Access::READ)),
            }
        }
        fn reset(&mut self) {}
        fn is_idle(&self) -> bool {
            true
        }
        fn wind_down(&mut self) {
            self.0 = None;
        }
    }
    let make =
        || World::with_devices(WorldConfig::default(), |_| Box::new(Hoarder(None, Vec::new())));
    let failure =
        Exploration::default().seeds(0..20).run(make, |_, _| {}).expect_err("it holds what it has");
    assert!(failure.what.contains("holds"), "{failure}");
    assert!(failure.steps.len() < 12, "{failure}");
    let (again, lines) = replay(&make, &failure.steps, true).expect_err("the same recording");
    assert_eq!((again, lines), (failure.what, failure.lines));
}
