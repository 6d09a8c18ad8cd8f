//! `/v1.0/state`.
//!
//! A store is looked up before a body is read: an unknown one is told to who sent a wrong body as
//! well, as in Dapr.

mod decode;

use super::{Call, empty, error, json, unescape};
use crate::blocks::Blocks;
use crate::blocks::state::Store;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use bytes::Bytes;
use decode::Refused;
use hyper::header::{ETAG, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use pillion_components::env::rfc3339_utc;
use pillion_components::state::{Delete, Item};
use serde::Serialize;
use serde_json::value::RawValue;

const EXPIRES: HeaderName = HeaderName::from_static("metadata.ttlexpiretime");

const MALFORMED: Code = Code::plain("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument);
const UNKNOWN_OPERATION: Code =
    Code::plain("ERR_NOT_SUPPORTED_STATE_OPERATION", 400, Grpc::InvalidArgument);
const ENCODING: Code = Code::plain("ERR_INTERNAL", 500, Grpc::Internal);

/// `GET /v1.0/state/{store}/{key}`. Parameters are not decoded yet, here and below.
pub(super) async fn get(call: Call, blocks: &Blocks, store: &str, key: &str) -> Response<Body> {
    let found = async {
        let store = blocks.state.store(&call.app, &unescape(store))?;
        store.get(&unescape(key)).await
    };
    match found.await {
        Ok(Some(item)) => value(item),
        Ok(None) => empty(StatusCode::NO_CONTENT),
        Err(failed) => error(&failed),
    }
}

fn value(item: Item) -> Response<Body> {
    let mut response = json(StatusCode::OK, item.value);
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&item.etag) {
        headers.insert(ETAG, etag);
    }
    let expires = item.expires_ms.map(rfc3339_utc);
    if let Some(Ok(expires)) = expires.as_deref().map(HeaderValue::from_str) {
        headers.insert(EXPIRES, expires);
    }
    response
}

/// `POST|PUT /v1.0/state/{store}`.
pub(super) async fn save(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    done(try_save(call, blocks, store).await)
}

async fn try_save(mut call: Call, blocks: &Blocks, store: &str) -> Result<()> {
    let app = call.app.clone();
    let store = blocks.state.store(&app, &unescape(store))?;
    let body = call.read_body().await?;
    let sets = decode::sets(&body, &call.query_metadata()).map_err(|refused| match refused {
        Refused::Malformed(text) => Error::new(MALFORMED, text),
        Refused::ByStore(why) => store.save_failed(&why),
        Refused::Operation(verb) => unknown_operation(&verb),
    })?;
    store.save(sets).await
}

/// `DELETE /v1.0/state/{store}/{key}`.
pub(super) async fn delete(call: Call, blocks: &Blocks, store: &str, key: &str) -> Response<Body> {
    done(try_delete(&call, blocks, store, key).await)
}

async fn try_delete(call: &Call, blocks: &Blocks, store: &str, key: &str) -> Result<()> {
    let store = blocks.state.store(&call.app, &unescape(store))?;
    let key = unescape(key).into_owned();
    let (concurrency, consistency) =
        (call.query_value("concurrency"), call.query_value("consistency"));
    let options = decode::options(concurrency.as_deref(), consistency.as_deref());
    let (_concurrency, consistency) = options.map_err(|why| store.delete_failed(&key, &why))?;
    let etag = call.header("if-match").filter(|etag| !etag.is_empty()).map(str::to_owned);
    store.delete(Delete { key, etag, consistency }).await
}

/// `POST|PUT /v1.0/state/{store}/transaction`.
pub(super) async fn transaction(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    done(try_transaction(call, blocks, store).await)
}

async fn try_transaction(mut call: Call, blocks: &Blocks, store: &str) -> Result<()> {
    let app = call.app.clone();
    let store = blocks.state.store(&app, &unescape(store))?;
    store.transactional()?;
    let body = call.read_body().await?;
    let operations = decode::operations(&body).map_err(|refused| match refused {
        Refused::Malformed(text) => {
            Error::new(MALFORMED, format!("failed deserializing HTTP body: {text}"))
        }
        Refused::ByStore(why) => store.transaction_failed(&why),
        Refused::Operation(verb) => unknown_operation(&verb),
    })?;
    store.transact(operations).await
}

/// `POST|PUT /v1.0/state/{store}/bulk`.
pub(super) async fn bulk_get(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    match try_bulk_get(call, blocks, store).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(failed) => error(&failed),
    }
}

#[derive(Serialize)]
struct Found<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<FoundMetadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FoundMetadata {
    ttl_expire_time: String,
}

async fn try_bulk_get(mut call: Call, blocks: &Blocks, store: &str) -> Result<Bytes> {
    let app = call.app.clone();
    let store = blocks.state.store(&app, &unescape(store))?;
    let body = call.read_body().await?;
    let keys = decode::keys(&body)
        .map_err(|text| Error::new(MALFORMED, format!("failed deserializing HTTP body: {text}")))?;
    encode_found(&store, &keys).await
}

async fn encode_found(store: &Store<'_>, keys: &[String]) -> Result<Bytes> {
    let items = store.bulk_get(keys).await?;
    let found: Vec<Found<'_>> =
        keys.iter().zip(&items).map(|(key, item)| Found::of(key, item)).collect();
    match serde_json::to_vec(&found) {
        Ok(body) => Ok(body.into()),
        Err(failed) => {
            let message = format!("failed to encode response as JSON: {failed}");
            Err(Error::new(ENCODING, message))
        }
    }
}

impl<'a> Found<'a> {
    fn of(key: &'a str, item: &'a Result<Option<Item>, pillion_components::Error>) -> Self {
        let nothing = Self { key, data: None, etag: None, metadata: None, error: None };
        match item {
            Ok(None) => nothing,
            // A value that is no JSON was not written here; it must not spoil the others.
            Ok(Some(item)) => match serde_json::from_slice(&item.value) {
                Ok(data) => Self {
                    data: Some(data),
                    etag: Some(&item.etag),
                    metadata: item
                        .expires_ms
                        .map(|ms| FoundMetadata { ttl_expire_time: rfc3339_utc(ms) }),
                    ..nothing
                },
                Err(_) => Self { error: Some("the value is not JSON".into()), ..nothing },
            },
            Err(error) => Self { error: Some(error.message().to_owned()), ..nothing },
        }
    }
}

/// `POST|PUT /v1.0-alpha1/state/{store}/query`.
pub(super) fn query(call: &Call, blocks: &Blocks, store: &str) -> Response<Body> {
    match blocks.state.store(&call.app, &unescape(store)) {
        Ok(store) => error(&store.query_unsupported()),
        Err(failed) => error(&failed),
    }
}

fn unknown_operation(verb: &str) -> Error {
    Error::new(UNKNOWN_OPERATION, format!("operation type {verb} not supported"))
}

fn done(result: Result<()>) -> Response<Body> {
    match result {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(failed) => error(&failed),
    }
}
