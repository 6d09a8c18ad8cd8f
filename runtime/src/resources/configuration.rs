//! `kind: Configuration`: what this build honours of it; every other section is named in a warning.

use super::fields::{Environment, Fields};
use super::yaml::{Document, Node, Value};
use super::{ConfigurationPlan, SecretScope};

/// Reads a Configuration over what an earlier one said.
pub(crate) fn read(root: &Fields<'_>, plan: &mut ConfigurationPlan) {
    let Some(spec) = root.map("spec") else { return };
    for key in ["metrics", "metric"] {
        if let Some(metrics) = spec.map(key) {
            if let Some(enabled) = metrics.flag("enabled") {
                plan.metrics_enabled = enabled;
            }
            not_honoured(&metrics, &["http", "rules", "latencyDistributionBuckets", "workflow"]);
            let _ = metrics.node("recordErrorCodes");
            metrics.finish();
        }
    }
    if let Some(logging) = spec.map("logging") {
        if let Some(api) = logging.map("apiLogging") {
            let logging = &mut plan.api_logging;
            logging.enabled = api.flag("enabled").unwrap_or(logging.enabled);
            logging.obfuscate_urls = api.flag("obfuscateURLs").unwrap_or(logging.obfuscate_urls);
            logging.omit_health_checks =
                api.flag("omitHealthChecks").unwrap_or(logging.omit_health_checks);
            api.finish();
        }
        logging.finish();
    }
    if let Some(tracing) = spec.map("tracing") {
        plan.sampling_rate = sampling_rate(&tracing);
        not_honoured(&tracing, &["stdout", "zipkin", "otel"]);
        tracing.finish();
    }
    if let Some(secrets) = spec.map("secrets") {
        plan.secret_scopes = secrets.maps("scopes").into_iter().map(secret_scope).collect();
        secrets.finish();
    }
    if let Some(resolution) = spec.map("nameResolution") {
        let component = resolution.text("component").unwrap_or_default();
        if !["", "mdns"].contains(&component.as_str()) {
            let text = format!("'{component}' is not honoured by this build: apps of one process");
            resolution.warning("component", format!("{text} find each other, others do not"));
        }
        let _ = (resolution.node("version"), resolution.node("configuration"));
        resolution.finish();
    }
    not_honoured(&spec, NOT_HONOURED);
    spec.finish();
}

/// Sections of a Configuration that Dapr has and this build does not.
const NOT_HONOURED: &[&str] = &[
    "httpPipeline",
    "appHttpPipeline",
    "accessControl",
    "api",
    "components",
    "features",
    "mtls",
    "wasm",
    "workflow",
];

fn not_honoured(fields: &Fields<'_>, keys: &[&'static str]) {
    for key in keys {
        if fields.has(key) {
            fields.warning(key, "is not honoured by this build");
        }
    }
}

/// A share from 0 to 1, written as text; Dapr takes its default for what it cannot read.
fn sampling_rate(tracing: &Fields<'_>) -> f64 {
    let default = ConfigurationPlan::default().sampling_rate;
    let Some(node) = tracing.node("samplingRate") else { return default };
    let text = node.value.to_text();
    match text.trim().parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => rate,
        _ => {
            let text = format!("is '{text}': {default} is taken; write a number from 0 to 1");
            tracing.warning("samplingRate", text);
            default
        }
    }
}

fn secret_scope(scope: Fields<'_>) -> SecretScope {
    let words = [("allow", true), ("deny", false)];
    let read = SecretScope {
        store: scope.required("storeName"),
        allowed_by_default: scope.word("defaultAccess", &words).unwrap_or(true),
        allowed: scope.texts("allowedSecrets").unwrap_or_default(),
        denied: scope.texts("deniedSecrets").unwrap_or_default(),
    };
    scope.finish();
    read
}

/// Fills `$VAR` and `${VAR}` in every text of the document; a variable that is not set is empty.
pub(crate) fn expand_environment(document: &mut Document, env: Environment<'_>) {
    expand_node(&mut document.root, env);
}

fn expand_node(node: &mut Node, env: Environment<'_>) {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => *text = expanded(text, env),
        Value::List(nodes) => nodes.iter_mut().for_each(|node| expand_node(node, env)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| expand_node(&mut entry.node, env));
        }
        _ => {}
    }
}

fn expanded(text: &str, env: Environment<'_>) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('$');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (name, rest) = match braced {
            Some(parts) => parts,
            None => part.split_at(part.find(|c| !is_name(c)).unwrap_or(part.len())),
        };
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&env(name).unwrap_or_default());
        }
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let env = |name: &str| (name == "A_1").then(|| String::from("x"));
        for (text, expected) in [
            ("$A_1", "x"),
            ("-${A_1}-$A_1.", "-x-x."),
            ("$NONE|", "|"),
            ("5$ and $$A_1", "5$ and $x"),
        ] {
            assert_eq!(expanded(text, &env), expected);
        }
    }
}
