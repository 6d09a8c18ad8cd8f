//! The `process_*` series that every Prometheus client has, read from `/proc` at each scrape.

use std::fmt::Write as _;
use std::fs;

/// Appends what the kernel tells about this process; what it does not tell is left out.
pub(super) fn write(out: &mut String) {
    let mut gauge = |name: &str, help: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    };
    let cpu = "Total user and system CPU time spent in seconds.";
    gauge("process_cpu_seconds_total", cpu, "counter", cpu_seconds());
    let memory = resident_bytes().map(|bytes| bytes as f64);
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", memory);
    let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    gauge("process_open_fds", "Number of open file descriptors.", "gauge", files);
}

/// Resident memory in bytes: the second number of `statm`, in pages.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: sysconf only reads a constant of the system.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// `utime` and `stime` of `stat`, in clock ticks; the name before them may hold blanks.
fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    let mut numbers = after_name.split_whitespace().skip(11);
    let mut next = || numbers.next()?.parse::<f64>().ok();
    let ticks = next()? + next()?;
    // SAFETY: sysconf only reads a constant of the system.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(ticks / ticks_per_second as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells_about_us() {
        let mut out = String::new();
        super::write(&mut out);
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds"] {
            assert!(out.contains(&format!("\nprocess_{name} ")), "{out}");
        }
    }
}
