//! Settings have bounds: what is beyond them is refused by name, and never an abort or a panic in
//! the middle of a bind (rule S2).

use std::panic::catch_unwind;
use std::sync::Arc;

use sva_core::error::ConfigError;
use sva_core::pri::WorkerConfig;
use sva_core::{Iommu, IommuConfig, Workers};
use sva_testkit::FlatTopology;

/// One setting: its name, how it is set, its least and its greatest value.
type Setting = (&'static str, fn(IommuConfig, u64) -> IommuConfig, u64, u64);

const ENTRIES: u64 = 1 << 24;

const SETTINGS: [Setting; 9] = [
    ("address_width", |config, value| config.address_width(value as u8), 1, 64),
    ("max_mappings", |config, value| config.max_mappings(value as usize), 0, ENTRIES),
    ("event_capacity", |config, value| config.event_capacity(value as usize), 1, ENTRIES),
    ("page_queue", |config, value| config.page_queue(value as usize), 1, ENTRIES),
    ("page_requests_each", |config, value| config.page_requests_each(value as u32), 0, ENTRIES),
    ("atc_entries", |config, value| config.atc_entries(value as usize), 1, ENTRIES),
    (
        "translation_requests_each",
        |config, value| config.translation_requests_each(value as usize),
        1,
        ENTRIES,
    ),
    ("iotlb_bytes", |config, value| config.iotlb_bytes(value as usize), 0, 1 << 32),
    ("invalidation_tries", |config, value| config.invalidation_tries(value as u8), 1, 255),
];

fn made(config: IommuConfig) -> Result<Iommu, ConfigError> {
    Iommu::try_new(Arc::new(FlatTopology::new()), config, None)
}

// shows S2
#[test]
fn each_setting_is_accepted_up_to_its_bounds_and_refused_by_name_beyond_them() {
    for (name, set, least, most) in SETTINGS {
        for value in [least, most] {
            made(set(IommuConfig::default(), value)).expect("in its bounds");
        }
        let below = least.checked_sub(1);
        let above = Some(most + 1).filter(|_| name != "invalidation_tries");
        for value in below.into_iter().chain(above) {
            let error = made(set(IommuConfig::default(), value)).expect_err("out of its bounds");
            assert_eq!(
                (error.setting, error.value, error.least, error.most),
                (name, value, least, most)
            );
        }
    }
    let error = made(IommuConfig::default().iotlb_bytes(usize::MAX)).expect_err("too much");
    assert_eq!(
        error.to_string(),
        "the setting `iotlb_bytes` is 18446744073709551615; it must be 0 to 4294967296"
    );
}

// shows S2
#[test]
fn an_iommu_that_is_made_without_a_check_panics_with_the_name_of_the_setting() {
    let bus = || Arc::new(FlatTopology::new());
    let panicked = catch_unwind(|| Iommu::new(bus(), IommuConfig::default().page_queue(0)));
    let words = panicked.map(drop).expect_err("out of its bounds");
    let words = words.downcast_ref::<String>().expect("a formatted panic");
    assert_eq!(words, "the setting `page_queue` is 0; it must be 1 to 16777216");
}

// shows S2
#[test]
fn a_pool_of_no_or_too_many_threads_is_refused_before_one_is_started() {
    let iommu = made(IommuConfig::default()).expect("the default");
    for threads in [0, 4097, usize::MAX] {
        let config = WorkerConfig::default().threads(threads);
        let error = Workers::start(&iommu, config).map(drop).expect_err("out of its bounds");
        assert_eq!(
            error.to_string(),
            format!("the setting `threads` is {threads}; it must be 1 to 4096")
        );
    }
    let config = WorkerConfig::default().max_threads(usize::MAX);
    let error = Workers::start(&iommu, config).map(drop).expect_err("out of its bounds");
    assert!(error.to_string().starts_with("the setting `max_threads` is"), "{error}");
}
