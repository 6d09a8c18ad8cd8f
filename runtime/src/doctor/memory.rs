//! Memory: what there is, against what the configuration may take at its limits.

use super::scene::Scene;
use super::system::Root;
use super::{Findings, bytes, data};
use std::path::Path;
use std::sync::Arc;

/// The process with its stores open, and what the allocator keeps of a busy hour: 7 MB idle, 15 MB
/// after the whole load of the benchmarks, with room for a large backlog's index.
const BASE_BYTES: u64 = 16 << 20;

/// A connection with its buffers and its task.
const CONNECTION_BYTES: u64 = 16 << 10;

/// Largest bodies that are in memory at one time on a busy gateway; that all connections hold one
/// is allowed, and no plan for a machine.
const BODIES: u64 = 4;

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let root = &scene.root;
    let text = root.read("proc/meminfo").unwrap_or_default();
    let wanted = wanted_bytes(scene);
    let shown = bytes(wanted);
    let running = scene.running.as_ref();
    match (kilobytes(&text, "MemTotal:"), kilobytes(&text, "MemAvailable:")) {
        (Some(total), Some(available)) => {
            let own = running.and_then(|running| resident_bytes(root, running.pid));
            let reach = available + own.unwrap_or_default();
            let text = format!(
                "{} of {} available, this configuration may take about {shown} when busy",
                bytes(reach),
                bytes(total)
            );
            let advice = "lower limits.connectionsMax, limits.bodyBytesMax or \
                          mqtt.limits.connectionsMax, or run fewer programs";
            at_least(reach, wanted, "memory", &text, advice, out);
        }
        _ => out.skip(&"memory", &"cannot be seen"),
    }
    if let Some(limit) = running.and_then(|running| group_limit(root, running.pid)) {
        let text = format!("its control group allows {}, see memory", bytes(limit));
        let advice = "raise MemoryMax of the unit, or lower the limits";
        at_least(limit, wanted, "limit", &text, advice, out);
    }
    swap(root, out);
}

fn at_least(has: u64, wanted: u64, name: &str, text: &str, advice: &str, out: &mut Findings) {
    if has < wanted {
        out.warn(&name, &text, &advice);
    } else {
        out.ok(&name, &text);
    }
}

/// The bytes of a line `name    number kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

fn wanted_bytes(scene: &Scene) -> u64 {
    let gateway = &scene.plan.gateway;
    let apps = scene.plan.apps.len() as u64;
    let http = (gateway.limits.connections_max as u64).saturating_mul(apps);
    let mqtt = gateway.mqtt.as_ref().map_or(0, |mqtt| mqtt.limits.connections_max.into());
    let connections = http.saturating_add(mqtt).saturating_mul(CONNECTION_BYTES);
    let bodies = (gateway.limits.body_bytes_max as u64).saturating_mul(BODIES);
    BASE_BYTES.saturating_add(connections).saturating_add(bodies)
}

/// Resident memory of a process.
fn resident_bytes(root: &Root, pid: u32) -> Option<u64> {
    kilobytes(&root.read(&format!("proc/{pid}/status"))?, "VmRSS:")
}

/// `memory.max` of the process's control group (version 2), if there is a limit.
fn group_limit(root: &Root, pid: u32) -> Option<u64> {
    let groups = root.read(&format!("proc/{pid}/cgroup"))?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    root.number(&format!("sys/fs/cgroup{path}/memory.max"))
}

/// Swap on flash is written day and night.
fn swap(root: &Root, out: &mut Findings) {
    let text = root.read("proc/swaps").unwrap_or_default();
    for name in text.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
        let disk = match name.strip_prefix("/dev/") {
            Some(device) => {
                root.path("sys/class/block").join(device).join("..").canonicalize().ok()
            }
            None => data::disk(root, Path::new(name)).and_then(|(_, disk)| disk),
        };
        if disk.is_some_and(|disk| is_card(&disk)) {
            let advice = "swap to compressed memory instead (zram): swapping wears out flash";
            out.warn(&"swap", &format_args!("{name} is on flash"), &advice);
        }
    }
}

/// Whether it is an eMMC or an SD card.
fn is_card(disk: &Path) -> bool {
    super::system::read(&disk.join("device/type")).is_some_and(|kind| kind == "SD" || kind == "MMC")
}
