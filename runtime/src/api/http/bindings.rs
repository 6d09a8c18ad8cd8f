//! `/v1.0/bindings`.

use super::json::{compact, members, text, texts};
use super::{Call, empty, error, json, unescape};
use crate::blocks::Blocks;
use crate::blocks::bindings::{Invocation, Invoked};
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::value::RawValue;

const MALFORMED: Code = Code::plain("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument);

/// What a request without data hands to the component.
const NO_DATA: &[u8] = b"null";

/// What the body of a request asks for.
#[derive(Default)]
struct Asked {
    operation: String,
    data: Option<Bytes>,
    metadata: Vec<(String, String)>,
}

/// `POST|PUT /v1.0/bindings/{name}`; the name is not decoded yet.
pub(super) async fn invoke(mut call: Call, blocks: &Blocks, name: &str) -> Response<Body> {
    let asked = match ask(&mut call).await {
        Ok(asked) => asked,
        Err(refused) => return error(&refused),
    };
    let invocation = Invocation {
        operation: &asked.operation,
        data: asked.data.unwrap_or(Bytes::from_static(NO_DATA)),
        metadata: asked.metadata,
        trace: &call.trace,
    };
    let Invoked { result, metadata } =
        blocks.bindings.invoke(&call.app, &unescape(name), invocation).await;
    let mut response = match result {
        Ok(Some(data)) => json(StatusCode::OK, data),
        Ok(None) => empty(StatusCode::NO_CONTENT),
        Err(failed) => error(&failed),
    };
    tell(&metadata, response.headers_mut());
    response
}

async fn ask(call: &mut Call) -> Result<Asked> {
    let body = call.read_body().await?;
    decode(&body)
        .map_err(|error| Error::new(MALFORMED, format!("failed deserializing HTTP body: {error}")))
}

fn decode(body: &Bytes) -> serde_json::Result<Asked> {
    let mut asked = Asked::default();
    let object: &RawValue = serde_json::from_slice(body)?;
    members(object, |name, value| {
        match name.to_ascii_lowercase().as_str() {
            "operation" => asked.operation = text(value)?.unwrap_or_default(),
            "data" => asked.data = Some(compact(body, value)),
            "metadata" => asked.metadata = texts(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(asked)
}

/// One header for each entry that may be one.
fn tell(metadata: &[(String, String)], headers: &mut HeaderMap) {
    for (name, value) in metadata {
        let name = HeaderName::from_bytes(format!("metadata.{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_no_case_and_data_keeps_its_text() {
        let body =
            br#"{"Operation": "create", "DATA": {"n": 1.50}, "metadata": {"a": "b"}, "x": 1}"#;
        let asked = decode(&Bytes::from_static(body)).unwrap();
        assert_eq!(asked.operation, "create");
        assert_eq!(asked.data.unwrap(), r#"{"n":1.50}"#);
        assert_eq!(asked.metadata, [("a".to_owned(), "b".to_owned())]);
        for body in ["", "{", "[]", r#"{"operation": 1}"#, r#"{"metadata": {"a": 1}}"#] {
            assert!(decode(&Bytes::from_static(body.as_bytes())).is_err(), "{body}");
        }
    }
}
