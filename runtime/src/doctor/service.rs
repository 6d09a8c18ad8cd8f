//! The running service: whether there is one, what it says of itself, who looks after it.

use super::Findings;
use super::running::{self, Running};
use super::scene::Scene;
use crate::resources::AppPlan;
use serde_json::Value;
use std::sync::Arc;

/// Where a unit's file may lie.
const UNIT_DIRS: [&str; 3] = ["etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"];

/// The unit's name, and the link that starts it at boot.
const UNIT: &str = "pillion.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/pillion.service";

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let Some(running) = &scene.running else { return at_rest(scene, out) };
    match running.uptime_s {
        Some(seconds) => {
            let text = format!("pid {} since {}", running.pid, time(seconds));
            out.ok(&"running", &text);
        }
        None => out.ok(&"running", &format_args!("pid {}", running.pid)),
    }
    unit(scene, running, out);
    apps(scene, out);
    storage(scene, out);
    links(scene, out);
}

/// Nothing runs: is it meant to?
fn at_rest(scene: &Scene, out: &mut Findings) {
    let (root, name) = (&scene.root, &"running");
    let is_installed = UNIT_DIRS.iter().any(|dir| root.path(dir).join(UNIT).exists());
    if !is_installed || !root.path("run/systemd/system").exists() {
        out.skip(name, &"no: what only it knows is not checked");
    } else if root.path(WANTED).symlink_metadata().is_ok() {
        let advice = "systemctl status pillion; journalctl -u pillion";
        out.warn(name, &"no, though it is enabled", &advice);
    } else {
        let advice = "systemctl enable --now pillion";
        out.warn(name, &"no, and it does not start at boot", &advice);
    }
}

/// What systemd does for it.
fn unit(scene: &Scene, running: &Running, out: &mut Findings) {
    let root = &scene.root;
    let group = root.read(&format!("proc/{}/cgroup", running.pid)).unwrap_or_default();
    let Some(unit) = group.split(['/', '\n']).find(|part| part.ends_with(".service")) else {
        return;
    };
    let name = &"systemd";
    match running.environment(root) {
        None => out.ok(name, &format_args!("{unit}; its watchdog is seen by root only")),
        Some(its) if running::variable(&its, "WATCHDOG_USEC").is_some() => {
            out.ok(name, &format_args!("{unit}, with a watchdog"));
        }
        Some(_) => out.warn(
            name,
            &format_args!("{unit} has no watchdog: a process that hangs is not restarted"),
            &"add WatchdogSec=30 to the unit",
        ),
    }
}

/// Health of every app that listens on TCP.
fn apps(scene: &Scene, out: &mut Findings) {
    for app in &scene.plan.apps {
        let Some(address) = app.listen.first().filter(|address| address.port() != 0) else {
            continue;
        };
        let name = format!("app {}", app.id);
        match running::get(*address, "/v1.0/healthz", token(scene, app).as_deref()) {
            Some((204, _)) => out.ok(&name, &"healthy"),
            Some((status, body)) => {
                let advice = "is the app running? its channel is under ports";
                out.warn(&name, &format_args!("answers {status}: {body}"), &advice);
            }
            None => {
                let advice = "restart the service if its configuration has changed";
                out.fail(&name, &format_args!("no answer at http://{address}"), &advice);
            }
        }
    }
}

/// What an app must show at its listener.
fn token(scene: &Scene, app: &AppPlan) -> Option<String> {
    app.api_token.clone().or_else(|| {
        let from = app.api_token_from.as_ref()?;
        scene.secret(Some(&from.store), &from.name, &from.key).ok()
    })
}

/// Trouble that the process tells in its metadata, or at least in its metrics.
fn storage(scene: &Scene, out: &mut Findings) {
    let mut metadata = Value::Null;
    for app in &scene.plan.apps {
        let Some(address) = app.listen.first() else { continue };
        let answer = running::get(*address, "/v1.0/metadata", token(scene, app).as_deref());
        if let Some((200, body)) = answer {
            metadata = serde_json::from_slice(body.as_bytes()).unwrap_or_default();
            break;
        }
    }
    let notice = |key: &str| metadata.get("extended")?.get(key)?.as_str();
    let is_set = |name: &str| scene.metric(name).is_some_and(|number| number > 0);
    let name = &"storage";
    let advice = &"see data below; what is stored can still be read and deleted";
    if let Some(text) = notice("pillionStorage") {
        out.fail(name, &text, advice);
    } else if is_set("pillion_storage_full") {
        out.fail(name, &"full: new data is refused", advice);
    } else if is_set("pillion_storage_unhealthy") {
        out.fail(name, &"not healthy", advice);
    } else if scene.metrics.is_some() || !metadata.is_null() {
        out.ok(name, &"no trouble");
    } else {
        out.skip(name, &"nobody could be asked");
    }
    if let Some(text) = notice("pillionDropped") {
        let advice = "is the consumer still wanted? enlarge its limits, or delete it";
        out.warn(&"dropped messages", &text, &advice);
    }
}

/// Whether links are up: this is the service's own login.
fn links(scene: &Scene, out: &mut Findings) {
    let metrics = scene.metrics.as_deref().unwrap_or_default();
    for link in &scene.plan.links {
        let series = format!("pillion_link_connected{{link=\"{}\"}} ", link.name);
        let name = format!("link {}", link.name);
        let Some(up) = metrics.lines().find_map(|line| line.strip_prefix(&series)) else {
            continue;
        };
        if up == "1" {
            out.ok(&name, &format_args!("connected to {}", link.remote));
        } else {
            let advice = "see names and cloud below; what it carries is kept meanwhile";
            out.warn(&name, &format_args!("{} is not connected", link.remote), &advice);
        }
    }
}

/// A length of time for people.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
