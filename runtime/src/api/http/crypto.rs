//! `/v1.0-alpha1/crypto`: bodies that are encrypted and decrypted as they pass.

use super::{Call, error, unescape};
use crate::blocks::Blocks;
use crate::blocks::crypto::{Encryption, Provider};
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use pillion_components::options::is_truthy;

const BAD_REQUEST: Code = Code::plain("ERR_BAD_REQUEST", 400, Grpc::InvalidArgument);

const KEY_NAME: &str = "dapr-key-name";
const KEY_WRAP_ALGORITHM: &str = "dapr-key-wrap-algorithm";
const CIPHER: &str = "dapr-data-encryption-cipher";
const OMIT_KEY_NAME: &str = "dapr-omit-decryption-key-name";
const DECRYPTION_KEY_NAME: &str = "dapr-decryption-key-name";

/// `PUT /v1.0-alpha1/crypto/{provider}/encrypt` and `…/decrypt`; the parameters are headers.
pub(super) async fn put(call: Call, blocks: &Blocks, name: &str, verb: &str) -> Response<Body> {
    let app = call.app.clone();
    let result = match blocks.crypto.provider(&app, &unescape(name)) {
        Ok(provider) if verb == "encrypt" => encrypt(call, &provider).await,
        Ok(provider) => provider.decrypt(text(&call, KEY_NAME), Body::stream(call.body)).await,
        Err(failed) => Err(failed),
    };
    match result {
        Ok(body) => {
            let mut response = Response::new(body);
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(failed) => error(&failed),
    }
}

async fn encrypt(call: Call, provider: &Provider<'_>) -> Result<Body> {
    let required = |name: &str| {
        text(&call, name).ok_or_else(|| {
            Error::new(BAD_REQUEST, format!("invalid request: missing header '{name}'"))
        })
    };
    let chosen = Encryption {
        key_name: required(KEY_NAME)?,
        algorithm: required(KEY_WRAP_ALGORITHM)?,
        cipher: text(&call, CIPHER),
        omit_key_name: text(&call, OMIT_KEY_NAME).as_deref().is_some_and(is_truthy),
        decryption_key_name: text(&call, DECRYPTION_KEY_NAME),
    };
    provider.encrypt(chosen, Body::stream(call.body)).await
}

/// A header's text; names of keys need not be ASCII. An empty one counts as absent.
fn text(call: &Call, name: &str) -> Option<String> {
    let value = call.head.headers.get(name)?;
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    Some(text).filter(|text| !text.is_empty())
}
