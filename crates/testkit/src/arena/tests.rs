use sva_core::{AccessMode, Segment};

use super::*;
use crate::space::{PAGE, Protection};

const BASE: u64 = 0x7000_0000_0000;

fn piece(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

#[test]
fn smoke() {
    let space = ArenaSpace::new(64 << 20);
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    space.handle().write(&[piece(BASE + 4000, 200)], &[7; 200], AccessMode::WRITE).unwrap();
    assert_eq!(space.peek(BASE + 4000, 200), [7; 200]);
}
