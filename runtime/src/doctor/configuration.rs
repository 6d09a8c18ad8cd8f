//! The resources, as `pillion check` sees them, and who may read the files with secrets.

use super::data::{Person, service_user};
use super::scene::Scene;
use super::{Findings, Level};
use crate::resources::Setting;
use pillion_components::Kind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Settings that name a file with a secret.
const SECRET_FILES: [&str; 2] = ["clientKey", "secretsFile"];

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
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
        out.ok(&"resources", &text);
    }
    for problem in &scene.problems {
        if problem.contains("ermission denied") {
            let text = format_args!("{problem} (this user may not read it; run as root)");
            out.skip(&"resource", &text);
            continue;
        }
        let advice = match problem.contains("is not set") {
            true => UNSEEN,
            false => "correct the file, then look again",
        };
        out.fail(&"resource", problem, &advice);
    }
    for warning in &scene.warnings {
        out.warn(&"resource", warning, &"correct it, or leave it out");
    }
    for (name, peer) in scene.brokers() {
        let Err((level, text)) = peer else { continue };
        let advice = if level == Level::Fail { WRONG } else { "" };
        out.add(level, &"component", &format_args!("{name}: {text}"), &advice);
    }
    for (store, error) in scene.broken_stores() {
        let text = format!("{}: {}", store.name, error.message());
        if error.kind() == Kind::Denied || store.ignore_errors {
            out.skip(&"component", &text);
        } else {
            out.fail(&"component", &text, &WRONG);
        }
    }
    let user = service_user(scene);
    for path in secret_files(scene) {
        permissions(&path, &user, out);
    }
}

const WRONG: &str = "correct the component: the service does not start with it";
const UNSEEN: &str = "set it for the service; run this as root while the service runs, or with its \
                      environment";

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

fn permissions(path: &Path, user: &Person, out: &mut Findings) {
    let name = &"secret file";
    let shown = path.display();
    let file = match std::fs::metadata(path) {
        Ok(file) => file,
        Err(error) => return out.skip(name, &format_args!("{shown}: {error}")),
    };
    let mode = file.mode() & 0o777;
    if mode & 0o007 != 0 {
        let text = format_args!("{shown}: every user of this machine may read it ({mode:o})");
        out.warn(name, &text, &format_args!("chmod o= {shown}"));
    } else if !user.may(&file, 0o4) {
        let text = format_args!("{shown}: the service's user {} may not read it", user.name);
        out.fail(name, &text, &format_args!("chown {} {shown}", user.name));
    } else {
        out.ok(name, &format_args!("{shown}: kept from others ({mode:o})"));
    }
}
