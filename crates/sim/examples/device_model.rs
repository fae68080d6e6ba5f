//! Does my device model survive? Two devices under the same schedules: one keeps a translation that
//! it should give back, and one does it right.
//!
//! `cargo run --release -p sva-sim --example device_model`

use sva_core::ats::{RequestId, TranslationAnswer, TranslationGuard};
use sva_core::{Access, AtsPort, Pasid};
use sva_sim::{AccessOutcome, CheckedPort, Choices, DeviceModel, Exploration, World, WorldConfig};

/// Reads one word of its buffer over and over. Keeps the translation of it as long as it can.
struct Polling {
    /// The mistake: it gives the translation back when it is told to stop, and at no other time.
    greedy: bool,
    buffer: Option<(Pasid, u64)>,
    asked: Option<RequestId>,
    held: Option<TranslationGuard>,
    ending: bool,
}

impl Polling {
    fn new(greedy: bool) -> Self {
        Self { greedy, buffer: None, asked: None, held: None, ending: false }
    }
}

impl DeviceModel for Polling {
    fn bound(&mut self, pasid: Pasid, pages: &[u64]) {
        self.buffer = pages.first().map(|page| (pasid, *page));
    }

    fn stop(&mut self, pasid: Pasid, port: &AtsPort) {
        self.buffer.take_if(|(of, _)| *of == pasid);
        self.held = None;
        port.send_stop_marker(pasid);
    }

    fn step(&mut self, port: &mut CheckedPort<'_>, _: &mut Choices) {
        let Some((pasid, address)) = self.buffer.filter(|_| !self.ending) else { return };
        if let Some(request) = self.asked.take() {
            match port.ats_port().translation(request) {
                // Whatever the answer is, the next step finds a translation or asks again.
                Some(
                    TranslationAnswer::Cached
                    | TranslationAnswer::Outdated
                    | TranslationAnswer::NoAccess
                    | TranslationAnswer::Refused(_),
                ) => {}
                Some(TranslationAnswer::Untranslated(_)) => {
                    let _ = port.access_untranslated(Some(pasid), address, Access::READ);
                }
                None => self.asked = Some(request),
            }
            return;
        }
        let held = self.held.take().or_else(|| port.hold(Some(pasid), address, Access::READ));
        match held {
            None => {
                self.asked =
                    port.ats_port().request_translation(Some(pasid), address, Access::READ).ok()
            }
            Some(held) => {
                let outcome = port.access_by(&held, Some(pasid), address, Access::READ);
                self.held = Some(held).filter(|_| self.greedy && outcome == AccessOutcome::Done);
            }
        }
    }

    fn reset(&mut self) {
        (self.asked, self.held) = (None, None);
    }

    fn is_idle(&self) -> bool {
        self.ending || self.buffer.is_none()
    }

    fn wind_down(&mut self) {
        self.ending = true;
    }
}

fn main() {
    let exploration = Exploration::default().seeds(0..200).steps(2000);
    let config = WorldConfig::default().message_faults(0);
    for (name, greedy) in [("the greedy device", true), ("the modest device", false)] {
        let make = || World::with_devices(config.clone(), move |_| Box::new(Polling::new(greedy)));
        let mut accesses = 0;
        match exploration.run(make, |_, world| accesses += world.accesses()) {
            Ok(()) => println!(
                "{name} survives {} schedules, with {accesses} accesses",
                exploration.seeds.end
            ),
            Err(failure) => println!("{name} does not survive:\n{failure}\n"),
        }
    }
}
