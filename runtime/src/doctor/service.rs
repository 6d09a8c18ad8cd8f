//! The running service: whether there is one, what it says of itself, who looks after it.

use super::Finding;
use super::running;
use super::scene::Scene;
use crate::resources::AppPlan;
use std::sync::Arc;

/// Where a unit's file may lie.
const UNIT_DIRS: [&str; 3] = ["etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"];

/// The unit's name, and the link that starts it at boot.
const UNIT: &str = "pillion.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/pillion.service";

pub(super) fn check(scene: &Arc<Scene>) -> Vec<Finding> {
    let mut found = unit(scene);
    let Some(running) = &scene.running else { return found };
    let since = running.uptime_s.map(|seconds| format!(" since {}", time(seconds)));
    let text = format!("pid {}{}", running.pid, since.unwrap_or_default());
    found.insert(0, Finding::ok("running", text));
    found.extend(apps(scene));
    found.extend(storage(scene));
    found.extend(links(scene));
    found
}

/// What systemd does for it.
fn unit(scene: &Scene) -> Vec<Finding> {
    let root = &scene.root;
    let name = "systemd";
    let installed = UNIT_DIRS.iter().any(|dir| root.path(dir).join(UNIT).exists());
    let by_systemd = root.path("run/systemd/system").exists();
    let Some(running) = &scene.running else {
        let enabled = root.path(WANTED).symlink_metadata().is_ok();
        return vec![match (by_systemd && installed, enabled) {
            (true, true) => Finding::warn(
                "running",
                "no, though it is enabled".into(),
                "systemctl status pillion; journalctl -u pillion",
            ),
            (true, false) => Finding::warn(
                "running",
                "no, and it does not start at boot".into(),
                "systemctl enable --now pillion",
            ),
            _ => Finding::skip("running", "no: what only it knows is not checked".into()),
        }];
    };
    let group = root.read(&format!("proc/{}/cgroup", running.pid)).unwrap_or_default();
    let Some(unit) = group.split('/').find(|part| part.ends_with(".service")) else {
        return Vec::new();
    };
    let unit = unit.lines().next().unwrap_or(unit);
    vec![match running.environment(root) {
        None => Finding::ok(name, format!("{unit}; its watchdog is seen by root only")),
        Some(variables) if variables.contains_key("WATCHDOG_USEC") => {
            Finding::ok(name, format!("{unit}, with a watchdog"))
        }
        Some(_) => Finding::warn(
            name,
            format!("{unit} has no watchdog: a process that hangs is not restarted"),
            "add WatchdogSec=30 to the unit",
        ),
    }]
}

/// Health of every app that listens on TCP.
fn apps(scene: &Scene) -> Vec<Finding> {
    let mut found = Vec::new();
    for app in &scene.plan.apps {
        let Some(address) = app.listen.first().filter(|address| address.port() != 0) else {
            continue;
        };
        let name = format!("app {}", app.id);
        found.push(match running::get(*address, "/v1.0/healthz", token(scene, app).as_deref()) {
            Some((204, _)) => Finding::ok(&name, "healthy".into()),
            Some((status, body)) => {
                let advice = "is the app running? its channel is under ports";
                Finding::warn(&name, format!("answers {status}: {}", body.trim()), advice)
            }
            None => {
                let advice = "restart the service if its configuration has changed";
                Finding::fail(&name, format!("no answer at http://{address}"), advice)
            }
        });
    }
    found
}

/// What an app must show at its listener.
fn token(scene: &Scene, app: &AppPlan) -> Option<String> {
    app.api_token.clone().or_else(|| {
        let from = app.api_token_from.as_ref()?;
        scene.secret(Some(&from.store), &from.name, &from.key).ok()
    })
}

/// Trouble that the process tells in its metadata, or at least in its metrics.
fn storage(scene: &Scene) -> Vec<Finding> {
    let notices = scene.plan.apps.iter().find_map(|app| {
        let (status, body) =
            running::get(*app.listen.first()?, "/v1.0/metadata", token(scene, app).as_deref())?;
        let metadata: serde_json::Value = serde_json::from_str(&body).ok()?;
        (status == 200).then_some(metadata)
    });
    let notice = |key: &str| {
        let text = notices.as_ref()?.get("extended")?.get(key)?.as_str()?;
        Some(text.to_owned())
    };
    let is_set = |name: &str| scene.metric(name).is_some_and(|number| number > 0);
    let mut found = Vec::new();
    let trouble = notice("pillionStorage").or_else(|| {
        let full = is_set("pillion_storage_full").then(|| "full: new data is refused".to_owned());
        full.or_else(|| is_set("pillion_storage_unhealthy").then(|| "not healthy".to_owned()))
    });
    match trouble {
        Some(text) => {
            let advice = "see data below; what is stored can still be read and deleted";
            found.push(Finding::fail("storage", text, advice));
        }
        None if scene.metrics.is_some() || notices.is_some() => {
            found.push(Finding::ok("storage", "no trouble".into()));
        }
        None => found.push(Finding::skip("storage", "nobody could be asked".into())),
    }
    if let Some(text) = notice("pillionDropped") {
        let advice = "is the consumer still wanted? enlarge its limits, or delete it";
        found.push(Finding::warn("dropped messages", text, advice));
    }
    found
}

/// Whether links are up: this is the service's own login.
fn links(scene: &Scene) -> Vec<Finding> {
    let mut found = Vec::new();
    for link in &scene.plan.links {
        let series = format!("pillion_link_connected{{link=\"{}\"}} ", link.name);
        let lines = scene.metrics.iter().flat_map(|text| text.lines());
        let Some(up) = lines.into_iter().find_map(|line| line.strip_prefix(&series)) else {
            continue;
        };
        let name = format!("link {}", link.name);
        found.push(match up {
            "1" => Finding::ok(&name, format!("connected to {}", link.remote)),
            _ => {
                let advice = "see names and cloud below; what it carries is kept meanwhile";
                Finding::warn(&name, format!("{} is not connected", link.remote), advice)
            }
        });
    }
    found
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
