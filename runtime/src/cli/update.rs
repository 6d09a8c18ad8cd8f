//! `pillion update` and `pillion launch`: where the service stores, and what its Gateway says of
//! updates.

use super::values::{self, Arguments};
use super::{Command, start};
use crate::resources::{self, Environment, Gateway, Report, Wanted};
use crate::update::{Action, Request};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where packages put the resources of the service.
pub(super) const CONFIG_DIR: &str = "/etc/pillion";

/// Where packages let it store. An operator's shell has no `$STATE_DIRECTORY`.
const STATE_DIR: &str = "/var/lib/pillion";

/// `pillion update FILE`, `--status`, `--revert`.
pub(super) fn update(
    arguments: &Arguments,
    env: Environment<'_>,
    report: &Report,
) -> Option<Command> {
    let env = &|name: &str| env(name).filter(|value| !value.is_empty());
    let switch = |name| arguments.switch(name, report) == Some(true);
    let restart = switch("restart");
    let action = match (arguments.positional.as_slice(), switch("status"), switch("revert")) {
        ([file], false, false) => Action::Install { file: file.into(), restart },
        ([], true, false) => Action::Status,
        ([], false, true) => Action::Revert,
        _ => {
            let forms = "pillion update IMAGE [--restart], or --status, or --revert";
            report.problem(format!("update does one thing: write {forms}"));
            return None;
        }
    };
    let config = PathBuf::from(arguments.text("config").unwrap_or(CONFIG_DIR));
    // What a later release has in the resources must not keep an update out; only what is wrong
    // with updates themselves does, and then there is no key.
    let aside = Report::default();
    let gateway = gateway(vec![config], env, &aside);
    if matches!(action, Action::Install { .. }) && gateway.update.keys.is_empty() {
        aside.take_problems().into_iter().for_each(|problem| report.problem(problem));
    }
    let named = arguments.text("data-dir").map(PathBuf::from).or(gateway.storage.data_dir);
    let data_dir = named.or_else(|| service_data_dir(env));
    if data_dir.is_none() {
        report.problem(resources::DATA_DIR_MISSING);
    }
    Some(Command::Update(Request { action, data_dir: data_dir?, plan: gateway.update }))
}

/// Where the service stores if neither flag nor Gateway says.
pub(super) fn service_data_dir(env: Environment<'_>) -> Option<PathBuf> {
    let packaged = || Some(PathBuf::from(STATE_DIR)).filter(|dir| dir.is_dir());
    env("STATE_DIRECTORY")
        .and_then(|_| start::default_data_dir(None, env))
        .or_else(packaged)
        .or_else(|| start::default_data_dir(None, env))
}

/// `pillion launch ARGUMENTS`. Nothing is wrong here but that there are none: what they mean is for
/// the release to say that is started with them.
pub(super) fn launch(arguments: Vec<OsString>, env: Environment<'_>) -> Result<Command, String> {
    if arguments.is_empty() {
        return Err("launch needs what to start: write pillion launch serve DIR".into());
    }
    let env = &|name: &str| env(name).filter(|value| !value.is_empty());
    let aside = Report::default();
    let split = values::split(arguments.clone(), &aside);
    let in_gateway = || match split.positional.as_slice() {
        [word, directory] if word == "serve" => {
            gateway(vec![directory.into()], env, &aside).storage.data_dir
        }
        _ => None,
    };
    let data_dir = split.text("data-dir").map(PathBuf::from);
    let data_dir = data_dir.or_else(in_gateway).or_else(|| start::default_data_dir(None, env));
    Ok(Command::Launch { data_dir, arguments })
}

/// The Gateway of a directory, as far as it can be read.
fn gateway(resources: Vec<PathBuf>, env: Environment<'_>, report: &Report) -> Gateway {
    if !resources.iter().any(|path| Path::exists(path)) {
        let text = "is not there: name the directory of the Gateway with --config";
        report.problem(format!(
            "{} {text}",
            resources.first().map_or("", |path| path.to_str().unwrap_or(""))
        ));
        return Gateway::default();
    }
    resources::plan(Wanted::served(resources, Gateway::default()), env, report).gateway
}
