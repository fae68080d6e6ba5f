//! Attaching a process: from a task's number to its [`HostSpace`].

use std::cmp::Ordering;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use sva_sync::Mutex;

use super::monitor;
use super::registry::Registry;
use crate::error::AttachError;
use crate::linux::anchor::{Anchor, TargetProcess, TracerThread};
use crate::linux::inject::SyscallSite;
use crate::linux::procfs;
use crate::linux::space::{Context, HostSpace};
use crate::linux::sys::{self, Tid, gettid};

static PROVIDER: OnceLock<io::Result<Provider>> = OnceLock::new();

/// The provider of this program: its tracer thread, its monitor and its spaces.
#[derive(Debug)]
pub(crate) struct Provider {
    context: Arc<Context>,
    tracer: TracerThread,
    registry: Arc<Registry>,
    /// Held over an attach.
    attaching: Mutex<()>,
}

impl Provider {
    /// The provider of this process, started on first use. A start that failed is not repeated.
    pub(crate) fn get() -> Result<&'static Self, AttachError> {
        match PROVIDER.get_or_init(Self::start) {
            Ok(provider) if provider.context.mark.is_set() => Ok(provider),
            Ok(_) => Err(AttachError::Forked),
            Err(error) => {
                let again = error
                    .raw_os_error()
                    .map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
                Err(AttachError::host("start of the tracer thread")(again))
            }
        }
    }

    fn start() -> io::Result<Self> {
        let (context, registry) = (Arc::new(Context::new()?), Arc::new(Registry::default()));
        let tracer = TracerThread::start()?;
        let (its_registry, its_context) = (Arc::clone(&registry), Arc::clone(&context));
        thread::Builder::new()
            .name("sva-monitor".into())
            .spawn(move || monitor::run(&its_registry, &its_context))?;
        Ok(Self { context, tracer, registry, attaching: Mutex::default() })
    }

    /// The space of task `pid`: a known one, or one that is attached now. If the process replaces
    /// its image meanwhile, it is tried again.
    pub(crate) fn attach(&self, pid: Tid) -> Result<Arc<HostSpace>, AttachError> {
        const ATTEMPTS: u32 = 4;
        const LIMIT: Duration = Duration::from_secs(1);
        let (mut attempt, begin) = (1, Instant::now());
        loop {
            match self.attach_once(pid) {
                Err(
                    AttachError::Gone { .. }
                    | AttachError::NoSyscallInstruction { .. }
                    | AttachError::Busy { .. },
                ) if attempt < ATTEMPTS => attempt += 1,
                // Our own tracer traces it for the attach of another thread. The next attempt finds
                // that one's space.
                Err(AttachError::AlreadyTraced { tracer, .. })
                    if is_own_task(tracer) && begin.elapsed() < LIMIT => {}
                result => return result,
            }
        }
    }

    fn attach_once(&self, pid: Tid) -> Result<Arc<HostSpace>, AttachError> {
        if matches!(sys::compare_spaces(gettid(), pid), Ok(Ordering::Equal)) {
            return Ok(self.registry.own(|| HostSpace::own(Arc::clone(&self.context))));
        }
        let process = TargetProcess::inspect(pid)?;
        if let Ok(Some(space)) = self.registry.find(process.living_thread) {
            return Ok(space);
        }
        let target = process.choose_thread(pid)?;
        // The process decides how long a read of its memory takes. So this is done with no lock
        // held, and not on the tracer thread.
        let site = SyscallSite::find(target.tid)
            .ok_or(AttachError::NoSyscallInstruction { pid: pid as u32 })?;
        let _one_at_a_time = self.attaching.lock();
        // The choice may have become stale meanwhile.
        target.check_again()?;
        if let Ok(Some(space)) = self.registry.find(target.tid) {
            return Ok(space);
        }
        let member = (target.tid, target.tgid);
        let (anchor, stop_time) = Anchor::make(pid, target, site, &self.tracer, self.context.mark)?;
        let tid = anchor.tid();
        let context = Arc::clone(&self.context);
        let space = Arc::new(HostSpace::foreign(context, anchor, stop_time, member));
        match self.registry.insert(&space, tid) {
            Ok(Some(earlier)) => Ok(earlier),
            Ok(None) => {
                self.context.monitor.request();
                Ok(space)
            }
            Err(source) => Err(AttachError::host("kcmp")(source)),
        }
    }
}

/// Whether a task is a thread or a child of our process.
fn is_own_task(task: u32) -> bool {
    let is_thread = || std::path::Path::new(&format!("/proc/self/task/{task}")).exists();
    is_thread()
        || procfs::parent(task as Tid).is_ok_and(|parent| parent == std::process::id() as Tid)
}
