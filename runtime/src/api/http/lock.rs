//! `/v1.0-alpha1/lock` and `/v1.0-alpha1/unlock`.

use super::{Call, error, json, unescape};
use crate::blocks::Blocks;
use crate::blocks::lock::Unlocked;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::json;
use std::fmt;

const MALFORMED: Code = Code::plain("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument);

/// The body of both, in the JSON form of protobuf: names in both cases, unknown members ignored,
/// `null` and what is absent as the default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    #[serde(rename = "resourceId", alias = "resource_id")]
    resource_id: Option<String>,
    #[serde(rename = "lockOwner", alias = "lock_owner")]
    lock_owner: Option<String>,
    #[serde(rename = "expiryInSeconds", alias = "expiry_in_seconds")]
    expiry_in_seconds: Option<Int32>,
}

/// `POST /v1.0-alpha1/lock/{store}`.
pub(super) async fn try_lock(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    match lock(call, blocks, &unescape(store)).await {
        Ok(success) => json(StatusCode::OK, json!({ "success": success }).to_string()),
        Err(failed) => error(&failed),
    }
}

async fn lock(mut call: Call, blocks: &Blocks, store: &str) -> Result<bool> {
    let wanted = read(&mut call).await?;
    let (resource, owner) = (wanted.resource_id.unwrap_or_default(), wanted.lock_owner);
    let expiry_s = wanted.expiry_in_seconds.map_or(0, |seconds| seconds.0);
    blocks.locks.try_lock(&call.app, store, &resource, &owner.unwrap_or_default(), expiry_s).await
}

/// `POST /v1.0-alpha1/unlock/{store}`.
pub(super) async fn unlock(mut call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    let answered = async {
        let wanted = read(&mut call).await?;
        let (resource, owner) = (wanted.resource_id.unwrap_or_default(), wanted.lock_owner);
        let owner = owner.unwrap_or_default();
        blocks.locks.unlock(&call.app, &unescape(store), &resource, &owner).await
    };
    match answered.await {
        Ok(unlocked) => json(StatusCode::OK, json!({ "status": status(unlocked) }).to_string()),
        Err(failed) => error(&failed),
    }
}

/// Dapr's numbers. Its 3 is an internal error, which is an error body here as there.
const fn status(unlocked: Unlocked) -> u8 {
    match unlocked {
        Unlocked::Done => 0,
        Unlocked::Missing => 1,
        Unlocked::Foreign => 2,
    }
}

async fn read(call: &mut Call) -> Result<Wanted> {
    let body = call.read_body().await?;
    if body.is_empty() {
        return Ok(Wanted::default());
    }
    serde_json::from_slice(&body).map_err(|failed| {
        Error::new(MALFORMED, format!("failed deserializing HTTP body: {failed}"))
    })
}

/// A number of 32 bits in the JSON form of protobuf: `30`, `30.0`, `"30"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Int32(i32);

impl<'de> Deserialize<'de> for Int32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Int32Visitor)
    }
}

struct Int32Visitor;

impl Visitor<'_> for Int32Visitor {
    type Value = Int32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 32 bits")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Int32, E> {
        i32::try_from(number)
            .map(Int32)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Int32, E> {
        i32::try_from(number)
            .map(Int32)
            .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Int32, E> {
        let is_whole = number.fract() == 0.0;
        let fits = number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX);
        if is_whole && fits {
            #[expect(clippy::cast_possible_truncation, reason = "checked on the line above")]
            return Ok(Int32(number as i32));
        }
        Err(E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Int32, E> {
        let number = text.parse::<i32>();
        number.map(Int32).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(String, String, i32)> {
        let wanted: Wanted = serde_json::from_str(text).ok()?;
        Some((
            wanted.resource_id.unwrap_or_default(),
            wanted.lock_owner.unwrap_or_default(),
            wanted.expiry_in_seconds.map_or(0, |seconds| seconds.0),
        ))
    }

    #[test]
    fn bodies_are_read_as_protobuf_has_them_in_json() {
        let expected = Some(("r".to_owned(), "o".to_owned(), 30));
        for text in [
            r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":30}"#,
            r#"{"resource_id":"r","lock_owner":"o","expiry_in_seconds":"30"}"#,
            r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":30.0,"more":[{}]}"#,
            r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":3e1}"#,
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        let nulls = r#"{"resourceId":null,"lockOwner":null,"expiryInSeconds":null}"#;
        assert_eq!(parse(nulls), Some((String::new(), String::new(), 0)));
        assert_eq!(parse("{}"), Some((String::new(), String::new(), 0)));
        for text in [
            r#"{"resourceId":5}"#,
            r#"{"expiryInSeconds":2.5}"#,
            r#"{"expiryInSeconds":2147483648}"#,
            r#"{"expiryInSeconds":"soon"}"#,
            r#"{"expiryInSeconds":[]}"#,
            "[]x",
            "{",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
