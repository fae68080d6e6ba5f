//! Reading and writing the memory of a live process.

mod support;

use support::{Target, read, write};

#[test]
fn a_device_reads_and_writes_what_the_process_itself_sees() {
    // shows U7
    let mut target = Target::start("serve");
    let at = target.map("private", 1 << 20);
    let space = target.attach();
    eprintln!("stopped for {:?}", space.stop_time());
    target.poke(at, 4096, 7);
    assert_eq!(read(&*space, at, 16).unwrap(), [7; 16]);
    write(&*space, at + 100, b"hello").unwrap();
    assert_eq!(target.peek(at + 100, 5), b"hello");
}
