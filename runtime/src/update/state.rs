//! What is confirmed and what is tried, as text.
//!
//! ```text
//! pillion-slots/1
//! generation 7
//! confirmed a 0.2.0 1-2 4f0c…
//! previous base
//! trial b 0.3.0 1-2 99ab… attempts 3 stops 5 ready 60000 probation 60000
//! last 2026-01-31T23:59:59.999Z 0.3.0 was rolled back: …
//! check 1d5e…
//! ```
//!
//! A slot stands with its release: version, storage formats, SHA-256 of the binary. `attempts` are
//! starts left, `stops` are stops on request left that give a start back, times are in
//! milliseconds, `check` is the SHA-256 of all lines above it. `previous`, `trial` and `last` may be
//! missing; lines that are not known are passed over.

use super::hex;
use super::image::Sha256;
use crate::version::Version;
use pillion_components::storage::Formats;
use ring::digest::{SHA256, digest};
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Largest state in bytes: a few lines, and one for people.
pub(super) const STATE_BYTES_MAX: usize = 4 << 10;

/// Most bytes of [`State::last`].
const LAST_BYTES_MAX: usize = 1 << 10;

const MAGIC: &str = "pillion-slots/1";

/// One of the two places beside the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    A,
    B,
}

impl Slot {
    pub(super) fn other(self) -> Self {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }
}

/// A binary in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Release {
    pub(super) slot: Slot,
    pub(super) version: Version,
    pub(super) formats: Formats,
    pub(super) sha256: Sha256,
}

/// What can be started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Choice {
    /// The binary of the package: this one.
    Base,
    Slot(Release),
}

impl Choice {
    pub(super) fn release(&self) -> Option<&Release> {
        match self {
            Choice::Base => None,
            Choice::Slot(release) => Some(release),
        }
    }

    pub(super) fn version(&self) -> Version {
        self.release().map_or_else(Version::here, |release| release.version)
    }

    pub(super) fn formats(&self) -> Formats {
        self.release().map_or_else(Formats::here, |release| release.formats)
    }
}

/// A release that is not confirmed yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trial {
    pub(super) release: Release,
    pub(super) attempts: u32,
    pub(super) stops: u32,
    pub(super) ready: Duration,
    pub(super) probation: Duration,
}

/// Everything that is remembered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// Grows with every change.
    pub(super) generation: u64,
    pub(super) confirmed: Choice,
    /// What was confirmed before.
    pub(super) previous: Option<Choice>,
    pub(super) trial: Option<Trial>,
    /// The last decision, for people.
    pub(super) last: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self { generation: 0, confirmed: Choice::Base, previous: None, trial: None, last: None }
    }
}

impl State {
    /// Notes a decision, with the time of the wall clock.
    pub(super) fn note(&mut self, text: &str) {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ms = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let mut line = format!("{} {text}", pillion_components::env::rfc3339_utc(ms));
        while line.len() > LAST_BYTES_MAX {
            line.pop();
        }
        self.last = Some(line.replace(char::is_control, " "));
    }

    /// Whether a slot's binary may be started some day.
    pub(super) fn names(&self, slot: Slot) -> bool {
        let of = |choice: &Choice| choice.release().is_some_and(|release| release.slot == slot);
        of(&self.confirmed)
            || self.previous.as_ref().is_some_and(of)
            || self.trial.as_ref().is_some_and(|trial| trial.release.slot == slot)
    }

    pub(super) fn write(&self) -> String {
        let mut text = format!("{MAGIC}\ngeneration {}\n", self.generation);
        let _ = writeln!(text, "confirmed {}", self.confirmed);
        if let Some(previous) = &self.previous {
            let _ = writeln!(text, "previous {previous}");
        }
        if let Some(trial) = &self.trial {
            let Trial { release, attempts, stops, ready, probation } = trial;
            let (ready, probation) = (ready.as_millis(), probation.as_millis());
            let _ = writeln!(
                text,
                "trial {release} attempts {attempts} stops {stops} ready {ready} probation {probation}"
            );
        }
        if let Some(last) = &self.last {
            let _ = writeln!(text, "last {last}");
        }
        let check = hex::write(digest(&SHA256, text.as_bytes()).as_ref());
        let _ = writeln!(text, "check {check}");
        text
    }

    /// Reads what [`State::write`] wrote; `None` for anything else.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (body, check) = text.rsplit_once("check ")?;
        let check: Sha256 = hex::parse(check.strip_suffix('\n')?)?;
        if digest(&SHA256, body.as_bytes()).as_ref() != check || !body.starts_with(MAGIC) {
            return None;
        }
        let mut state = Self::default();
        for line in body.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "generation" => state.generation = value.parse().ok()?,
                "confirmed" => state.confirmed = read_choice(value)?,
                "previous" => state.previous = Some(read_choice(value)?),
                "trial" => state.trial = Some(read_trial(value)?),
                "last" => state.last = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(state)
    }
}

#[inline(never)]
fn read_choice(text: &str) -> Option<Choice> {
    if text == "base" {
        return Some(Choice::Base);
    }
    read_release(&mut text.split(' ')).map(Choice::Slot)
}

#[inline(never)]
fn read_release(words: &mut std::str::Split<'_, char>) -> Option<Release> {
    let slot = match words.next()? {
        "a" => Slot::A,
        "b" => Slot::B,
        _ => return None,
    };
    let version = Version::parse(words.next()?)?;
    let formats = Formats::parse(words.next()?)?;
    Some(Release { slot, version, formats, sha256: hex::parse(words.next()?)? })
}

fn read_trial(text: &str) -> Option<Trial> {
    let mut words = text.split(' ');
    let release = read_release(&mut words)?;
    let mut number = |name: &str| {
        words.next().filter(|word| *word == name)?;
        words.next()?.parse::<u64>().ok()
    };
    Some(Trial {
        release,
        attempts: u32::try_from(number("attempts")?).ok()?,
        stops: u32::try_from(number("stops")?).ok()?,
        ready: Duration::from_millis(number("ready")?),
        probation: Duration::from_millis(number("probation")?),
    })
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, version, formats, sha256 } = self;
        write!(f, "{} {version} {formats} {}", slot.name(), hex::write(sha256))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Base => f.write_str("base"),
            Choice::Slot(release) => release.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let release = |slot, version| Release {
            slot,
            version: Version::parse(version).expect("a version"),
            formats: Formats { min: 1, max: 2 },
            sha256: [0xa5; 32],
        };
        let mut state = State {
            generation: 7,
            confirmed: Choice::Slot(release(Slot::A, "0.2.0")),
            previous: Some(Choice::Base),
            trial: Some(Trial {
                release: release(Slot::B, "0.3.0-rc.1+x"),
                attempts: 3,
                stops: 5,
                ready: Duration::from_secs(60),
                probation: Duration::from_millis(1500),
            }),
            last: None,
        };
        state.note("0.2.0 was\nconfirmed: check ");
        state
    }

    #[test]
    fn what_is_written_is_read() {
        for state in [State::default(), state()] {
            let text = state.write();
            assert_eq!(State::read(&text), Some(state), "{text}");
            assert!(text.len() < STATE_BYTES_MAX);
        }
        let mut long = State::default();
        long.note(&"\u{e9}".repeat(2 * LAST_BYTES_MAX));
        assert!(long.write().len() < STATE_BYTES_MAX);
        assert_eq!(State::read(&long.write()), Some(long));
    }

    /// Every byte counts: a state that rotted or was torn is none.
    #[test]
    fn anything_else_is_no_state() {
        let text = state().write();
        for cut in 0..text.len() {
            assert_eq!(State::read(&text[..cut]), None, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert_eq!(State::read(&changed), None, "changed at {at}");
        }
    }
}
