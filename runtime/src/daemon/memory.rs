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
    /// Trims after memory last changed: what is freed later, as idle connections are, shows only
    /// when it is given back. Each takes some hundred microseconds.
    const TRIMS: u32 = 3;

    let mut known = process::resident_bytes();
    let mut trims = 0;
    loop {
        tokio::select! {
            () = drain.started() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if process::resident_bytes() != known {
            trims = TRIMS;
        }
        if trims > 0 {
            trims -= 1;
            // SAFETY: malloc_trim may be called at any time; it only releases free pages.
            unsafe { libc::malloc_trim(0) };
            known = process::resident_bytes();
        }
    }
}
