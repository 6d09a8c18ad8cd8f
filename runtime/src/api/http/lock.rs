//! `/v1.0-alpha1/lock` and `/v1.0-alpha1/unlock`.

use super::json::{members, text};
use super::{Call, error, json, unescape};
use crate::blocks::Blocks;
use crate::blocks::lock::Unlocked;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::json;
use serde_json::value::RawValue;
use std::fmt;

const MALFORMED: Code = Code::plain("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument);

/// The body of both; what is absent or `null` is the default.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    resource_id: String,
    lock_owner: String,
    expiry_in_seconds: i32,
}

/// `POST /v1.0-alpha1/lock/{store}`.
pub(super) async fn try_lock(call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    match lock(call, blocks, &unescape(store)).await {
        Ok(success) => json(StatusCode::OK, json!({ "success": success }).to_string()),
        Err(failed) => error(&failed),
    }
}

async fn lock(mut call: Call, blocks: &Blocks, store: &str) -> Result<bool> {
    let Wanted { resource_id, lock_owner, expiry_in_seconds } = read(&mut call).await?;
    blocks.locks.try_lock(&call.app, store, &resource_id, &lock_owner, expiry_in_seconds).await
}

/// `POST /v1.0-alpha1/unlock/{store}`.
pub(super) async fn unlock(mut call: Call, blocks: &Blocks, store: &str) -> Response<Body> {
    let answered = async {
        let Wanted { resource_id, lock_owner, .. } = read(&mut call).await?;
        blocks.locks.unlock(&call.app, &unescape(store), &resource_id, &lock_owner).await
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
    parse(&body).map_err(|failed| {
        Error::new(MALFORMED, format!("failed deserializing HTTP body: {failed}"))
    })
}

/// The JSON form of protobuf: names in both cases, unknown members ignored.
fn parse(body: &[u8]) -> Result<Wanted, serde_json::Error> {
    let mut wanted = Wanted::default();
    members(serde_json::from_slice::<&RawValue>(body)?, |name, value| {
        match name {
            "resourceId" | "resource_id" => wanted.resource_id = text(value)?.unwrap_or_default(),
            "lockOwner" | "lock_owner" => wanted.lock_owner = text(value)?.unwrap_or_default(),
            "expiryInSeconds" | "expiry_in_seconds" => {
                let seconds = serde_json::from_str::<Option<Int32>>(value.get())?;
                wanted.expiry_in_seconds = seconds.map_or(0, |seconds| seconds.0);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(wanted)
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

    fn wanted(text: &str) -> Option<(String, String, i32)> {
        let wanted = parse(text.as_bytes()).ok()?;
        Some((wanted.resource_id, wanted.lock_owner, wanted.expiry_in_seconds))
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
            assert_eq!(wanted(text), expected, "{text}");
        }
        let nulls = r#"{"resourceId":null,"lockOwner":null,"expiryInSeconds":null}"#;
        assert_eq!(wanted(nulls), Some((String::new(), String::new(), 0)));
        assert_eq!(wanted("{}"), Some((String::new(), String::new(), 0)));
        for text in [
            r#"{"resourceId":5}"#,
            r#"{"expiryInSeconds":2.5}"#,
            r#"{"expiryInSeconds":2147483648}"#,
            r#"{"expiryInSeconds":"soon"}"#,
            r#"{"expiryInSeconds":[]}"#,
            "[]",
            r#"["r","o",30]"#,
            "{",
        ] {
            assert_eq!(wanted(text), None, "{text}");
        }
    }
}
