//! Memory: what there is, against what the configuration may take at its limits.

use super::scene::Scene;
use super::system::Root;
use super::{Finding, bytes, data};
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

pub(super) fn check(scene: &Arc<Scene>) -> Vec<Finding> {
    let root = &scene.root;
    let text = root.read("proc/meminfo").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
    };
    let mut found = Vec::new();
    let wanted = wanted_bytes(scene);
    match (of("MemTotal"), of("MemAvailable")) {
        (Some(total), Some(available)) => {
            let own = scene.running.as_ref().and_then(|running| resident_bytes(root, running.pid));
            let reach = available + own.unwrap_or_default();
            let text = format!(
                "{} of {} available, this configuration may take about {} when busy",
                bytes(reach),
                bytes(total),
                bytes(wanted)
            );
            let advice = "lower limits.connectionsMax, limits.bodyBytesMax or \
                          mqtt.limits.connectionsMax, or run fewer programs";
            found.push(match reach < wanted {
                true => Finding::warn("memory", text, advice),
                false => Finding::ok("memory", text),
            });
        }
        _ => found.push(Finding::skip("memory", "cannot be seen".into())),
    }
    if let Some(limit) = scene.running.as_ref().and_then(|running| group_limit(root, running.pid)) {
        let text = format!("its control group allows {}", bytes(limit));
        let advice = "raise MemoryMax of the unit, or lower the limits";
        found.push(match limit < wanted {
            true => Finding::warn("limit", text, advice),
            false => Finding::ok("limit", text),
        });
    }
    found.extend(swap(root));
    found
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
    let text = root.read(&format!("proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// `memory.max` of the process's control group (version 2), if there is a limit.
fn group_limit(root: &Root, pid: u32) -> Option<u64> {
    let groups = root.read(&format!("proc/{pid}/cgroup"))?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    root.number(&format!("sys/fs/cgroup{path}/memory.max"))
}

/// Swap on flash is written day and night, and no sync waits for it to be counted.
fn swap(root: &Root) -> Option<Finding> {
    let text = root.read("proc/swaps")?;
    let worn =
        text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).find(|name| {
            let is_flash = |disk: &Path| disk.join("device/life_time").exists() || is_card(disk);
            let disk = match name.strip_prefix("/dev/") {
                Some(device) => {
                    root.path("sys/class/block").join(device).join("..").canonicalize().ok()
                }
                None => data::disk(root, Path::new(name)).and_then(|(_, disk)| disk),
            };
            disk.is_some_and(|disk| is_flash(&disk))
        })?;
    let advice = "swap to compressed memory instead (zram): swapping wears out flash";
    Some(Finding::warn("swap", format!("{worn} is on flash"), advice))
}

fn is_card(disk: &Path) -> bool {
    super::system::read(&disk.join("device/type")).is_some_and(|kind| kind == "SD" || kind == "MMC")
}
