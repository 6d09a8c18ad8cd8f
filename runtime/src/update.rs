//! Updates that cannot leave a gateway without a working Pillion.
//!
//! The binary of the package is the base. A release that comes as an [`image`] goes into one of two
//! slots beside it, is tried, and is confirmed only after it has worked for a while:
//!
//! ```text
//!   pillion update IMAGE      checks the image, writes the slot that is not confirmed, marks a trial
//!   (the service restarts)
//!   pillion launch serve DIR  the service: starts what is confirmed in its own place; on trial,
//!                             starts the slot as its child and watches it:
//!
//!     READY=1 in time, then alive and heard from for the probation  → confirmed
//!     ended, silent, not ready in time, started too often           → killed, and what was
//!                                                                     confirmed starts at once
//! ```
//!
//! Laws:
//! - what decides is the base, never the release on trial;
//! - a start of a trial is on the medium before it is made: a power cut at any step leaves a slot
//!   that is confirmed and untouched, and at most so many starts of one that is not;
//! - a slot that is confirmed is never written;
//! - a release on trial writes no storage format that its predecessor does not open
//!   ([`pillion_components::storage::Formats`]);
//! - without an update, or with whatever is wrong in the slots, the base starts.
//!
//! ```text
//!   DATA/slots/state, state-2       what is confirmed and tried; drawn in `state.rs`
//!   DATA/slots/a/pillion, b/pillion the binaries
//!   DATA/slots/lock                 held by who changes something of this, and during a trial
//! ```

mod hex;
mod image;
mod install;
mod judge;
mod keys;
mod launch;
mod slots;
mod smoke;
mod state;
mod text;
mod trial;

pub use install::{Action, Request, run};
pub use launch::{Next, launch};

use std::sync::OnceLock;

/// Tells a release on trial the newest storage format that its predecessor opens.
const FORMAT_MAX: &str = "PILLION_STORAGE_FORMAT_MAX";

/// Tells what is started about the last update, for its log and metadata.
const NOTE: &str = "PILLION_UPDATE_NOTE";

/// What the launcher would have put into [`NOTE`], where it goes on in the same process.
static NOTE_HERE: OnceLock<String> = OnceLock::new();

/// The newest storage format to write, if this process is on trial.
pub(crate) fn storage_format_max() -> Option<u32> {
    std::env::var(FORMAT_MAX).ok()?.parse().ok()
}

/// What the launcher has to say about the last update.
pub(crate) fn note() -> Option<String> {
    let note = NOTE_HERE.get().cloned().or_else(|| std::env::var(NOTE).ok());
    note.filter(|note| !note.is_empty())
}

/// A line of the launcher: it runs before there is a log, and a closed output is no reason to stop.
fn say(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "pillion launch: {text}");
}
