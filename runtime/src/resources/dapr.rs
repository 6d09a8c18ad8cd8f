//! Dapr's kinds: Component, Subscription, HTTPEndpoint, Resiliency.
//!
//! Keys that this build does not know are remarked and ignored, as they come and go with Dapr's
//! versions; what is known must be well-formed.

use super::fields::{Fields, NO_STORE};
use super::load::Surroundings;
use super::{ComponentPlan, EndpointPlan, RuleWritten, Setting, SubscriptionPlan};
use pillion_components::env;
use pillion_components::topic::Filter;
use std::time::Duration;

/// Time allowed for opening a component that says nothing else.
pub(crate) const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// `kind: Component`.
pub(crate) fn component(
    root: &Fields<'_>,
    name: &str,
    around: &Surroundings<'_>,
) -> Option<ComponentPlan> {
    let scopes = root.texts("scopes").unwrap_or_default();
    let secret_store = secret_store(root);
    let spec = root.required_map("spec")?;
    let type_name = spec.required("type");
    let version = spec.text("version").unwrap_or_default();
    if !["", "v0", "v1"].iter().any(|known| version.eq_ignore_ascii_case(known)) {
        spec.problem("version", format!("is '{version}': only v1 is known, write that"));
    }
    let ignore_errors = spec.flag("ignoreErrors").unwrap_or(false);
    let init_timeout = spec.duration("initTimeout").unwrap_or(INIT_TIMEOUT);
    let settings = settings(&spec, "metadata", secret_store.as_deref(), Some(around), around);
    spec.finish();
    Some(ComponentPlan {
        origin: root.place("kind"),
        name: name.into(),
        type_name,
        version,
        settings,
        ignore_errors,
        init_timeout,
        scopes,
        secret_store,
    })
}

fn secret_store(root: &Fields<'_>) -> Option<String> {
    let auth = root.map("auth")?;
    let store = auth.text("secretStore").filter(|store| !store.is_empty());
    auth.finish();
    store
}

/// A list of `{name, value | secretKeyRef | envRef}`; the templates of `expand` are filled in.
fn settings(
    spec: &Fields<'_>,
    key: &'static str,
    secret_store: Option<&str>,
    expand: Option<&Surroundings<'_>>,
    around: &Surroundings<'_>,
) -> Vec<(String, Setting)> {
    let mut settings: Vec<(String, Setting)> = Vec::new();
    for item in spec.maps(key) {
        let name = item.required("name");
        let value = item.node("value").map(|node| node.value.to_text());
        let setting = match item.reference(&name, around) {
            Some(Setting::Secret { .. }) if secret_store.is_none() => {
                item.problem("secretKeyRef", format!("of '{name}' {NO_STORE}"));
                continue;
            }
            Some(reference) => reference,
            None => {
                let text = value.unwrap_or_default();
                Setting::Text(match expand {
                    Some(around) => expanded(&text, &item, around),
                    None => text,
                })
            }
        };
        if settings.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            item.problem(
                "name",
                format!("'{name}' is there twice (case does not count): remove one"),
            );
        }
        item.finish();
        settings.push((name, setting));
    }
    settings
}

/// The templates in a value: `{uuid}`, `{podName}`, `{namespace}`, `{appID}`.
fn expanded(text: &str, item: &Fields<'_>, around: &Surroundings<'_>) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find("{uuid}") {
        text.replace_range(at..at + "{uuid}".len(), &env::uuid());
    }
    if text.contains("{podName}") {
        match (around.env)("POD_NAME").filter(|pod| !pod.is_empty()) {
            Some(pod) => text = text.replace("{podName}", &pod),
            None => item.problem("value", "holds {podName}: set the variable POD_NAME"),
        }
    }
    let namespaced = format!("{}.{}", around.namespace_or_default(), around.app_id);
    text.replace("{namespace}", &namespaced).replace("{appID}", &around.app_id)
}

/// `kind: Subscription`, v1alpha1 (`route`) and v2alpha1 (`routes`).
pub(crate) fn subscription(root: &Fields<'_>, name: &str, v2: bool) -> Option<SubscriptionPlan> {
    let scopes = root.texts("scopes").unwrap_or_default();
    let spec = root.required_map("spec")?;
    let pubsub = spec.required("pubsubname");
    let topic = spec.required("topic");
    if !topic.is_empty()
        && let Err(error) = Filter::new(&topic)
    {
        spec.problem("topic", format!("cannot be subscribed to: {}", error.message()));
    }
    let (route, rules) = if v2 { routes(&spec) } else { (spec.required("route"), Vec::new()) };
    if let Some(bulk) = spec.map("bulkSubscribe") {
        if bulk.flag("enabled") == Some(true) {
            bulk.warning("enabled", "is not honoured by this build: messages come one at a time");
        }
        let _ = (bulk.node("maxMessagesCount"), bulk.node("maxAwaitDurationMs"));
        bulk.finish();
    }
    let subscription = SubscriptionPlan {
        name: name.into(),
        pubsub,
        topic,
        route,
        rules,
        dead_letter_topic: spec.text("deadLetterTopic").filter(|topic| !topic.is_empty()),
        metadata: spec.pairs("metadata"),
        scopes,
    };
    spec.finish();
    Some(subscription)
}

fn routes(spec: &Fields<'_>) -> (String, Vec<RuleWritten>) {
    let Some(routes) = spec.required_map("routes") else { return Default::default() };
    let rule = |rule: Fields<'_>| {
        let written = RuleWritten {
            matches: rule.text("match").unwrap_or_default(),
            path: rule.required("path"),
        };
        rule.finish();
        written
    };
    let rules: Vec<_> = routes.maps("rules").into_iter().map(rule).collect();
    let default = routes.text("default").unwrap_or_default();
    if rules.is_empty() && default.is_empty() {
        routes.problem("default", "is missing and there are no rules: say where messages go");
    }
    routes.finish();
    (default, rules)
}

/// `kind: HTTPEndpoint`.
pub(crate) fn endpoint(
    root: &Fields<'_>,
    name: &str,
    around: &Surroundings<'_>,
) -> Option<EndpointPlan> {
    let scopes = root.texts("scopes").unwrap_or_default();
    let secret_store = secret_store(root);
    let spec = root.required_map("spec")?;
    let base_url = spec.required("baseUrl");
    let begins = |scheme: &str| {
        base_url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if begins("https://") {
        spec.wants_tls("baseUrl");
    } else if !base_url.is_empty() && !begins("http://") {
        spec.problem("baseUrl", format!("is '{base_url}': begin it with http:// or https://"));
    }
    if spec.has("clientTLS") {
        spec.warning(
            "clientTLS",
            "is not honoured by this build: the usual authorities are trusted",
        );
    }
    let headers = settings(&spec, "headers", secret_store.as_deref(), None, around);
    spec.finish();
    Some(EndpointPlan { name: name.into(), base_url, headers, secret_store, scopes })
}

/// `kind: Resiliency`: seen and named, not applied.
pub(crate) fn resiliency(root: &Fields<'_>, name: &str) {
    let _ = (root.node("scopes"), root.node("spec"));
    root.warning("kind", format!("Resiliency '{name}': policies are not applied in this build"));
}
