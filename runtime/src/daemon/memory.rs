//! Giving memory back after a burst.
//!
//! glibc keeps freed pages below the top of its heap, so a process that was busy once stays large
//! for good: 17 MB after the whole load of the benchmarks, and no less an hour later. On a gateway
//! that memory belongs to the apps. musl gives its pages back by itself.

use crate::drain::Drain;

/// Runs until the process drains.
#[cfg(not(target_env = "gnu"))]
pub(super) async fn give_back(mut drain: Drain) {
    drain.started().await;
}

/// Runs until the process drains.
#[cfg(target_env = "gnu")]
pub(super) async fn give_back(mut drain: Drain) {
    use crate::observe::metrics::process;
    use std::time::Duration;

    /// A look costs one read from `/proc`.
    const PERIOD: Duration = Duration::from_secs(20);
    /// Growth since the last time that is worth a trim, which takes some hundred microseconds.
    const GROWTH_BYTES: u64 = 1 << 20;

    let resident = || process::resident_bytes().unwrap_or(0);
    let mut kept = resident();
    loop {
        tokio::select! {
            () = drain.started() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if resident() > kept.saturating_add(GROWTH_BYTES) {
            // SAFETY: malloc_trim may be called at any time; it only releases free pages.
            unsafe { libc::malloc_trim(0) };
            kept = resident();
        }
    }
}
