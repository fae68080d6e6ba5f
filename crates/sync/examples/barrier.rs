//! Revocation by the asymmetric barrier: workers use a resource very often and pay for a compiler
//! fence, and the owner, which revokes it once, pays for `membarrier(2)`.
//!
//! ```sh
//! cargo run --release -p sva-sync --example barrier
//! ```
//!
//! The program exits with an error where a worker used the resource after the revocation returned.

use std::error::Error;
use std::time::Duration;

use sva_sync::Backoff;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_sync::barrier::{Light, heavy};

const WORKERS: usize = 3;
const ROUNDS: u64 = 200;

/// A resource that any worker may use until its owner revokes it.
#[derive(Default)]
struct Resource {
    revoked: AtomicBool,
    /// For each worker: whether it is using the resource.
    in_use: [AtomicBool; WORKERS],
    uses: AtomicU64,
}

impl Resource {
    /// Uses the resource; false once it is revoked.
    ///
    /// The worker stores its flag and loads `revoked`; [`revoke`](Self::revoke) stores `revoked`
    /// and loads the flags. The barrier makes at least one of them see the other's store.
    fn use_once(&self, worker: usize, barrier: Light) -> bool {
        self.in_use[worker].store(true, Ordering::Relaxed);
        barrier.pass();
        let permitted = !self.revoked.load(Ordering::Acquire);
        if permitted {
            self.uses.fetch_add(1, Ordering::Relaxed);
        }
        self.in_use[worker].store(false, Ordering::Release);
        permitted
    }

    /// Returns when no worker uses the resource, and none will.
    fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        heavy();
        for flag in &self.in_use {
            let mut backoff = Backoff::default();
            while flag.load(Ordering::Acquire) {
                backoff.wait();
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let barrier = Light::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let resource = Resource::default();
        let late = std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let resource = &resource;
                scope.spawn(move || while resource.use_once(worker, barrier) {});
            }
            std::thread::sleep(Duration::from_micros(200));
            resource.revoke();
            let uses = resource.uses.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(50));
            resource.uses.load(Ordering::Relaxed) - uses
        });
        if late > 0 {
            return Err(format!("round {round}: {late} uses after the revocation").into());
        }
        total += resource.uses.load(Ordering::Relaxed);
    }
    println!("{ROUNDS} revocations, {total} uses, none of them after the revocation");
    Ok(())
}
