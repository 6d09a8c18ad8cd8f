//! The few system calls that the standard library has no word for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

/// CPU time of another process over all its threads, those that ended included.
pub(crate) fn cpu_of(pid: u32) -> io::Result<Duration> {
    // How Linux encodes "the CPU clock of process `pid`" as a clock id: see clock_getcpuclockid(3).
    const SCHEDULER_CLOCK: i32 = 2;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let clock = (!pid << 3) | SCHEDULER_CLOCK;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration_of(time))
}

fn duration_of(time: libc::timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Number of CPUs this process could use when it started.
pub(crate) fn cpus() -> usize {
    static AT_START: OnceLock<usize> = OnceLock::new();
    *AT_START.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Keeps this thread, with threads and processes it starts later, on these CPUs. Makes no more
/// than one system call, so it may stand between fork and exec.
pub(crate) fn pin(cpus: std::ops::Range<usize>) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: `set` is valid; the macro checks `cpu` against its size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is valid for reads of the size given.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets this thread's timeouts end when they are due instead of up to 50 µs later.
pub(crate) fn precise_timers() {
    // SAFETY: takes no pointers; a failure only leaves the slack as it is.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize) };
}

/// Waits until one of the sockets can be read, or until the time is up. Which ones can be read is
/// told in `ready`, in the order of `fds`.
pub(crate) struct Poll {
    fds: Vec<libc::pollfd>,
}

impl Poll {
    pub(crate) fn new<'a, S: AsRawFd + 'a>(sockets: impl IntoIterator<Item = &'a S>) -> Self {
        let one = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        Self { fds: sockets.into_iter().map(|socket| one(socket.as_raw_fd())).collect() }
    }

    /// Indices of the sockets that can be read.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<impl Iterator<Item = usize> + '_> {
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(limit.subsec_nanos()),
        };
        let count = libc::nfds_t::try_from(self.fds.len()).map_err(io::Error::other)?;
        // SAFETY: `fds` is valid for reads and writes of `count` elements, `limit` for reads.
        let ready = unsafe { libc::ppoll(self.fds.as_mut_ptr(), count, &limit, std::ptr::null()) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            self.fds.iter_mut().for_each(|fd| fd.revents = 0);
        }
        Ok(self.fds.iter().enumerate().filter(|(_, fd)| fd.revents != 0).map(|(index, _)| index))
    }
}

/// Asks a process to end as an operator would.
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: takes no pointers; the process is a child that was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}
