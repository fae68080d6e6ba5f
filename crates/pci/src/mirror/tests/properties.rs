//! What holds of every mirror.

use proptest::prelude::*;
use sva_core::Bdf;
use sva_core::Topology;
use sva_topology::arbitrary::machines;
use sva_topology::groups::{Grouping, Policy};

use super::*;
use crate::fabric::{Fabric, FabricSpec, Route, limit};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    // shows G1, S2
    #[test]
    fn a_mirror_has_the_groups_of_its_machine_and_accounts_for_every_function(
        machine in machines(),
        policy in prop::sample::select(&Policy::ALL[..]),
    ) {
        let grouping = Grouping::compute(&machine, policy);
        let Ok(Mirror { spec, notes }) = mirror(&machine, &grouping) else { return Ok(()) };
        let fabric = Fabric::new(spec.clone())?;
        let group = |bdf: Bdf| machine.find(bdf).and_then(|function| grouping.of(function));
        for a in &spec.functions {
            for b in &spec.functions {
                let together =
                    a.bdf == b.bdf || group(a.bdf).is_some() && group(a.bdf) == group(b.bdf);
                prop_assert_eq!(
                    fabric.group(a.bdf) == fabric.group(b.bdf),
                    together,
                    "{} and {}",
                    a.bdf,
                    b.bdf
                );
            }
        }
        let accounted: usize = notes
            .iter()
            .map(|note| match note {
                Note::RootComplex { functions } => functions.len(),
                Note::LeftOut { below, .. } => 1 + below,
                _ => 0,
            })
            .sum();
        let ports = spec.ports.iter().filter(|port| machine.get(port.bdf).is_some()).count();
        prop_assert_eq!(accounted + ports + spec.functions.len(), machine.functions().len());
    }

    // shows B7
    #[test]
    fn windows_and_routes_of_a_mirror_agree_and_its_text_reads_back(
        machine in machines(),
        picks in prop::collection::vec(0x8000_0000u64..0x8400_0000, 16),
    ) {
        let Ok(Mirror { spec, .. }) = mirror(&machine, &Grouping::compute(&machine, Policy::Linux))
        else {
            return Ok(());
        };
        let text = spec.to_toml();
        if text.len() <= limit::TEXT {
            prop_assert_eq!(
                &FabricSpec::from_toml(&text)
                    .map_err(|error| TestCaseError::fail(error.to_string()))?,
                &spec
            );
        }
        let fabric = Fabric::new(spec.clone())?;
        let bars = spec.functions.iter().flat_map(|function| &function.bars).map(|bar| bar.address);
        let addresses: Vec<u64> = bars.chain(picks).collect();
        for device in fabric.devices() {
            let windows = fabric.windows(device.bdf);
            for &address in &addresses {
                let window = windows
                    .iter()
                    .find(|window| window.range.contains(address))
                    .map(|window| (window.decoder, window.claimed));
                let route = match fabric.route(device.bdf, address) {
                    Route::Upstream => None,
                    Route::Peer { bdf, .. } => Some((bdf, true)),
                    Route::Dropped { bridge } => Some((bridge, false)),
                    Route::Blocked { port } => panic!("{port} stops an untranslated request"),
                };
                prop_assert_eq!(window, route, "{} at {:#x}", device.bdf, address);
            }
        }
    }
}
