//! A space is a memory, not a number.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::process::Command;

use support::{Target, Witness, attach, read, status, until, write};
use sva_core::{AddressSpace, EndReason};
use sva_host::AttachError;

#[test]
fn two_handles_of_one_process_are_one_space() {
    // shows B5
    let (target, other) = (Target::start("serve"), Target::start("serve"));
    let (first, second) = (target.attach(), target.attach());
    assert_eq!(first.id(), second.id());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_ne!(first.id(), other.attach().id());
}

#[test]
fn threads_that_attach_one_process_at_once_get_one_space() {
    // shows B5
    let targets: Vec<Target> = (0..4).map(|_| Target::start("serve")).collect();
    let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
    let handles: Vec<_> = (0..4)
        .map(|_| {
            let pids = pids.clone();
            std::thread::spawn(move || pids.into_iter().map(attach).collect::<Vec<_>>())
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    for spaces in &handles {
        for (space, first) in spaces.iter().zip(&handles[0]) {
            assert_eq!(space.id(), first.id());
        }
    }
    let distinct: std::collections::HashSet<_> =
        handles[0].iter().map(|space| space.id()).collect();
    assert_eq!(distinct.len(), targets.len());
}

#[test]
fn many_spaces_are_told_apart() {
    // shows B5
    let targets: Vec<Target> = (0..40).map(|_| Target::start("serve")).collect();
    let spaces: Vec<_> = targets.iter().map(Target::attach).collect();
    for (target, space) in targets.iter().zip(&spaces) {
        assert_eq!(target.attach().id(), space.id());
    }
    // Some end; the others are still found.
    let kept: Vec<_> = spaces.into_iter().enumerate().filter(|(index, _)| index % 3 != 0).collect();
    for (index, space) in &kept {
        assert_eq!(targets[*index].attach().id(), space.id());
    }
}

#[test]
fn threads_and_clone_vm_tasks_are_the_same_space() {
    // shows U7, B5
    let mut target = Target::start("serve");
    assert_eq!(target.ask("thread"), "done");
    let sharer: u32 = target.ask("clone-vm").parse().unwrap();
    let space = target.attach();
    let threads = support::numbers(&format!("/proc/{}/task", target.pid()));
    assert_eq!(threads.len(), 2);
    for task in threads.into_iter().chain([sharer]) {
        assert_eq!(attach(task).id(), space.id(), "task {task}");
    }
    let witness = Witness::of(&space);
    let at = target.map("private", 4096);
    // The process exits, and its memory lives on in the other one.
    target.tell("exit");
    until("the process is gone", || status(target.pid(), "State").starts_with('Z'));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(space.ended().is_none());
    write(&*space, at, b"still here").unwrap();
    assert_eq!(attach(sharer).id(), space.id());
    kill(sharer);
    assert_eq!(witness.end().0, EndReason::Exited);
}

fn kill(pid: u32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn a_vfork_child_is_the_same_space_and_can_stand_in_for_its_parent() {
    // shows U7
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    target.tell("vfork");
    until("the parent hangs in vfork", || target.status("State").starts_with('D'));
    let child = support::numbers("/proc")
        .into_iter()
        .find(|&task| status(task, "PPid") == target.pid().to_string())
        .unwrap();
    // The parent cannot be stopped.
    let space = target.attach();
    assert_eq!(attach(child).id(), space.id());
    write(&*space, at, b"shared").unwrap();
    let witness = Witness::of(&space);
    kill(child);
    assert_eq!(target.answer(), child.to_string());
    assert_eq!(target.peek(at, 6), b"shared");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(space.ended().is_none(), "the parent has it still");
    target.tell("exec");
    target.ready();
    assert_eq!(witness.end().0, EndReason::Execed);
}

#[test]
fn a_process_whose_leader_is_dead_is_attached_and_lives_on() {
    // shows U7
    for attach_first in [true, false] {
        let mut target = Target::start("serve");
        let at = target.map("private", 4096);
        let before = attach_first.then(|| target.attach());
        assert_eq!(target.ask("leader-exit"), "leader dead");
        assert!(target.status("State").starts_with('Z'));
        let space = target.attach();
        assert!(before.is_none_or(|before| before.id() == space.id()));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(space.ended().is_none());
        write(&*space, at, &[9]).unwrap();
        assert_eq!(target.peek(at, 1), [9]);
        let witness = Witness::of(&space);
        target.tell("exit");
        assert_eq!(witness.end().0, EndReason::Exited);
    }
}

#[test]
fn the_own_process_is_a_space_without_an_anchor() {
    // shows S1, B5
    let space = attach(std::process::id());
    let bytes = *b"own memory";
    let at = &raw const bytes as u64;
    assert_eq!(read(&*space, at, bytes.len()).unwrap(), bytes);
    assert!(space.stop_time().is_zero());
    let from_thread = std::thread::spawn(|| attach(std::process::id()).id()).join().unwrap();
    assert_eq!(from_thread, space.id());
}

/// Makes a process with a given number: it sets the number that the kernel has used last.
fn start_as(pid: u32) -> Option<Target> {
    for _ in 0..200 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let target =
            Target::from_command(Command::new(env!("CARGO_BIN_EXE_sva-host-target")).arg("serve"));
        if target.pid() == pid {
            return Some(target);
        }
    }
    None
}

#[test]
fn a_reused_pid_is_not_mistaken_for_the_process_that_had_it() {
    // shows U7, B5
    for _ in 0..10 {
        let mut target = Target::start("serve");
        let (pid, at) = (target.pid(), target.map("private", 4096));
        let space = target.attach();
        let device = std::thread::spawn({
            let space = space.clone();
            move || while write(&*space, at, &[0xdd; 4096]).is_ok() {}
        });
        target.child.kill().unwrap();
        target.child.wait().unwrap();
        let Some(mut successor) = start_as(pid) else {
            eprintln!("SKIPPED: numbers cannot be chosen here (ns_last_pid)");
            device.join().unwrap();
            return;
        };
        let its = successor.map("private", 4096);
        let anew = successor.attach();
        assert_ne!(anew.id(), space.id());
        device.join().unwrap();
        assert_eq!(successor.peek(its, 4096), vec![0; 4096], "nobody has written to the successor");
        assert!(space.ended().is_some() && anew.ended().is_none());
    }
}

#[test]
fn an_exec_while_it_is_attached_gives_the_old_image_or_the_new_one() {
    // shows U7, B5
    for round in 0..60 {
        let mut target = Target::start("serve");
        let pid = target.pid();
        let attaching = std::thread::spawn(move || sva_host::attach(pid));
        std::thread::sleep(std::time::Duration::from_micros(round * 40));
        target.tell("exec");
        target.ready();
        let got = attaching.join().unwrap();
        let now = target.attach();
        match got {
            // It is the image that runs now, or it has ended or will end.
            Ok(space) if space.id() == now.id() => {}
            Ok(space) => until("the old image's space has ended", || space.ended().is_some()),
            Err(AttachError::Gone { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let at = target.map("private", 4096);
        write(&*now, at, b"new").unwrap();
        assert_eq!(target.peek(at, 3), b"new");
    }
}
