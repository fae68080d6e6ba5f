//! Whole transfers of a device that translates: by the rules of any other port, and in any access
//! (rules T1, T5).

use sva_core::port::DmaCause;
use sva_core::{Access, Bind, DmaError, FaultReason, Pasid, Segment};
use sva_testkit::{PAGE, Protection};

use crate::support::*;
use crate::translating::*;

const EXECUTE: Access = Access::EXECUTE;

impl Rig {
    /// A bond that grants everything, in place of the one that there is.
    fn grant_everything(&mut self) {
        drop(self.take_bond());
        let bond = self
            .world
            .iommu
            .bind_device(&self.device, &self.space.handle(), Bind::new(()).features(ALL_FEATURES))
            .expect("free");
        self.pasid = bond.pasid();
        self.bond = Some(bond);
    }
}

/// What an access comes to, without the log's view of it.
fn outcome(result: Result<(), DmaError>) -> Option<(u64, String)> {
    result.err().map(|error| match &error.cause {
        DmaCause::Fault(fault) => {
            (error.done, format!("{:?} at {:#x}", fault.reason, fault.address))
        }
        other => (error.done, format!("{other:?}")),
    })
}

// shows T1, T5
#[test]
fn gathers_and_scatters_that_translate_come_to_what_those_of_any_other_port_do() {
    let mut rig = Rig::new();
    rig.grant_everything();
    rig.space.protect(BASE + PAGE, PAGE, Protection::READ_WRITE.privileged());
    rig.space.protect(BASE + 2 * PAGE, PAGE, Protection::READ_EXECUTE);
    let (own, plain) = (rig.port.clone(), rig.device.port());
    let privileged = Access::READ | Access::PRIVILEGED;
    let at = |page: u64, len: u64| Segment { address: BASE + page * PAGE + PAGE - 8, len };
    let unbound = Pasid::new(7).expect("small");
    let pieces: [&[Segment]; 8] = [
        &[at(3, 24), at(4, 1), at(5, 16)],
        &[at(3, 24), at(0, 16)],
        &[at(0, 24)],
        &[at(1, 24)],
        &[at(6, 0), at(7, 8)],
        &[],
        &[Segment { address: u64::MAX - 3, len: 8 }],
        &[at(4, 8), Segment { address: BASE - PAGE, len: 8 }],
    ];
    for pieces in pieces {
        let len = pieces.iter().map(|piece| piece.len as usize).sum();
        for access in [Access::READ, Access::WRITE, EXECUTE, privileged] {
            for pasid in [Some(rig.pasid), Some(unbound), None] {
                let (mut mine, mut theirs) = (vec![0; len], vec![0; len]);
                let read = [
                    own.gather(pasid, pieces, &mut mine, access),
                    plain.gather(pasid, pieces, &mut theirs, access),
                ]
                .map(outcome);
                assert_eq!(mine, theirs);
                let data = vec![pieces.len() as u8; len];
                let written = [
                    own.scatter(pasid, pieces, &data, access),
                    plain.scatter(pasid, pieces, &data, access),
                ]
                .map(outcome);
                for [mine, theirs] in [read, written] {
                    let done =
                        |outcome: &Option<(u64, String)>| outcome.as_ref().map(|(done, _)| *done);
                    assert_eq!(
                        done(&mine),
                        done(&theirs),
                        "{pasid:?} {pieces:?} {access:?}: {mine:?}, {theirs:?}"
                    );
                }
            }
        }
    }
    assert!(matches!(
        own.gather(None, &[at(0, 8)], &mut [0; 4], Access::READ),
        Err(error)
            if matches!(error.cause, DmaCause::Length { .. })
    ));
    rig.take_down();
}

// shows T1
#[test]
fn a_privileged_and_an_execute_gather_use_translations_of_their_own() {
    let mut rig = Rig::new();
    rig.grant_everything();
    rig.space.protect(BASE, PAGE, Protection::READ_WRITE.privileged());
    rig.space.protect(BASE + PAGE, PAGE, Protection::READ_EXECUTE);
    let privileged = Access::READ | Access::PRIVILEGED | Access::PRESENT_ONLY;
    let (port, pasid) = (rig.port.clone(), Some(rig.pasid));
    let piece = |page: u64| [Segment { address: BASE + page * PAGE, len: 8 }];
    port.gather(pasid, &piece(0), &mut [0; 8], privileged).expect("granted");
    port.scatter(pasid, &piece(0), b"a system", privileged).expect("granted");
    assert_eq!(rig.space.peek(BASE, 8), b"a system");
    assert!(
        port.use_translation(pasid, BASE, privileged).is_some()
            && port.use_translation(pasid, BASE, Access::READ).is_none()
    );
    assert!(port.read(pasid, BASE, &mut [0; 8]).is_err(), "a user's");
    port.read(pasid, BASE + PAGE, &mut [0; 8]).expect("readable");
    assert!(
        port.use_translation(pasid, BASE + PAGE, EXECUTE).is_none(),
        "execute permission was not asked for"
    );
    port.gather(pasid, &piece(1), &mut [0; 8], EXECUTE).expect("granted");
    assert!(
        port.use_translation(pasid, BASE + PAGE, EXECUTE).is_some()
            && port.use_translation(pasid, BASE + PAGE, Access::READ).is_some()
    );
    rig.take_down();
}

// shows B8
#[test]
fn an_access_of_no_bytes_needs_a_bond_with_and_without_translations() {
    let rig = Rig::new();
    let unbound = Pasid::new(7);
    for on in [true, false] {
        if !on {
            rig.device.disable_ats().expect("it was on");
        }
        let ways = [
            rig.port.read(unbound, BASE, &mut []),
            rig.port.write(unbound, BASE, &[]),
            rig.device.port().read(unbound, BASE, &mut []),
            rig.device.port().write(unbound, BASE, &[]),
        ];
        assert_eq!(ways.map(reason), [Some(FaultReason::NotBound); 4]);
        rig.port.read(Some(rig.pasid), BASE - PAGE, &mut []).expect("nothing is accessed");
        rig.device.port().read(Some(rig.pasid), BASE - PAGE, &mut []).expect("nothing is accessed");
    }
    assert_eq!(rig.device.atc_counts().misses, 0);
    rig.take_down();
}
