//! `/v1.0/secrets`.

use super::{Call, empty, error, json, unescape};
use crate::blocks::Blocks;
use crate::body::Body;
use crate::error::{Code, Error, Grpc};
use hyper::{Response, StatusCode};
use serde::Serialize;

const ENCODING: Code = Code::plain("ERR_INTERNAL", 500, Grpc::Internal);

/// `GET /v1.0/secrets/{store}/{name}`; the parameters are not decoded yet.
pub(super) async fn get(call: Call, blocks: &Blocks, store: &str, name: &str) -> Response<Body> {
    match blocks.secrets.get(&call.app, &unescape(store), &unescape(name)).await {
        Ok(Some(secret)) => encoded(&secret),
        Ok(None) => empty(StatusCode::NO_CONTENT),
        Err(failed) => error(&failed),
    }
}

/// `GET /v1.0/secrets/{store}/bulk`.
pub(super) async fn bulk_get(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    match blocks.secrets.bulk_get(&call.app, &unescape(store)).await {
        Ok(secrets) => encoded(&secrets),
        Err(failed) => error(&failed),
    }
}

fn encoded(secrets: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(secrets) {
        Ok(body) => json(StatusCode::OK, body),
        Err(failed) => {
            let message = format!("failed to encode response as JSON: {failed}");
            error(&Error::new(ENCODING, message))
        }
    }
}
