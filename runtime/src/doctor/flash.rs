//! Wear of the flash under the data directory: what the device says of itself, and how much is
//! written to it a day.

use super::scene::Scene;
use super::service::time;
use super::system::{Root, read};
use super::{Findings, Level, bytes, data};
use std::path::Path;
use std::sync::Arc;

const SECTOR_BYTES: u64 = 512;
const DAY_S: u64 = 86_400;

/// Shorter watches say nothing of a day.
const WATCH_MIN_S: u64 = 3_600;

/// What flash may bear a day, as a part of its size, if `spec.flash.bytesPerDay` does not say.
/// Cells of common eMMC (MLC, TLC in a pseudo-MLC mode) are good for 3,000 erasures. Small synced
/// writes make a cheap controller program about three times their bytes, which leaves 1,000 times
/// the size for what we write. Over five years, 1,826 days, that is 0.55 of the size a day: half.
/// It is 4 GB a day for 8 GB.
const SIZE_PER_BUDGET: u64 = 2;

/// The budget where the size is not known: that of 8 GB.
const BUDGET: u64 = 4_000_000_000;

/// Values of `life_time`: n stands for up to n·10 % of the device's life, 11 for more.
const LIFE_WARN: u64 = 9;
const LIFE_OVER: u64 = 11;

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let root = &scene.root;
    let Some((mount, disk)) = scene.data_dir.as_deref().and_then(|dir| data::disk(root, dir))
    else {
        return out.skip(&"device", &"the data directory's cannot be seen");
    };
    let mut budget = BUDGET;
    if let Some(disk) = &disk {
        let number = |name: &str| read(&disk.join(name)).and_then(|text| text.parse::<u64>().ok());
        let size = number("size").unwrap_or_default().saturating_mul(SECTOR_BYTES);
        if size > 0 {
            budget = size / SIZE_PER_BUDGET;
        }
        device(disk, size, out);
        if number("queue/rotational") == Some(1) {
            // A disk that turns, or that of a virtual machine.
            return out.skip(&"wear", &"it says that it is no flash");
        }
        wear(disk, out);
    } else if mount.source.starts_with("ubi") {
        raw_nand(root, mount.source.split([':', '_']).next().unwrap_or_default(), out);
    } else {
        let text = format_args!("{} has no block device: its wear cannot be seen", mount.kind);
        out.skip(&"device", &text);
    }
    budget = scene.plan.gateway.flash.bytes_per_day.unwrap_or(budget);
    let written = scene.metric("pillion_storage_written_bytes_total");
    let running_s = scene.running.as_ref().and_then(|running| running.uptime_s);
    if let (Some(written), Some(seconds)) = (written, running_s) {
        rate("written by pillion", written, seconds, budget, out);
    }
    let stat = disk.as_deref().and_then(|disk| read(&disk.join("stat")));
    let sectors = stat.as_deref().and_then(sectors_written);
    if let (Some(sectors), Some(seconds)) = (sectors, root.uptime_s()) {
        let written = sectors.saturating_mul(SECTOR_BYTES);
        rate("written by all programs", written, seconds, budget, out);
    }
}

/// What it is.
fn device(disk: &Path, size: u64, out: &mut Findings) {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("{name}, {}", bytes(size));
    for file in ["device/type", "device/name", "device/model"] {
        if let Some(word) = read(&disk.join(file)) {
            text.push(' ');
            text.push_str(&word);
        }
    }
    out.ok(&"device", &text);
}

/// What an eMMC says of its wear; nothing else tells it without a command.
fn wear(disk: &Path, out: &mut Findings) {
    let name = &"wear";
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let file = |file: &str| read(&disk.join("device").join(file));
    let Some(text) = file("life_time") else {
        if file("type").is_some_and(|kind| kind == "SD") {
            out.skip(name, &"an SD card does not tell");
        }
        return;
    };
    let life = text.split_whitespace().filter_map(hex).max().unwrap_or_default();
    // Spare blocks: 1 is normal, 2 is 80 % used, 3 is 90 % used.
    let spare = file("pre_eol_info").as_deref().and_then(hex).unwrap_or_default();
    let mut text = match life {
        0 => "not told".to_owned(),
        LIFE_OVER.. => "over its life".to_owned(),
        _ => format!("{} to {} % of its life used", (life - 1) * 10, life * 10),
    };
    text.push_str(match spare {
        2 => ", 80 % of its spare blocks",
        3 => ", 90 % of its spare blocks",
        _ => "",
    });
    let (level, advice) = if life >= LIFE_OVER || spare == 3 {
        (Level::Fail, "replace the device: it may turn read-only at any time")
    } else if life >= LIFE_WARN || spare == 2 {
        (Level::Warn, "plan to replace the device; write less (see below)")
    } else if life == 0 {
        (Level::Skip, "")
    } else {
        (Level::Ok, "")
    };
    out.add(level, name, &text, &advice);
}

/// Raw NAND under UBI: erasures of its most worn block.
fn raw_nand(root: &Root, ubi: &str, out: &mut Findings) {
    let name = &"wear";
    let number = |file: &str| root.number(&format!("sys/class/ubi/{ubi}/{file}"));
    let Some(erasures) = number("max_ec") else {
        return out.skip(name, &format_args!("{ubi} does not tell"));
    };
    let bad = number("bad_peb_count").unwrap_or_default();
    let text = format_args!("{ubi}: its most worn block was erased {erasures} times, {bad} bad");
    out.ok(name, &text);
}

/// The seventh number of `stat`.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// Bytes of a watch as bytes a day, against the budget.
pub(super) fn rate(name: &str, written: u64, seconds: u64, budget: u64, out: &mut Findings) {
    let during = format!("{} in {}", bytes(written), time(seconds));
    if seconds < WATCH_MIN_S {
        return out.skip(&name, &format_args!("{during}: too early to tell of a day"));
    }
    let a_day = u128::from(written) * u128::from(DAY_S) / u128::from(seconds);
    let a_day = u64::try_from(a_day).unwrap_or(u64::MAX);
    let percent = u128::from(a_day) * 100 / u128::from(budget.max(1));
    let (a_day_shown, budget_shown) = (bytes(a_day), bytes(budget));
    let text =
        format_args!("{a_day_shown} a day, {percent} % of the budget of {budget_shown} ({during})");
    if a_day > budget {
        let advice = "write less: commitLingerMs, durability eventual, fewer retained messages, \
                      logs in memory; or raise spec.flash.bytesPerDay if the flash can bear it";
        out.warn(&name, &text, &advice);
    } else {
        out.ok(&name, &text);
    }
}
