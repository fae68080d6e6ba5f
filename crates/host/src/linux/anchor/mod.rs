//! The anchor: a task that shares a process's memory and never runs its code.
//!
//! Layer: above `inject`, `procfs` and `sys`. It makes anchors and ends them; it knows nothing of
//! address spaces. Inside the folder, lowest first: `identify` and `denial`; `select`, which
//! chooses the thread to stop; `make`, which has it make the anchor; `tracer_process`, which runs
//! `make` and survives our death; `tracer_thread`, which traces all anchors; `handle`, an anchor's
//! owner.
//!
//! # Why it is sound
//!
//! `process_vm_readv` and `process_vm_writev` take a task's number and access the memory that the
//! task has at that moment. An anchor has the same memory for ever, and the number belongs to the
//! anchor as long as it is in use:
//!
//! - *It never execs.* It is in a ptrace stop from its first moment. It only runs the few calls
//!   that isolate it; the last of them puts it under strict seccomp, which has no exec. An exec
//!   before that would show as a stop of its own kind, and the attach fails.
//! - *Its number is not reused.* A traced task that dies stays a zombie until its tracer reaps it.
//!   The tracer is the tracer thread, which takes the anchor over from the tracer process and sees
//!   by a pidfd that it is the right task. It reaps an anchor only after the last [`Anchor`] handle
//!   has been dropped. (What a program must not do meanwhile: see [the crate's head](crate).)
//! - *It is not left behind.* PTRACE_O_EXITKILL kills it when our process ends in any way.
//! - *It belongs to the space that was meant.* A thread of the process makes it by a clone with
//!   CLONE_VM. That thread is stopped and identified by an open `/proc` directory, so its number
//!   cannot be another task's.
//!
//! Rejected:
//!
//! - A check by number before each call. An exec between check and call is missed; the
//!   `sva_naive_check` build shows it.
//! - `/proc/PID/mem`. It belongs to the space, but writes read-only pages and reads PROT_NONE ones.
//! - A thread as anchor. The process's exec and exit would wait until we reap it.
//! - A direct child as anchor. The process's own `wait` calls with `__WALL` would see it, and its
//!   death would leave a zombie with the process.
//!
//! # How it is made
//!
//! A thread T of the process is stopped. In its name an intermediate task I is cloned, and in the
//! name of I the anchor A. I is killed and T reaps it; its exit signal is 0, so nobody is notified.
//! A is then an orphan, and the init of the process's pid namespace becomes its parent. T gets its
//! registers and signal mask back and continues. Only then A gives up what else it shares with the
//! process: session, working directory, descriptors. Nothing is ever mapped or written in the
//! process: the strings and instructions that the calls need are found in it.
//!
//! Clone flags that are *not* set: CLONE_FS (setns, chroot and privileged exec in the process would
//! be affected), CLONE_SIGHAND and CLONE_THREAD (see above), CLONE_PARENT (inherits the exit
//! signal, so the process's parent would be notified). CLONE_FILES is set, and A undoes it later: a
//! copy of the descriptor table would keep the process's pipes and sockets open for as long as A
//! lives.
//!
//! # What the process could notice
//!
//! - One stop of T, typically 200 to 400 us
//!   ([`HostSpace::stop_time`](crate::HostSpace::stop_time)). For calls in progress see
//!   `inject::restart`. A thread that was *running* when it was chosen may be in a call that moves
//!   bytes when it stops. If that call sleeps at that very moment, its count is short, as after a
//!   signal.
//! - A thread of the process that waits with `__WALL` for any child in these microseconds can see
//!   I, and may reap it.
//! - While attached: one more task of the user (RLIMIT_NPROC) in the process's cgroup. `ps` shows
//!   it in state `t` under the process's command name. After the last task has left, the memory is
//!   freed when the monitor has noticed, some 20 ms later.
//! - Our death while T is stopped: nothing, because the tracer of that moment is a process of its
//!   own that finishes the work. Where there is no such process (Yama), T continues with registers
//!   that are not its own. That time is kept short: whatever can be is prepared before or done
//!   after.

mod denial;
mod handle;
mod identify;
mod make;
mod select;
mod tracer_process;
mod tracer_thread;

pub(crate) use handle::Anchor;
pub(crate) use identify::is_anchor;
pub(crate) use select::TargetProcess;
pub(crate) use tracer_thread::TracerThread;
