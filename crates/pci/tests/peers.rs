//! What answers behind a BAR: reads and writes of peers, and models of devices.

mod common;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use common::at;
use common::switch::{A_BAR, B_BAR, HOLE, switch};
use sva_core::Access;
use sva_core::Topology;
use sva_core::topology::{PeerAborted, PeerWindow};
use sva_pci::{AcsBits, BarAborted, BarModel, Fabric};

fn window_at(fabric: &Fabric, from: &str, address: u64) -> PeerWindow {
    let windows = fabric.windows(at(from));
    *windows.iter().find(|window| window.range.contains(address)).expect("a window there")
}

// shows B7
#[test]
fn what_a_peer_decodes_is_read_and_written_in_its_memory() {
    let fabric = switch(None);
    let window = window_at(&fabric, "03:00.0", B_BAR);
    fabric.write_peer(at("03:00.0"), &window, B_BAR + 100, b"mine").expect("memory takes it");
    let mut buf = [0; 6];
    fabric
        .read_peer(at("03:00.0"), &window, B_BAR + 99, &mut buf, Access::READ)
        .expect("memory answers");
    assert_eq!(&buf, b"\0mine\0");
    let memory = fabric.memory(at("04:00.0"), 0).expect("the default model");
    assert_eq!((memory.reads(), memory.writes(), memory.peek(100, 4)), (1, 1, b"mine".to_vec()));
}

// shows B7
#[test]
fn what_nobody_decodes_aborts_a_read_and_loses_a_write() {
    let fabric = switch(None);
    for (address, bridge) in [(A_BAR, "02:00.0"), (HOLE, "01:00.0")] {
        let window = window_at(&fabric, "03:00.0", address);
        let mut buf = [7; 4];
        assert_eq!(
            fabric.read_peer(at("03:00.0"), &window, address, &mut buf, Access::READ),
            Err(PeerAborted(at(bridge)))
        );
        assert_eq!(buf, [7; 4]);
        fabric
            .write_peer(at("03:00.0"), &window, address, &[1; 4])
            .expect("a posted write is lost in silence");
    }
    assert_eq!(fabric.memory(at("03:00.0"), 0).expect("the default model").writes(), 0);
}

// shows B7
#[test]
fn a_model_that_aborts_is_named_as_the_peer_that_did() {
    struct Refuses;
    impl BarModel for Refuses {
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), BarAborted> {
            Err(BarAborted)
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), BarAborted> {
            Err(BarAborted)
        }
    }
    let fabric = switch(None);
    fabric.attach_model(at("04:00.0"), 0, Arc::new(Refuses)).expect("a BAR");
    let window = window_at(&fabric, "03:00.0", B_BAR);
    let mut buf = [0; 4];
    assert_eq!(
        fabric.read_peer(at("03:00.0"), &window, B_BAR, &mut buf, Access::READ),
        Err(PeerAborted(at("04:00.0")))
    );
    assert_eq!(
        fabric.write_peer(at("03:00.0"), &window, B_BAR, &buf),
        Err(PeerAborted(at("04:00.0")))
    );
    assert!(fabric.memory(at("04:00.0"), 0).is_none());
}

/// A model that changes the very fabric it sits on when it is read.
struct Changes(std::sync::Weak<Fabric>);

impl BarModel for Changes {
    fn read(&self, _: u64, buf: &mut [u8]) -> Result<(), BarAborted> {
        let fabric = self.0.upgrade().ok_or(BarAborted)?;
        fabric.set_acs(at("00:01.0"), AcsBits::NONE).map_err(|_| BarAborted)?;
        fabric.remove(at("04:00.0")).map_err(|_| BarAborted)?;
        buf.fill(1);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), BarAborted> {
        Err(BarAborted)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // Where a lock of the fabric were held, this would not return.
        let _ = self.0.upgrade().map(|fabric| fabric.devices());
    }
}

// shows G5; regression 24: locks of two subsystems taken in two orders
#[test]
fn device_models_run_and_are_dropped_with_no_lock_of_the_fabric_held() {
    let fabric = Arc::new(switch(None));
    fabric
        .attach_model(at("04:00.0"), 0, Arc::new(Changes(Arc::downgrade(&fabric))))
        .expect("a BAR");
    let (send, done) = mpsc::channel();
    std::thread::spawn(move || {
        let window = window_at(&fabric, "03:00.0", B_BAR);
        let mut buf = [0; 4];
        let first = fabric.read_peer(at("03:00.0"), &window, B_BAR, &mut buf, Access::READ);
        let second = fabric.read_peer(at("03:00.0"), &window, B_BAR, &mut buf, Access::READ);
        let _ = send.send((first, second, buf));
    });
    let (first, second, buf) = done.recv_timeout(Duration::from_secs(20)).expect("no deadlock");
    assert_eq!((first, buf), (Ok(()), [1; 4]));
    assert_eq!(second, Err(PeerAborted(at("04:00.0"))), "the device took itself out");
}

// shows G5; regression 24: locks of two subsystems taken in two orders
#[test]
fn a_model_that_is_replaced_or_removed_is_dropped_with_no_lock_of_the_fabric_held() {
    let fabric = Arc::new(switch(None));
    let model = || Arc::new(Changes(Arc::downgrade(&fabric)));
    let (send, done) = mpsc::channel();
    fabric.attach_model(at("03:00.0"), 0, model()).expect("a BAR");
    fabric.attach_model(at("04:00.0"), 0, model()).expect("a BAR");
    let other = Arc::clone(&fabric);
    std::thread::spawn(move || {
        let replaced = other.attach_model(at("03:00.0"), 0, Arc::new(sva_pci::RamBar::new()));
        let _ = send.send((replaced, other.remove(at("04:00.0")).is_ok()));
    });
    assert_eq!(done.recv_timeout(Duration::from_secs(20)), Ok((Ok(()), true)), "no deadlock");
}
