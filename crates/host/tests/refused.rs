//! Processes that cannot be attached soundly are refused, each with its reason, and are not changed
//! by it.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::process::Command;

use support::{Target, status, traced_by, until};
use sva_core::AddressSpace;
use sva_host::{AttachError, Denial, attach};

#[test]
fn a_number_that_nobody_has_is_refused() {
    // shows S2
    for pid in [0, u32::MAX, 1 << 31, 4_000_000] {
        assert!(
            matches!(attach(pid), Err(AttachError::NoSuchProcess { pid: said }) if said == pid),
            "{pid}"
        );
    }
}

#[test]
fn a_zombie_is_refused() {
    // shows B1, S2
    let mut target = Target::start("serve");
    target.tell("exit");
    until("a zombie", || target.status("State").starts_with('Z'));
    assert!(
        matches!(attach(target.pid()), Err(AttachError::Zombie { pid }) if pid == target.pid())
    );
}

#[test]
fn a_kernel_thread_is_refused() {
    // shows S2
    let kernel = support::numbers("/proc").into_iter().find(|&pid| {
        status(pid, "Kthread") == "1" || pid == 2 && status(pid, "Name") == "kthreadd"
    });
    let Some(kernel) = kernel else {
        eprintln!("SKIPPED: no kernel thread is visible in this pid namespace");
        return;
    };
    assert!(matches!(attach(kernel), Err(AttachError::KernelThread { pid }) if pid == kernel));
}

#[test]
fn a_process_under_seccomp_is_refused() {
    let mut target = Target::start("serve");
    assert_eq!(target.ask("seccomp"), "0");
    assert!(matches!(attach(target.pid()), Err(AttachError::Seccomp { mode: 2, .. })));
    assert_eq!(target.ask("reap-any"), "-1 10");
}

#[test]
fn a_process_that_adopts_orphans_is_refused_and_gets_none_from_us() {
    let mut target = Target::start("serve");
    assert_eq!(target.ask("subreaper"), "0");
    for _ in 0..3 {
        let refused = attach(target.pid());
        assert!(matches!(refused, Err(AttachError::AdoptsOrphans { pid }) if pid == target.pid()));
        assert_eq!(target.ask("reap-any"), "-1 10", "it has no child");
    }
    assert_eq!(target.status("TracerPid"), "0");
    // Its children can be attached: their orphans become its children, as a subreaper expects.
}

#[test]
fn a_process_whose_children_live_in_another_pid_namespace_is_refused() {
    let mut target = Target::start("serve");
    if target.ask("unshare-pid") != "0" {
        eprintln!("SKIPPED: no right to make a pid namespace");
        return;
    }
    let refused = attach(target.pid());
    assert!(matches!(refused, Err(AttachError::PidNamespace { tid }) if tid == target.pid()));
}

#[test]
fn the_first_process_of_a_pid_namespace_is_refused_and_others_in_it_are_not() {
    let mut outer = Target::start("serve");
    if outer.ask("unshare-pid") != "0" {
        eprintln!("SKIPPED: no right to make a pid namespace");
        return;
    }
    let init: u32 = outer.ask("fork").parse().unwrap();
    assert!(matches!(attach(init), Err(AttachError::AdoptsOrphans { pid }) if pid == init));
    let inner: u32 = outer.ask("child fork").parse().unwrap();
    assert_eq!(inner, 2, "a number of its own namespace");
    let inner = support::numbers("/proc")
        .into_iter()
        .find(|&task| status(task, "PPid") == init.to_string())
        .unwrap();
    let space = attach(inner).unwrap();
    assert_eq!(support::read(&*space, outer.canary, 4).unwrap(), [0xc5; 4]);
    drop(space);
    assert_eq!(outer.ask("child child reap-any"), "-1 10");
    until("its init has seen to the anchor", || {
        outer.ask("child reap-any").starts_with("0 ") || !has_zombie_child(init)
    });
}

fn has_zombie_child(pid: u32) -> bool {
    support::numbers("/proc").into_iter().any(|task| {
        status(task, "PPid") == pid.to_string() && status(task, "State").starts_with('Z')
    })
}

#[test]
fn a_process_that_is_traced_already_is_refused_with_its_tracer() {
    let (target, mut tracer) = (Target::start("serve"), Target::start("serve"));
    assert_eq!(tracer.ask(&format!("trace {}", target.pid())), "0");
    match attach(target.pid()) {
        Err(AttachError::AlreadyTraced { tid, tracer: by, name }) => {
            assert_eq!((tid, by, name.as_str()), (target.pid(), tracer.pid(), "sva-host-target"));
        }
        other => panic!("{other:?}"),
    }
    drop(tracer);
    attach(target.pid()).expect("the tracer is gone");
}

#[test]
fn the_anchor_of_another_program_stands_for_the_process_that_it_belongs_to() {
    // shows B5, U7
    let (target, mut holder) = (Target::start("serve"), Target::start("serve"));
    assert_eq!(holder.ask(&format!("attach {}", target.pid())), "attached");
    let [anchor] = traced_by(holder.pid())[..] else { panic!("one anchor") };
    assert_eq!(attach(anchor).unwrap().id(), target.attach().id());
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same process as another user.
fn as_nobody(mut target: Target) -> Option<Target> {
    const NOBODY: u32 = 65534;
    if !is_root() || target.ask(&format!("setuid {NOBODY}")) != "0" {
        eprintln!("SKIPPED: not root, so that there is no other user");
        return None;
    }
    Some(target)
}

#[test]
fn the_process_of_another_user_is_refused_to_one_without_privilege() {
    // shows S1
    let target = Target::start("serve");
    let Some(mut attacher) = as_nobody(Target::start("serve")) else { return };
    let answer = attacher.ask(&format!("attach {}", target.pid()));
    assert!(
        answer.contains("NotPermitted") && answer.contains("OtherUser { theirs: 0, ours: 65534 }"),
        "{answer}"
    );
    assert!(answer.contains("CAP_SYS_PTRACE"), "it says what to do: {answer}");
    assert_eq!(target.status("TracerPid"), "0");
}

#[test]
fn a_process_that_is_not_dumpable_is_refused_to_its_own_user() {
    // shows S1
    let (Some(target), Some(mut attacher)) =
        (as_nobody(Target::start("serve")), as_nobody(Target::start("serve")))
    else {
        return;
    };
    let answer = attacher.ask(&format!("attach {}", target.pid()));
    assert!(
        answer.contains("NotPermitted")
            && (answer.contains("Protected") || answer.contains("Yama")),
        "{answer}"
    );
}

#[test]
fn a_user_without_privilege_attaches_processes_of_their_own() {
    // shows S1
    let (Some(mut target), Some(mut attacher)) =
        (as_nobody(Target::start("serve")), as_nobody(Target::start("serve")))
    else {
        return;
    };
    assert_eq!(target.ask("dumpable"), "0");
    let answer = attacher.ask(&format!("attach {}", target.pid()));
    if answer.contains("Yama") {
        eprintln!("SKIPPED: {answer}");
        return;
    }
    assert_eq!(answer, "attached");
    assert_eq!(attacher.ask(&format!("read {} 4", target.canary)), "c5c5c5c5");
    assert_eq!(target.ask("exec exit"), "");
    until("ended", || attacher.ask("ended") != "None");
}

#[test]
fn a_process_that_changes_its_user_ends_its_space_for_one_without_privilege() {
    // shows U4, S1
    let (Some(mut target), Some(mut attacher)) =
        (as_nobody(Target::start("serve")), as_nobody(Target::start("serve")))
    else {
        return;
    };
    assert_eq!(target.ask("dumpable"), "0");
    if attacher.ask(&format!("attach {}", target.pid())) != "attached" {
        eprintln!("SKIPPED: Yama");
        return;
    }
    assert_eq!(target.ask("undumpable"), "0");
    until("ended", || attacher.ask("ended") == "Some(RightsLost)");
}

#[test]
fn a_command_without_input_is_no_process() {
    let mut gone = Command::new(env!("CARGO_BIN_EXE_sva-host-target")).arg("exit").spawn().unwrap();
    gone.wait().unwrap();
    assert!(matches!(attach(gone.id()), Err(AttachError::NoSuchProcess { .. })));
    assert!(
        !matches!(attach(1), Err(AttachError::NotPermitted { why: Denial::Protected, .. }))
            || !is_root()
    );
}
