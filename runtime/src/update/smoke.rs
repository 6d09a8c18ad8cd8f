//! A first look at a new binary before it takes a slot: it runs on this processor and is what its
//! image says.

use super::image::Head;
use super::text;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time for `pillion version`; a slow gateway takes some tens of milliseconds.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Most bytes of its answer.
const ANSWER_BYTES_MAX: usize = 1 << 10;

/// Runs `BINARY version`. The error says what is wrong and what to do.
pub(super) fn check(binary: &Path, head: &Head) -> Result<(), String> {
    let mut command = Command::new(binary);
    command.arg("version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| {
        format!("cannot be started: {error}; is {} mounted noexec?", binary.display())
    })?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < TIMEOUT => std::thread::sleep(LOOK),
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let how = other.err().map_or("no answer".to_owned(), |error| error.to_string());
                return Err(format!("does not say its version: {how}"));
            }
        }
    };
    // One line, which the pipe holds by itself.
    let answer =
        child.stdout.take().and_then(|mut out| text::read(&mut out, ANSWER_BYTES_MAX).ok());
    let answer = answer.unwrap_or_default();
    if !status.success() {
        return Err(format!(
            "does not run on this machine ({status}): get the image for this processor"
        ));
    }
    let (version, formats) = (&head.version, head.formats);
    let is_it = answer.starts_with(&format!("pillion {version} "))
        && answer.contains(&format!("storage format {formats})"));
    if is_it {
        return Ok(());
    }
    let answer = text::shown(&answer);
    Err(format!("says '{answer}' of itself, and its image {version}, storage format {formats}"))
}
