//! `/v1.0/publish`.

mod entries;

use super::{Call, empty, error, invoke, json, unescape};
use crate::blocks::Blocks;
use crate::blocks::pubsub::Publication;
use crate::blocks::pubsub::bulk::Failed;
use crate::body::Body;
use crate::error::Result;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use std::borrow::Cow;

/// `POST|PUT /v1.0/publish/{pubsub}/{topic…}`; `rest` is what follows `publish/`, not decoded.
pub(super) async fn one(mut call: Call, blocks: &Blocks, rest: &str) -> Response<Body> {
    let Some((pubsub, topic)) = split(rest) else {
        return invoke::by_header(call, blocks).await;
    };
    match publish(&mut call, blocks, &pubsub, &topic).await {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(refused) => error(&refused),
    }
}

/// `POST|PUT /v1.0/publish/bulk/{pubsub}/{topic…}`; `rest` is what follows `bulk/`, not decoded.
pub(super) async fn bulk(mut call: Call, blocks: &Blocks, rest: &str) -> Response<Body> {
    let Some((pubsub, topic)) = split(rest) else {
        // Without a topic it reads as topic `rest` of a component called `bulk`.
        return Box::pin(one(call, blocks, &format!("bulk/{rest}"))).await;
    };
    match publish_bulk(&mut call, blocks, &pubsub, &topic).await {
        Ok(failed) if failed.is_empty() => empty(StatusCode::NO_CONTENT),
        Ok(failed) => failed_entries(&failed),
        Err(refused) => error(&refused),
    }
}

/// Component and topic, decoded; the topic is all the rest of the path.
fn split(rest: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (pubsub, topic) = rest.split_once('/')?;
    let is_complete = !pubsub.is_empty() && !topic.is_empty();
    is_complete.then(|| (unescape(pubsub), unescape(topic)))
}

async fn publish(call: &mut Call, blocks: &Blocks, pubsub: &str, topic: &str) -> Result<()> {
    let app = call.app.clone();
    let target = blocks.pubsub.target(&app, pubsub, topic)?;
    let body = call.read_body().await.map_err(|error| target.unreadable(error.message()))?;
    let publication = Publication {
        content_type: content_type(call),
        metadata: call.query_metadata(),
        body,
        trace: &call.trace,
    };
    target.publish(publication).await
}

async fn publish_bulk(
    call: &mut Call,
    blocks: &Blocks,
    pubsub: &str,
    topic: &str,
) -> Result<Vec<Failed>> {
    let app = call.app.clone();
    let target = blocks.pubsub.target(&app, pubsub, topic)?;
    let body = call.read_body().await.map_err(|error| target.undecodable(error.message()))?;
    let entries = entries::decode(&target, &body)?;
    target.bulk_publish(entries, &call.query_metadata(), &call.trace).await
}

fn content_type(call: &Call) -> Option<&str> {
    call.head.headers.get(CONTENT_TYPE)?.to_str().ok()
}

/// Which entries were not stored. The status is 500, or that of the errors where all agree on one
/// that tells the caller more.
fn failed_entries(failed: &[Failed]) -> Response<Body> {
    let entry = |failed: &Failed| serde_json::json!({"entryId": failed.id, "error": failed.error.message()});
    let list: Vec<_> = failed.iter().map(entry).collect();
    let body = serde_json::json!({
        "failedEntries": list,
        "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE",
    })
    .to_string();
    let first = failed.first().map_or(500, |failed| failed.error.code().http);
    let agreed = failed.iter().all(|failed| failed.error.code().http == first);
    let status = if agreed { first } else { 500 };
    let text = failed.first().map(|failed| failed.error.message().to_owned()).unwrap_or_default();
    let mut response = json(
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        body.clone(),
    );
    for (name, value) in [("metadata.responsedata", body), ("metadata.error", text)] {
        // A long list stays out of the head: clients bound the size of a header.
        if let Some(value) = HeaderValue::from_str(&value).ok().filter(|v| v.len() <= 4096) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
