//! The resources, as `pillion check` sees them, and who may read the files with secrets.

use super::data::{Person, service_user};
use super::scene::Scene;
use super::{Finding, Level};
use crate::resources::Setting;
use pillion_components::Kind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Settings that name a file with a secret.
const SECRET_FILES: [&str; 2] = ["clientKey", "secretsFile"];

pub(super) fn check(scene: &Arc<Scene>) -> Vec<Finding> {
    let mut found = Vec::new();
    for problem in &scene.problems {
        let (text, has) = (problem.clone(), |words: &str| problem.contains(words));
        found.push(if has("ermission denied") {
            Finding::skip("resource", format!("{text} (this user may not read it; run as root)"))
        } else if has("is not set") {
            let advice = "set it for the service; run this as root while the service runs, or \
                          with its environment";
            Finding::fail("resource", text, advice)
        } else {
            Finding::fail("resource", text, "correct the file, then look again")
        });
    }
    for warning in &scene.warnings {
        found.push(Finding::warn("resource", warning.clone(), "correct it, or leave it out"));
    }
    for (name, peer) in scene.brokers() {
        let Err((level, text)) = peer else { continue };
        let advice = match level {
            Level::Fail => "correct the component: the service does not start with it",
            _ => "run this as root while the service runs, or with its environment",
        };
        found.push(Finding::new(level, "component", format!("{name}: {text}"), advice));
    }
    for (store, error) in scene.broken_stores() {
        let text = format!("{}: {}", store.name, error.message());
        found.push(match (error.kind(), store.ignore_errors) {
            (Kind::Denied, _) => Finding::skip("component", text),
            (_, true) => Finding::skip("component", format!("{text} (left out: ignoreErrors)")),
            _ => {
                let advice = "correct the component: the service does not start with it";
                Finding::fail("component", text, advice)
            }
        });
    }
    if scene.problems.is_empty() {
        let plan = &scene.plan;
        let text = format!(
            "{}: {} apps, {} components, {} subscriptions, {} links",
            scene.asked.dir.display(),
            plan.apps.len(),
            plan.components.len(),
            plan.subscriptions.len(),
            plan.links.len()
        );
        found.insert(0, Finding::ok("resources", text));
    }
    let user = service_user(scene);
    found.extend(secret_files(scene).iter().map(|path| permissions(path, &user)));
    found
}

/// Files that nobody but the service should read.
fn secret_files(scene: &Scene) -> Vec<PathBuf> {
    let tls = scene.plan.gateway.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref());
    let mut paths: Vec<PathBuf> = tls.map(|tls| tls.key.clone()).into_iter().collect();
    let settings = scene.plan.components.iter().flat_map(|component| &component.settings);
    for (name, setting) in settings {
        let is_file = SECRET_FILES.iter().any(|known| known.eq_ignore_ascii_case(name));
        if let Setting::Text(text) = setting
            && is_file
            && !text.contains("-----BEGIN")
        {
            paths.push(text.into());
        }
    }
    paths
}

fn permissions(path: &Path, user: &Person) -> Finding {
    let name = "secret file";
    let shown = path.display();
    let file = match std::fs::metadata(path) {
        Ok(file) => file,
        Err(error) => return Finding::skip(name, format!("{shown}: {error}")),
    };
    let mode = file.mode() & 0o777;
    if mode & 0o007 != 0 {
        let advice = format!("chmod o= {shown}");
        let text = format!("{shown}: every user of this machine may read it ({mode:o})");
        return Finding::warn(name, text, &advice);
    }
    if !user.may(&file, 0o4) {
        let advice = format!("chown {} {shown}", user.name);
        let text = format!("{shown}: the service's user {} may not read it", user.name);
        return Finding::fail(name, text, &advice);
    }
    Finding::ok(name, format!("{shown}: kept from others ({mode:o})"))
}
