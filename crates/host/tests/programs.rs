//! Several programs that use this crate at once, and what is left of one that dies.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::path::Path;

use support::{Target, Witness, numbers, read, status, traced_by, until, write};
use sva_core::{AddressSpace, EndReason};

#[test]
fn two_programs_attach_one_process_and_neither_keeps_it_alive_for_the_other() {
    // shows U7
    let (mut target, mut other) = (Target::start("serve"), Target::start("serve"));
    let at = target.map("private", 4096);
    let space = target.attach();
    let witness = Witness::of(&space);
    assert_eq!(other.ask(&format!("attach {}", target.pid())), "attached");
    write(&*space, at, &[0xab; 4]).unwrap();
    assert_eq!(other.ask(&format!("read {at} 4")), "abababab");
    target.tell("exec");
    target.ready();
    assert_eq!(witness.end().0, EndReason::Execed);
    until("the other has seen it", || other.ask("ended") == "Some(Execed)");
    until("no anchor is left", || traced_by(other.pid()).is_empty());
}

#[test]
fn a_program_that_goes_leaves_the_other_its_space() {
    // shows U7
    let (mut target, mut other) = (Target::start("serve"), Target::start("serve"));
    let at = target.map("private", 4096);
    assert_eq!(other.ask(&format!("attach {}", target.pid())), "attached");
    let space = target.attach();
    drop(other);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(space.ended().is_none());
    assert_eq!(read(&*space, at, 4).unwrap(), [0; 4]);
}

#[test]
fn a_program_that_is_killed_leaves_no_anchor() {
    // shows U9
    let mut targets: Vec<Target> = (0..5).map(|_| Target::start("serve")).collect();
    for target in &mut targets {
        let mut other = Target::start("serve");
        assert_eq!(other.ask(&format!("attach {}", target.pid())), "attached");
        let [anchor] = traced_by(other.pid())[..] else { panic!("one anchor") };
        other.child.kill().unwrap();
        other.child.wait().unwrap();
        until("the anchor is gone", || !Path::new(&format!("/proc/{anchor}")).exists());
        assert_eq!(target.status("TracerPid"), "0");
        assert_eq!(target.ask("reap-any"), "-1 10");
    }
}

/// Kills the attaching program at every moment of the attach.
#[test]
#[cfg_attr(sva_no_tracer_process, ignore = "what the tracer process is for")]
fn a_program_that_is_killed_while_it_attaches_harms_no_process_and_leaves_no_task_behind() {
    // shows U9
    let (mut met, rounds) = (0, 120);
    for round in 0..rounds {
        let mut target = Target::start("serve");
        let mut other = Target::start("serve");
        other.tell(&format!("attach {}", target.pid()));
        let begin = std::time::Instant::now();
        while status(target.pid(), "TracerPid") == "0" && begin.elapsed().as_millis() < 20 {}
        std::thread::sleep(std::time::Duration::from_micros(round % 40 * 5));
        met += u32::from(status(target.pid(), "TracerPid") != "0");
        other.child.kill().unwrap();
        other.child.wait().unwrap();
        // The attach that was begun is completed. On a busy machine it may not have stopped the
        // thread yet.
        until("no tracer process is left", || orphaned_tracer_processes().is_empty());
        let is_free = || {
            status(target.pid(), "TracerPid") == "0"
                && status(target.pid(), "SigBlk") == "0000000000000000"
        };
        until("its thread is detached", is_free);
        until("only the target has its memory", || sharers(&target).is_empty());
        assert!(is_free(), "round {round}");
        assert_eq!(target.ask("reap-any"), "-1 10", "round {round}");
    }
    println!("{met} of {rounds} targets were traced that moment");
}

/// Execs at every moment of the attach. Then nobody is left to take the anchor over, although the
/// process's number still exists.
#[test]
#[cfg_attr(sva_no_tracer_process, ignore = "what the tracer process is for")]
fn a_program_that_execs_while_it_attaches_harms_no_process_and_leaves_no_task_behind() {
    // shows U7, U9
    let mut program = Target::start("serve");
    for round in 0..60 {
        let mut target = Target::start("serve");
        program.tell(&format!("exec-while-attaching {} {}", target.pid(), round * 10));
        program.ready();
        let is_free = || {
            status(target.pid(), "TracerPid") == "0"
                && status(target.pid(), "SigBlk") == "0000000000000000"
        };
        until("its thread is detached", is_free);
        until("only the target has its memory", || sharers(&target).is_empty());
        until("the program has no tracer process any more", || children(program.pid()).is_empty());
        assert_eq!(target.ask("reap-any"), "-1 10", "round {round}");
    }
}

/// The standard library's debug assertions may end such a program, at any moment.
#[test]
#[cfg_attr(sva_no_tracer_process, ignore = "what the tracer process is for")]
fn closing_all_descriptors_during_an_attach_harms_no_process_and_leaves_no_task_behind() {
    // shows U9
    let mut target = Target::start("serve");
    let mut attached = 0;
    for round in 0..200 {
        let mut program = Target::start("serve");
        assert_eq!(program.ask(&format!("closer {}", round * 5)), "done");
        program.tell(&format!("attach {}", target.pid()));
        attached += u32::from(program.answer() == "attached");
        drop(program);
        assert_eq!(target.ask("reap-any"), "-1 10", "round {round}");
    }
    until("only the target has its memory", || sharers(&target).is_empty());
    println!("{attached} attached");
}

/// Children of a process that are not dead.
fn children(pid: u32) -> Vec<u32> {
    let is_alive = |&task: &u32| {
        status(task, "PPid") == pid.to_string() && !status(task, "State").starts_with('Z')
    };
    numbers("/proc").into_iter().filter(is_alive).collect()
}

/// Tracer processes whose program is dead. They have the name of the thread that made them.
fn orphaned_tracer_processes() -> Vec<u32> {
    let is_target = |pid: &str| {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_sva-host-target")))
    };
    let is_orphaned = |&task: &u32| {
        status(task, "Name") == "sva-tracer"
            && is_target(&task.to_string())
            && !is_target(&status(task, "PPid"))
    };
    numbers("/proc").into_iter().filter(is_orphaned).collect()
}

/// Tasks that run the target's image in the target's session and are not the target: remains of an
/// attach.
fn sharers(target: &Target) -> Vec<u32> {
    let maps = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let own = maps(target.pid());
    numbers("/proc")
        .into_iter()
        .filter(|&task| task != target.pid() && !own.is_empty() && maps(task) == own)
        .collect()
}

#[test]
fn a_child_made_by_fork_has_no_attachments_and_harms_none() {
    // shows U7
    let (target, mut program) = (Target::start("serve"), Target::start("serve"));
    assert_eq!(program.ask(&format!("attach {}", target.pid())), "attached");
    let read = format!("read {} 2", target.canary);
    assert_eq!(program.ask(&read), "c5c5");
    assert_eq!(program.ask(&read.replace("read", "read-in-child")), "Ended");
    assert_eq!(program.answer(), "child done");
    assert_eq!(program.ask(&format!("attach-in-child {}", target.pid())), "Forked");
    assert_eq!(program.answer(), "child done");
    assert_eq!(program.ask("drop-in-child"), "done");
    assert_eq!(program.answer(), "child done");
    assert_eq!(program.ask(&read), "c5c5", "the parent has it still");
    assert_eq!(program.ask("ended"), "None");
    assert_eq!(traced_by(program.pid()).len(), 1);
}

#[test]
fn a_program_that_execs_leaves_no_anchor() {
    // shows U9
    let (target, mut program) = (Target::start("serve"), Target::start("serve"));
    assert_eq!(program.ask(&format!("attach {}", target.pid())), "attached");
    let [anchor] = traced_by(program.pid())[..] else { panic!("one anchor") };
    program.tell("exec");
    program.ready();
    until("the anchor is gone", || !Path::new(&format!("/proc/{anchor}")).exists());
}

/// A program may wait for "any child" in one of its threads, and so reap what the tracer thread
/// waits for.
#[test]
fn a_program_that_waits_for_any_child_all_the_time_can_attach() {
    // shows U7, U4
    let mut program = Target::start("serve");
    assert_eq!(program.ask("thief"), "done");
    for _ in 0..20 {
        let mut target = Target::start("serve");
        assert_eq!(program.ask(&format!("attach {}", target.pid())), "attached");
        assert_eq!(program.ask(&format!("read {} 2", target.canary)), "c5c5");
        assert_eq!(target.status("TracerPid"), "0");
        assert_eq!(target.ask("reap-any"), "-1 10");
        let [anchor] = traced_by(program.pid())[..] else { panic!("one anchor") };
        // Somebody kills the anchor, and the other thread reaps it.
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(anchor as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        until("ended", || program.ask("ended") == "Some(RightsLost)");
    }
}
