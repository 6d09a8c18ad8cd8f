//! `/v1.0/configuration`, and the same under `/v1.0-alpha1`.

use super::{Call, empty, error, json, unescape};
use crate::blocks::Blocks;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use hyper::{Response, StatusCode};
use serde_json::json;

const ENCODING: Code = Code::plain("ERR_INTERNAL", 500, Grpc::Internal);

/// `GET /v1.0/configuration/{store}` and what lies below it; the parameters are not decoded yet.
pub(super) async fn answer(call: Call, blocks: &Blocks, store: &str, rest: &str) -> Response<Body> {
    let store = unescape(store);
    let answered = match rest.split_once('/') {
        None if rest.is_empty() => get(&call, blocks, &store).await,
        None => subscribe(&call, blocks, &store).await,
        Some((id, _unsubscribe)) => unsubscribe(&call, blocks, &store, &unescape(id)),
    };
    answered.unwrap_or_else(|failed| error(&failed))
}

async fn get(call: &Call, blocks: &Blocks, store: &str) -> Result<Response<Body>> {
    let items = blocks.configuration.get(&call.app, store, &keys(call)).await?;
    if items.is_empty() {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    let body = serde_json::to_vec(&items).map_err(|failed| {
        Error::new(ENCODING, format!("failed to encode response as JSON: {failed}"))
    })?;
    Ok(json(StatusCode::OK, body))
}

async fn subscribe(call: &Call, blocks: &Blocks, store: &str) -> Result<Response<Body>> {
    let id = blocks.configuration.subscribe(&call.app, store, &keys(call)).await?;
    Ok(json(StatusCode::OK, json!({ "id": *id }).to_string()))
}

/// The one answer that says what went wrong without a code.
fn unsubscribe(call: &Call, blocks: &Blocks, store: &str, id: &str) -> Result<Response<Body>> {
    if blocks.configuration.unsubscribe(&call.app, store, id)? {
        return Ok(json(StatusCode::OK, json!({ "ok": true }).to_string()));
    }
    let message = format!(
        "failed to unsubscribe to configuration request {id}: subscription with id {id} does not \
         exist"
    );
    let body = json!({ "message": message }).to_string();
    Ok(json(StatusCode::INTERNAL_SERVER_ERROR, body))
}

/// Every `key` of the query.
fn keys(call: &Call) -> Vec<String> {
    let keys = call.query().filter(|(name, _)| name == "key");
    keys.map(|(_, key)| key.into_owned()).collect()
}
