//! `pillion launch`: what the service manager starts. Chooses what runs, and lets it run in its own
//! place; only a release on trial is a child.

use super::slots::Slots;
use super::state::{Choice, State, Trial};
use super::trial::{self, Outcome, Start};
use super::{FORMAT_MAX, NOTE, NOTE_HERE, judge::Limits, say};
use crate::version::Version;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// What the caller does after [`launch`].
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on in this process: the base is what runs.
    Here,
    /// End with this exit code.
    Exit(u8),
}

/// Starts what is confirmed, or tries what is on trial. Returns unless another binary has taken
/// this process's place. Nothing that is wrong with the slots keeps the base from starting.
pub fn launch(data_dir: Option<&Path>, arguments: &[OsString]) -> Next {
    let Some(slots) = data_dir.map(Slots::of).filter(Slots::exist) else { return Next::Here };
    let (mut state, wrong) = slots.read();
    if let Some(wrong) = wrong {
        say(format_args!("{wrong}"));
    }
    if state.trial.is_some()
        && let Some(code) = try_release(&slots, &mut state, arguments)
    {
        return Next::Exit(code);
    }
    start(&slots, &state, arguments)
}

/// Starts what is confirmed in place of this process.
fn start(slots: &Slots<'_>, state: &State, arguments: &[OsString]) -> Next {
    let choice = choose(slots, state);
    // Who serves for long after a roll-back says so in its log and metadata.
    let note = state.last.as_deref().filter(|last| last.contains(ROLLED_BACK)).unwrap_or_default();
    let Choice::Slot(release) = choice else {
        let _ = NOTE_HERE.set(note.to_owned());
        return Next::Here;
    };
    let mut command = Command::new(slots.binary(release.slot));
    command.args(arguments).env_remove(FORMAT_MAX).env(NOTE, note);
    let error = command.exec();
    // An exec that failed has made broken pipes deadly again, as programs expect them to be.
    // SAFETY: this sets how one signal is treated to what it was when the process began.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    say(format_args!(
        "{} cannot be started: {error}: the package's release starts",
        release.version
    ));
    Next::Here
}

/// What runs when nothing is tried: what is confirmed if it is newer than the base and as it was
/// written, else what was confirmed before, else the base.
fn choose(slots: &Slots<'_>, state: &State) -> Choice {
    let format = slots.data_format().unwrap_or(1);
    let known = [Some(&state.confirmed), state.previous.as_ref()];
    for (choice, is_confirmed) in known.into_iter().flatten().zip([true, false]) {
        // A package that is newer than the slots has overtaken them.
        let Some(release) = choice.release().filter(|it| it.version > Version::here()) else {
            if is_confirmed {
                break;
            }
            continue;
        };
        if !is_confirmed && !release.formats.keep(format) {
            continue;
        }
        match slots.check(release) {
            Ok(()) => return *choice,
            Err(wrong) => say(format_args!("{wrong}: another release starts")),
        }
    }
    Choice::Base
}

/// Tries what is on trial. `None`: it is not, or no longer; `state` says why, and what is confirmed
/// is to be started.
fn try_release(slots: &Slots<'_>, state: &mut State, arguments: &[OsString]) -> Option<u8> {
    let lock = match slots.lock() {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            say(format_args!("an update is being written: it is tried at the next start"));
            return None;
        }
        Err(error) => {
            say(format_args!("the update is not tried now: {error}"));
            return None;
        }
    };
    // It may have changed before the lock was ours.
    (*state, _) = slots.read();
    let trial = state.trial.as_mut()?;
    if let Err(reason) = may_start(slots, trial) {
        roll_back(slots, state, &reason);
        return None;
    }
    trial.attempts -= 1;
    let trial = *trial;
    // What cannot be counted is not tried: it could be tried for ever.
    if let Err(error) = slots.write(state) {
        say(format_args!("the update is not tried now, its start cannot be written down: {error}"));
        return None;
    }
    let outgoing = choose(slots, state);
    let version = trial.release.version;
    let left = trial.attempts;
    say(format_args!("{version} is started on trial in place of {}", outgoing.version()));
    let start = Start {
        binary: slots.binary(trial.release.slot),
        arguments,
        socket: trial::socket_in(&slots.dir()),
        limits: Limits { ready: trial.ready, probation: trial.probation },
        format_max: outgoing.formats().max,
        note: format!("{version} on trial, {left} more starts: see pillion update --status"),
    };
    let mut lock = Some(lock);
    let outcome = trial::run(&start, || confirm(slots, state, &trial, &outgoing, &mut lock));
    match outcome {
        Outcome::Failed(reason) => {
            roll_back(slots, state, &reason);
            None
        }
        Outcome::Stopped { code, counts } => {
            if !counts {
                excuse(slots, state);
            }
            Some(code)
        }
        Outcome::Left(code) => Some(code),
    }
}

/// Whether the trial goes on with this start; the error says why it has failed.
fn may_start(slots: &Slots<'_>, trial: &Trial) -> Result<(), String> {
    let base = Version::here();
    if trial.release.version <= base {
        return Err(format!("the package's own release {base} is not older"));
    }
    if trial.attempts == 0 {
        return Err("none of its starts lasted until it was confirmed".into());
    }
    let format = slots.data_format().map_err(|error| error.to_string())?;
    if !trial.release.formats.keep(format) {
        return Err(format!("the data directory is in storage format {format} by now"));
    }
    slots.check(&trial.release)
}

/// The release on trial becomes what runs from now on. Lets go of the lock: the next update may
/// come.
fn confirm(
    slots: &Slots<'_>,
    state: &mut State,
    trial: &Trial,
    outgoing: &Choice,
    lock: &mut Option<File>,
) -> std::io::Result<()> {
    let version = &trial.release.version;
    let mut confirmed = state.clone();
    confirmed.previous = Some(*outgoing);
    confirmed.confirmed = Choice::Slot(trial.release);
    confirmed.trial = None;
    confirmed.note(&format!("{version} was confirmed in place of {}", outgoing.version()));
    slots.write(&mut confirmed)?;
    *state = confirmed;
    drop(lock.take());
    say(format_args!("{version} is confirmed"));
    Ok(())
}

/// How the note of a roll-back is recognised.
const ROLLED_BACK: &str = " was rolled back: ";

/// Ends the trial. Where that cannot be written down, the next start tries again what starts are
/// left.
fn roll_back(slots: &Slots<'_>, state: &mut State, reason: &str) {
    let Some(trial) = state.trial.take() else { return };
    let version = &trial.release.version;
    let text = format!("{version}{ROLLED_BACK}{reason}");
    say(format_args!("{text}"));
    state.note(&text);
    if let Err(error) = slots.write(state) {
        say(format_args!("the roll-back cannot be written down: {error}"));
    }
}

/// A stop that somebody asked for gives the start back, for a bounded number of times.
fn excuse(slots: &Slots<'_>, state: &mut State) {
    let Some(trial) = state.trial.as_mut().filter(|trial| trial.stops > 0) else { return };
    trial.stops -= 1;
    trial.attempts += 1;
    if let Err(error) = slots.write(state) {
        say(format_args!("this stop counts as a failed start, it cannot be written down: {error}"));
    }
}
