//! Wear of the flash under the data directory: what the device says of itself, and how much is
//! written to it a day.

use super::scene::Scene;
use super::service::time;
use super::system::{Root, read};
use super::{Finding, bytes, data};
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

pub(super) fn check(scene: &Arc<Scene>) -> Vec<Finding> {
    let root = &scene.root;
    let Some((mount, disk)) = scene.data_dir.as_deref().and_then(|dir| data::disk(root, dir))
    else {
        return vec![Finding::skip("device", "the data directory's cannot be seen".into())];
    };
    let mut found = Vec::new();
    let mut budget = BUDGET;
    if let Some(disk) = &disk {
        let number = |name: &str| read(&disk.join(name)).and_then(|text| text.parse::<u64>().ok());
        let size = number("size").unwrap_or_default().saturating_mul(SECTOR_BYTES);
        if size > 0 {
            budget = size / SIZE_PER_BUDGET;
        }
        found.push(device(disk, size));
        if number("queue/rotational") == Some(1) {
            // A disk that turns, or that of a virtual machine.
            found.push(Finding::skip("wear", "it says that it is no flash".into()));
            return found;
        }
        found.extend(wear(disk));
    } else if let Some(ubi) = mount.source.split([':', '_']).next().filter(|s| s.starts_with("ubi"))
    {
        found.push(raw_nand(root, ubi));
    } else {
        let text = format!("{} has no block device: its wear cannot be seen", mount.kind);
        found.push(Finding::skip("device", text));
    }
    budget = scene.plan.gateway.flash.bytes_per_day.unwrap_or(budget);
    let written = scene.metric("pillion_storage_written_bytes_total");
    if let Some((written, seconds)) =
        written.zip(scene.running.as_ref().and_then(|running| running.uptime_s))
    {
        found.push(rate("written by pillion", written, seconds, budget));
    }
    let stat = disk.as_deref().and_then(|disk| read(&disk.join("stat")));
    if let Some((sectors, seconds)) = stat.as_deref().and_then(sectors_written).zip(root.uptime_s())
    {
        let name = "written by all programs";
        found.push(rate(name, sectors.saturating_mul(SECTOR_BYTES), seconds, budget));
    }
    found
}

/// What it is.
fn device(disk: &Path, size: u64) -> Finding {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let words = ["device/type", "device/name", "device/model"];
    let words: Vec<_> = words.iter().filter_map(|file| read(&disk.join(file))).collect();
    let text = format!("{name}, {} {}", bytes(size), words.join(" "));
    Finding::ok("device", text.trim_end().to_owned())
}

/// What an eMMC says of its wear; nothing else tells it without a command.
fn wear(disk: &Path) -> Option<Finding> {
    let name = "wear";
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let file = |file: &str| read(&disk.join("device").join(file));
    let life = file("life_time").map(|text| text.split_whitespace().filter_map(hex).max());
    let Some(life) = life else {
        let is_card = file("type").is_some_and(|kind| kind == "SD");
        return is_card.then(|| Finding::skip(name, "an SD card does not tell".into()));
    };
    // Spare blocks: 1 is normal, 2 is 80 % used, 3 is 90 % used.
    let spare = file("pre_eol_info").as_deref().and_then(hex).unwrap_or_default();
    let life = life.unwrap_or_default();
    let text = match life {
        0 => "not told".to_owned(),
        LIFE_OVER.. => "over its life".to_owned(),
        _ => format!("{} to {} % of its life used", (life - 1) * 10, life * 10),
    };
    let text = match spare {
        2 => format!("{text}, 80 % of its spare blocks"),
        3 => format!("{text}, 90 % of its spare blocks"),
        _ => text,
    };
    Some(if life >= LIFE_OVER || spare == 3 {
        let advice = "replace the device: it may turn read-only at any time";
        Finding::fail(name, text, advice)
    } else if life >= LIFE_WARN || spare == 2 {
        Finding::warn(name, text, "plan to replace the device; write less (see below)")
    } else if life == 0 {
        Finding::skip(name, text)
    } else {
        Finding::ok(name, text)
    })
}

/// Raw NAND under UBI: erasures of its most worn block.
fn raw_nand(root: &Root, ubi: &str) -> Finding {
    let name = "wear";
    let number = |file: &str| root.number(&format!("sys/class/ubi/{ubi}/{file}"));
    match number("max_ec") {
        Some(erasures) => {
            let bad = number("bad_peb_count").unwrap_or_default();
            let text = format!("{ubi}: its most worn block was erased {erasures} times, {bad} bad");
            Finding::ok(name, text)
        }
        None => Finding::skip(name, format!("{ubi} does not tell")),
    }
}

/// The seventh number of `stat`.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// Bytes of a watch as bytes a day, against the budget.
pub(super) fn rate(name: &str, written: u64, seconds: u64, budget: u64) -> Finding {
    let during = format!("{} in {}", bytes(written), time(seconds));
    if seconds < WATCH_MIN_S {
        return Finding::skip(name, format!("{during}: too early to tell of a day"));
    }
    let a_day = u128::from(written) * u128::from(DAY_S) / u128::from(seconds);
    let a_day = u64::try_from(a_day).unwrap_or(u64::MAX);
    let percent = u128::from(a_day) * 100 / u128::from(budget.max(1));
    let text = format!(
        "{} a day, {percent} % of the budget of {} ({during})",
        bytes(a_day),
        bytes(budget)
    );
    if a_day > budget {
        let advice = "write less: commitLingerMs, durability eventual, fewer retained messages, \
                      logs in memory; or raise spec.flash.bytesPerDay if the flash can bear it";
        return Finding::warn(name, text, advice);
    }
    Finding::ok(name, text)
}
