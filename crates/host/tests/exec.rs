//! Exec under a writing device. CI runs this file also in a build with `--cfg sva_naive_check`,
//! where it has to fail.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::sync::Arc;

use support::{Target, until, write};
use sva_core::{AddressSpace, StopCause};
use sva_sync::atomic::{AtomicBool, AtomicU32, Ordering};

const ROUNDS: u32 = 250;

/// One process without address randomisation has a device write to the page of its canary, then
/// replaces its image by one that has its canary at the same address.
#[test]
fn exec_under_a_writing_device_leaves_the_new_image_untouched() {
    // shows U7, U4
    for round in 0..ROUNDS {
        let mut target = Target::start("fixed");
        let (space, at) = (target.attach(), target.canary);
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU32::new(0));
        let device = {
            let (space, stop, writes) = (space.clone(), stop.clone(), writes.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match write(&*space, at, &[0xdd; 64]) {
                        Ok(()) => _ = writes.fetch_add(1, Ordering::Relaxed),
                        Err(stopped) => {
                            assert!(
                                matches!(stopped.cause, StopCause::Ended),
                                "round {round}: {stopped}"
                            );
                            std::thread::yield_now();
                        }
                    }
                }
            })
        };
        until("the device writes", || writes.load(Ordering::Relaxed) > 10);
        assert_eq!(target.peek(at, 4), [0xdd; 4], "the device reaches the old image");
        let verdict = target.ask("exec image");
        stop.store(true, Ordering::Relaxed);
        device.join().unwrap();
        assert_eq!(verdict, format!("intact {at:#x}"), "round {round}");
        until("the space has ended", || space.ended().is_some());
    }
}
