//! The clock: set, kept, synchronised.

use super::Findings;
use super::data::newest_write_s;
use super::scene::Scene;
use pillion_components::env::rfc3339_utc;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

/// When this file was written, 2026-01-01: no clock that is set says less.
const WRITTEN_S: i64 = 1_767_225_600;

/// How far the clock may be behind the newest file, or off the clock chip, without a remark.
const OFF_MAX_S: i64 = 3_600;

/// `STA_UNSYNC` of adjtimex(2).
const UNSYNCHRONISED: libc::c_int = 0x40;

const SET: &str = "set it: let NTP run (systemd-timesyncd, chrony), or fit a clock chip; until then \
                   times to live count from the start";

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let now = scene.now_s;
    let shown = date(now);
    let written = scene.data_dir.as_deref().and_then(newest_write_s).unwrap_or_default();
    if !is_plausible(now) {
        out.fail(&"time", &format_args!("{shown}: is before this program was built"), &SET);
    } else if now + OFF_MAX_S < written {
        let written = date(written);
        out.fail(&"time", &format_args!("{shown}: the data was last written at {written}"), &SET);
    } else {
        out.ok(&"time", &shown);
    }
    let chip = scene.root.read("sys/class/rtc/rtc0/since_epoch");
    match chip.and_then(|text| text.parse::<i64>().ok()) {
        None => {
            let text = "none: after a power cut the time is wrong until NTP has set it";
            out.ok(&"clock chip", &text);
        }
        Some(chip) if chip.abs_diff(now) > OFF_MAX_S.unsigned_abs() => {
            let advice = "hwclock --systohc; is its battery empty?";
            let chip = date(chip);
            out.warn(&"clock chip", &format_args!("it says {chip}"), &advice);
        }
        Some(_) => out.ok(&"clock chip", &"agrees"),
    }
    match is_synchronised() {
        Some(true) => out.ok(&"NTP", &"synchronised"),
        Some(false) => {
            let advice = "timedatectl, chronyc tracking or ntpd: can its server be reached?";
            out.warn(&"NTP", &"not synchronised", &advice);
        }
        None => out.skip(&"NTP", &"the kernel does not tell"),
    }
}

/// Whether a clock can be right.
pub(super) fn is_plausible(now_s: i64) -> bool {
    let program = std::env::current_exe().and_then(std::fs::metadata);
    // Packages keep the time at which a program was built.
    now_s >= program.map_or(WRITTEN_S, |program| program.mtime().max(WRITTEN_S))
}

fn is_synchronised() -> Option<bool> {
    // SAFETY: all zeros is a valid timex, and asks for no change.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer names a live timex.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(state.status & UNSYNCHRONISED == 0)
}

/// The day and time of a second, for people.
pub(super) fn date(seconds: i64) -> String {
    let text = rfc3339_utc(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000));
    text.get(..16).map_or(text.clone(), |start| format!("{} UTC", start.replace('T', " ")))
}
