//! `GET /dapr/subscribe`: what an app says it wants.

use crate::app::channel::{CallError, Channel};
use crate::body::Body;
use crate::resources::{RuleWritten, SubscriptionPlan};
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::{Map, Value};
use std::time::Duration;
use tracing::{info, warn};

/// Tries after the first when the app cannot be reached.
const RETRIES: u32 = 3;

/// Wait before the first retry; it doubles.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// Time for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Most subscriptions of one app: each has a task and a queue.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// The app's subscriptions; `None` when it gave no answer to go by.
pub(super) async fn subscriptions(
    app_id: &str,
    channel: &Channel,
) -> Option<Vec<SubscriptionPlan>> {
    let mut wait = RETRY_WAIT;
    for _ in 0..RETRIES {
        match once(app_id, channel).await {
            Ok(plans) => return plans,
            Err(error) => {
                warn!(app_id, %error, "the app could not be asked for its subscriptions, trying again");
            }
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    match once(app_id, channel).await {
        Ok(plans) => plans,
        Err(error) => {
            warn!(app_id, %error, "the app could not be asked for its subscriptions");
            None
        }
    }
}

/// One try; the error is one of the connection.
async fn once(app_id: &str, channel: &Channel) -> Result<Option<Vec<SubscriptionPlan>>, CallError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = hyper::Uri::from_static("/dapr/subscribe");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(app_id) {
        headers.insert("dapr-app-id", id);
    }
    let answer = channel.call_whole(request, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await?;
    Ok(judge(app_id, answer.status(), answer.body()))
}

fn judge(app_id: &str, status: StatusCode, body: &Bytes) -> Option<Vec<SubscriptionPlan>> {
    if status == StatusCode::NOT_FOUND || (status.is_success() && body.is_empty()) {
        info!(app_id, "the app has no subscriptions of its own");
        return None;
    }
    if !status.is_success() {
        warn!(app_id, status = status.as_u16(), "the app refused to tell its subscriptions");
        return None;
    }
    match parse(body) {
        Ok(plans) => Some(plans),
        Err(error) => {
            warn!(app_id, %error, "the app's subscriptions cannot be read");
            None
        }
    }
}

/// The plans in the app's answer. Names are matched without case, as some SDKs write `pubsubName`.
fn parse(body: &[u8]) -> Result<Vec<SubscriptionPlan>, String> {
    let list: Option<Vec<Map<String, Value>>> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let list = list.unwrap_or_default();
    if list.len() > SUBSCRIPTIONS_MAX {
        return Err(format!("{} subscriptions: at most {SUBSCRIPTIONS_MAX}", list.len()));
    }
    Ok(list.iter().filter_map(plan).collect())
}

fn plan(written: &Map<String, Value>) -> Option<SubscriptionPlan> {
    let text = |name| member(written, name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (pubsub, topic) = (text("pubsubname"), text("topic"));
    let routes = member(written, "routes").and_then(Value::as_object);
    let default = routes.and_then(|routes| member(routes, "default")).and_then(Value::as_str);
    let route =
        default.filter(|path| !path.is_empty()).map_or_else(|| text("route"), str::to_owned);
    let rules = rules(routes);
    if pubsub.is_empty() || topic.is_empty() || (route.is_empty() && rules.is_empty()) {
        warn!(pubsub, topic, "a subscription of the app lacks a name, a topic or a path");
        return None;
    }
    let bulk = member(written, "bulkSubscribe").and_then(Value::as_object);
    if bulk.and_then(|bulk| member(bulk, "enabled")).and_then(Value::as_bool) == Some(true) {
        warn!(pubsub, topic, "bulkSubscribe is on: messages are delivered one by one all the same");
    }
    Some(SubscriptionPlan {
        name: String::new(),
        pubsub,
        topic,
        route,
        rules,
        dead_letter_topic: Some(text("deadLetterTopic")).filter(|topic| !topic.is_empty()),
        metadata: metadata(written),
        scopes: Vec::new(),
    })
}

fn rules(routes: Option<&Map<String, Value>>) -> Vec<RuleWritten> {
    let written = routes.and_then(|routes| member(routes, "rules")).and_then(Value::as_array);
    let rule = |rule: &Value| {
        let text = |name| member(rule.as_object()?, name)?.as_str().map(str::to_owned);
        let path = text("path").filter(|path| !path.is_empty())?;
        Some(RuleWritten { matches: text("match").unwrap_or_default(), path })
    };
    written.map(|rules| rules.iter().filter_map(rule).collect()).unwrap_or_default()
}

fn metadata(written: &Map<String, Value>) -> Vec<(String, String)> {
    let pair = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text)
    };
    let written = member(written, "metadata").and_then(Value::as_object);
    written.map(|pairs| pairs.iter().map(pair).collect()).unwrap_or_default()
}

fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let exact = object.get(name);
    exact.or_else(|| Some(object.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_routes_are_read() {
        let text = r#"[
            {"pubsubname":"p","topic":"a","route":"/a","metadata":{"rawPayload":"true","n":1}},
            {"pubsubName":"p","topic":"b","route":"/no","routes":{"rules":[
                {"match":"event.type == \"x\"","path":"/x"},{"match":"true","path":""}],
                "default":"/b"},"deadLetterTopic":"graves","bulkSubscribe":{"enabled":true}},
            {"pubsubname":"p","topic":"c"}]"#;
        let plans = parse(text.as_bytes()).expect("plans");
        let [a, b] = plans.as_slice() else { panic!("{plans:?}") };
        assert_eq!(a.route, "/a");
        assert!(a.metadata.contains(&("rawPayload".into(), "true".into())));
        assert!(a.metadata.contains(&("n".into(), "1".into())));
        assert_eq!((b.route.as_str(), b.rules.len()), ("/b", 1));
        assert_eq!(b.dead_letter_topic.as_deref(), Some("graves"));
    }

    #[test]
    fn nothing_and_nonsense_are_told_apart() {
        assert_eq!(parse(b"null"), Ok(Vec::new()));
        assert_eq!(parse(b"[]"), Ok(Vec::new()));
        assert!(parse(b"{}").is_err());
        assert!(parse(b"[1]").is_err());
    }
}
