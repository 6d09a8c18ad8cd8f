//! What was read becomes a plan: names are unique, references resolve, listeners do not collide.

mod doors;

use super::fields::Report;
use super::load::{Found, Placed, Wanted};
use super::{AppPlan, ComponentPlan, FlowPlan, LinkPlan, Plan, Setting, SubscriptionPlan};
use super::{Form, closest};
use pillion_components::topic::Filter;
use pillion_components::{WITHOUT_CRYPTO, bindings, configuration, lock, pubsub, secrets, state};
use std::collections::BTreeMap;

/// Makes the plan, with every problem in the report.
pub(crate) fn settle(mut found: Found, wanted: Wanted, report: &Report) -> Plan {
    let form = wanted.form;
    let Wanted { app, defaults, gateway, flags, .. } = wanted;
    let mut plan = Plan::default();

    let configurations = std::mem::take(&mut found.configurations);
    unique("Configuration", &configurations, |(name, _)| name, report);
    let mut apps: Vec<Placed<AppPlan>> = app.into_iter().map(Placed::unplaced).collect();
    for mut read in std::mem::take(&mut found.apps) {
        if let Some(name) = &read.value.configuration {
            match configurations.iter().find(|known| known.value.0 == *name) {
                Some(known) => read.value.plan.configuration = known.value.1.clone(),
                None => {
                    let place = read.place("spec.configuration");
                    let names = configurations.iter().map(|known| known.value.0.as_str());
                    let hint = known(names);
                    report.problem(format!("{place}: no Configuration is called '{name}': {hint}"));
                }
            }
        }
        apps.push(read.map(|read| read.plan));
    }
    unique("App", &apps, |app| &app.id, report);

    if form != Form::Gateway {
        drop_what_no_app_sees(&mut found, &apps);
    }
    components(&mut found, defaults, form, report);
    for app in &apps {
        check_app(app, &found.components, report);
    }
    unique("Subscription", &found.subscriptions, |subscription| &subscription.name, report);
    subscriptions(&mut found.subscriptions, &found.components, form, report);
    unique("HTTPEndpoint", &found.endpoints, |endpoint| &endpoint.name, report);
    for endpoint in &found.endpoints {
        let store = endpoint.value.secret_store.as_deref();
        check_settings(endpoint, &endpoint.value.headers, store, &found.components, report);
    }
    unique("MqttUser", &found.mqtt_users, |user| &user.name, report);
    unique("Link", &found.links, |link| &link.name, report);
    for link in &found.links {
        check_link(link, &found.components, report);
    }

    plan.gateway = doors::gateway(&mut found, gateway, flags, report);
    doors::listeners(&plan.gateway, &apps, report);
    if form == Form::Gateway && apps.is_empty() && plan.gateway.mqtt.is_none() {
        report.warning("no App and no MQTT door in the resources: nobody can use this gateway");
    }
    plan.apps = values(apps);
    plan.components = values(in_order(found.components, report));
    plan.subscriptions = values(found.subscriptions);
    plan.endpoints = values(found.endpoints);
    plan.mqtt_users = values(found.mqtt_users);
    plan.links = values(found.links);
    plan
}

fn values<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|placed| placed.value).collect()
}

/// A list of names to choose from.
fn known<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        "there is none".into()
    } else {
        format!("known are {}", names.join(", "))
    }
}

fn unique<T>(kind: &str, placed: &[Placed<T>], name: impl Fn(&T) -> &str, report: &Report) {
    let mut first: BTreeMap<&str, &Placed<T>> = BTreeMap::new();
    for one in placed {
        let this = name(&one.value);
        if let Some(earlier) = first.get(this) {
            let (place, there) = (one.place("metadata.name"), earlier.place("metadata.name"));
            let text = format!("{place}: a second {kind} is called '{this}': rename it or {there}");
            report.problem(text);
        } else {
            first.insert(this, one);
        }
    }
}

/// As Dapr does before anything else: a directory may be shared by many processes of one app each.
fn drop_what_no_app_sees(found: &mut Found, apps: &[Placed<AppPlan>]) {
    let is_seen = |scopes: &[String]| {
        scopes.is_empty() || scopes.iter().any(|id| apps.iter().any(|app| app.value.id == *id))
    };
    let links: Vec<_> = found.links.iter().map(|link| &link.value).collect();
    let is_linked = |name: &str| links.iter().any(|link| link.local == name || link.remote == name);
    let feeding: Vec<String> = found
        .components
        .iter()
        .filter(|one| is_seen(&one.value.scopes))
        .filter_map(|one| source(&one.value).map(|(_, pubsub)| pubsub.to_owned()))
        .collect();
    found.components.retain(|one| {
        let name = &one.value.name;
        is_seen(&one.value.scopes) || is_linked(name) || feeding.contains(name)
    });
    found.subscriptions.retain(|one| is_seen(&one.value.scopes));
    found.endpoints.retain(|one| is_seen(&one.value.scopes));
}

fn components(found: &mut Found, defaults: Vec<ComponentPlan>, form: Form, report: &Report) {
    duplicates(&found.components, form, report);
    for default in defaults {
        if found.components.iter().all(|one| one.value.name != default.name) {
            found.components.push(Placed::unplaced(default));
        }
    }
    found.components.retain_mut(|one| check_type(one, report));
    for one in &found.components {
        let store = one.value.secret_store.as_deref();
        check_settings(one, &one.value.settings, store, &found.components, report);
        check_source(one, &found.components, report);
    }
}

/// The component whose topic feeds a configuration store, and which setting names it.
fn source(one: &ComponentPlan) -> Option<(usize, &str)> {
    if !is_family(one, "configuration") {
        return None;
    }
    one.settings.iter().enumerate().find_map(|(index, (name, setting))| match setting {
        Setting::Text(pubsub) if name.eq_ignore_ascii_case("pubsubName") => {
            Some((index, pubsub.as_str()))
        }
        _ => None,
    })
}

fn check_source(
    one: &Placed<ComponentPlan>,
    components: &[Placed<ComponentPlan>],
    report: &Report,
) {
    let Some((index, pubsub)) = source(&one.value).filter(|(_, pubsub)| !pubsub.is_empty()) else {
        return;
    };
    if let Err(text) = named(components, "pubsub", pubsub) {
        report.problem(format!("{}: {text}", one.place(&format!("spec.metadata.{index}.value"))));
    }
}

/// Scripts wait for Dapr's words, so in its form they stand alone.
fn duplicates(components: &[Placed<ComponentPlan>], form: Form, report: &Report) {
    let shown = |one: &ComponentPlan| {
        let version = if one.version.is_empty() { "v1" } else { &one.version };
        format!("{} ({}/{version})", one.name, one.type_name)
    };
    let mut first: BTreeMap<&str, &Placed<ComponentPlan>> = BTreeMap::new();
    let mut lines = Vec::new();
    for one in components {
        let Some(earlier) = first.get(one.value.name.as_str()) else {
            first.insert(&one.value.name, one);
            continue;
        };
        let (this, that) = (shown(&one.value), shown(&earlier.value));
        let words = format!("duplicate definition of Component name {this} with existing {that}");
        if form == Form::Daprd {
            lines.push(words);
        } else {
            let (place, there) = (one.place("metadata.name"), earlier.place("metadata.name"));
            report.problem(format!("{place}: {words}: rename it or {there}"));
        }
    }
    if !lines.is_empty() {
        let lines = lines.join("\n");
        report.problem(format!("failed to load components: {lines}"));
    }
}

/// Writes the type as the catalogue does. `false` leaves the component out.
fn check_type(one: &mut Placed<ComponentPlan>, report: &Report) -> bool {
    let written = one.value.type_name.clone();
    let names = catalogue();
    if let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(&written)) {
        one.value.type_name = (*name).into();
        return true;
    }
    let name = &one.value.name;
    let place = one.place("spec.type");
    let family = written.split_once('.').map_or("", |(family, _)| family);
    let same = |known: &&&str| known.split('.').next() == Some(family);
    let of_family: Vec<&str> = names.iter().filter(same).copied().collect();
    let hint = known((if of_family.is_empty() { names } else { of_family }).into_iter());
    let reason = if family == "crypto" && cfg!(not(feature = "crypto")) {
        format!("spec.type is '{written}': {WITHOUT_CRYPTO}")
    } else {
        format!("spec.type is '{written}', which this build does not have: {hint}")
    };
    if one.value.ignore_errors {
        report.warning(format!(
            "{place}: Ignoring error processing component: process component {name} error: {reason}"
        ));
        return false;
    }
    if written == "workflow.dapr" {
        let text = format!("process component {name} error: incorrect type workflow.dapr");
        report.problem(format!("{place}: {text}: remove it, workflows need no component"));
    } else if !written.is_empty() {
        report.problem(format!("{place}: {reason}"));
    }
    true
}

/// Every type of component there is.
pub(crate) fn catalogue() -> Vec<&'static str> {
    let mut names: Vec<&str> = state::CATALOGUE.iter().map(|row| row.type_name).collect();
    names.extend(pubsub::CATALOGUE.iter().map(|row| row.type_name));
    names.extend(secrets::CATALOGUE.iter().map(|row| row.type_name));
    names.extend(configuration::CATALOGUE.iter().map(|row| row.type_name));
    names.extend(lock::CATALOGUE.iter().map(|row| row.type_name));
    names.extend(bindings::CATALOGUE.iter().map(|row| row.type_name));
    #[cfg(feature = "crypto")]
    names.extend(pillion_components::crypto::CATALOGUE.iter().map(|row| row.type_name));
    names
}

fn is_family(component: &ComponentPlan, family: &str) -> bool {
    component.type_name.split('.').next() == Some(family)
}

/// The component of this name and family; if there is none, the text says which there are.
fn named<'a>(
    components: &'a [Placed<ComponentPlan>],
    family: &str,
    name: &str,
) -> Result<&'a ComponentPlan, String> {
    let of_family =
        || components.iter().map(|one| &one.value).filter(|component| is_family(component, family));
    of_family().find(|component| component.name == name).ok_or_else(|| {
        let what = match family {
            "secretstores" => "secret store",
            "state" => "state store",
            _ => "pub/sub component",
        };
        let names = || of_family().map(|component| component.name.as_str());
        match closest(name, names()) {
            Some(near) => format!("no {what} is called '{name}': did you mean '{near}'?"),
            None => format!("no {what} is called '{name}': {}", known(names())),
        }
    })
}

fn check_settings<T>(
    one: &Placed<T>,
    settings: &[(String, Setting)],
    store: Option<&str>,
    components: &[Placed<ComponentPlan>],
    report: &Report,
) {
    let needs_store = settings.iter().any(|(_, s)| matches!(s, Setting::Secret { .. }));
    let Some(store) = store.filter(|_| needs_store) else { return };
    if let Err(text) = named(components, "secretstores", store) {
        report.problem(format!("{}: {text}", one.place("auth.secretStore")));
    }
}

fn check_app(app: &Placed<AppPlan>, components: &[Placed<ComponentPlan>], report: &Report) {
    let plan = &app.value;
    for from in [&plan.api_token_from, &plan.channel_token_from].into_iter().flatten() {
        if let Err(text) = named(components, "secretstores", &from.store) {
            report.problem(format!("{}: {text}", app.place("auth.secretStore")));
        }
    }
    let lists = [
        ("stores", "state", &plan.access.stores),
        ("secrets", "secretstores", &plan.access.secrets),
    ];
    for (key, family, names) in lists {
        for (index, name) in names.iter().flatten().enumerate() {
            if let Err(text) = named(components, family, name) {
                let place = app.place(&format!("spec.access.{key}.{index}"));
                report.problem(format!("{place}: {text}"));
            }
        }
    }
}

fn subscriptions(
    subscriptions: &mut Vec<Placed<SubscriptionPlan>>,
    components: &[Placed<ComponentPlan>],
    form: Form,
    report: &Report,
) {
    subscriptions.retain(|one| {
        if one.value.pubsub.is_empty() {
            return true;
        }
        let Err(text) = named(components, "pubsub", &one.value.pubsub) else { return true };
        let text = format!("{}: {text}", one.place("spec.pubsubname"));
        if form == Form::Daprd {
            // As Dapr does: the rest works without it.
            report.warning(format!("{text}; the subscription is left out"));
            return false;
        }
        report.problem(text);
        true
    });
}

fn check_link(link: &Placed<LinkPlan>, components: &[Placed<ComponentPlan>], report: &Report) {
    let plan = &link.value;
    for (path, name) in [("spec.local", &plan.local), ("spec.remote", &plan.remote)] {
        if !name.is_empty()
            && let Err(text) = named(components, "pubsub", name)
        {
            report.problem(format!("{}: {text}", link.place(path)));
        }
    }
    if plan.local == plan.remote && !plan.local.is_empty() {
        let place = link.place("spec.remote");
        report.problem(format!("{place}: local and remote are the same component: name two"));
    }
    for (up_index, up) in plan.up.iter().enumerate() {
        for (down_index, down) in plan.down.iter().enumerate() {
            let Some(side) = overlap(up, down) else { continue };
            let place = link.place(&format!("spec.up.{up_index}.filter"));
            report.problem(format!(
                "{place}: up '{}' and down '{}' (spec.down.{down_index}) overlap on the {side} \
                 side: messages would go round; narrow a filter or change mapTo",
                up.filter, down.filter
            ));
        }
    }
}

/// The side on which what goes up may be taken down again, or the other way round. The prefix of
/// either direction stands on the remote side.
fn overlap(up: &FlowPlan, down: &FlowPlan) -> Option<&'static str> {
    // A prefix that makes no filter was reported where it was read.
    let on_remote = |flow: &FlowPlan| match &flow.map_to {
        Some(prefix) => Filter::new(&format!("{prefix}{}", flow.filter)).ok(),
        None => Some(flow.filter.clone()),
    };
    if on_remote(up)?.overlaps(&on_remote(down)?) {
        return Some("remote");
    }
    up.filter.overlaps(&down.filter).then_some("local")
}

/// Secret stores first, each after the one that keeps its own secrets; the others as they were read.
fn in_order(components: Vec<Placed<ComponentPlan>>, report: &Report) -> Vec<Placed<ComponentPlan>> {
    let is_store = |one: &Placed<ComponentPlan>| is_family(&one.value, "secretstores");
    let (mut waiting, others): (Vec<_>, Vec<_>) = components.into_iter().partition(is_store);
    let mut ordered: Vec<Placed<ComponentPlan>> = Vec::new();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        let names: Vec<String> = waiting.iter().map(|one| one.value.name.clone()).collect();
        for one in waiting {
            let has_secrets =
                one.value.settings.iter().any(|(_, s)| matches!(s, Setting::Secret { .. }));
            let needs = one.value.secret_store.as_ref().filter(|_| has_secrets);
            match needs {
                Some(store) if names.contains(store) => later.push(one),
                _ => ordered.push(one),
            }
        }
        if later.len() == before {
            for one in &later {
                let place = one.place("auth.secretStore");
                let name = &one.value.name;
                report.problem(format!(
                    "{place}: the secrets of '{name}' are kept, in the end, in '{name}' itself: \
                     use another store"
                ));
            }
            ordered.extend(later);
            break;
        }
        waiting = later;
    }
    ordered.extend(others);
    ordered
}
