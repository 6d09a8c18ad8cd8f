//! What the process tells about itself: metrics, traces, logs.

pub mod log;
pub mod metrics;
pub mod trace;
