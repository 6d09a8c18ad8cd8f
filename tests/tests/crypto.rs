//! Cryptography over HTTP: every status and code, keys from everywhere, streams of any size, and the
//! format judged by Dapr's own library.
//!
//! What a real Dapr encrypted is decrypted in the replay of `recorded/crypto.json`; this has the rest.

#[path = "crypto/errors.rs"]
mod errors;
#[path = "crypto/judge.rs"]
mod judge;
#[path = "crypto/keys.rs"]
mod keys;
#[path = "crypto/streams.rs"]
mod streams;

use hyper::Method;
use pillion_tests::{Answer, Pillion, Request, Setup};
use serde_json::Value;
use std::path::Path;

/// A provider over the folder `keys` of the test.
fn vault(scopes: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: vault}}\n{scopes}\n\
         spec:\n  type: crypto.dapr.localstorage\n  version: v1\n  metadata:\n  \
         - {{name: path, value: {{dir}}/keys}}\n"
    )
}

/// The throwaway RSA key of the recordings.
fn recorded_key(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/crypto.json");
    let text = std::fs::read_to_string(file).expect("the recordings");
    let recorded: Value = serde_json::from_str(&text).expect("JSON");
    recorded["files"][format!("keys/{name}")].as_str().expect("a key").to_owned()
}

/// A process with the provider `vault` and the keys `rsa.pem`, `sym.b64`, `sym16` and `other`.
fn setup() -> Setup {
    let setup = Setup::new();
    let text = vault("").replace("{dir}", &setup.dir().display().to_string());
    setup
        .resource("vault.yaml", &text)
        .file("keys/rsa.pem", &recorded_key("rsa.pem"))
        .file("keys/sym.b64", &recorded_key("sym.b64"))
        .file("keys/sym16", "-16 bytes long!-")
        .file("keys/other", "-another key of 32 bytes, raw !-")
        .file("outside", "-32 bytes that nobody may ever-!")
}

fn request(verb: &str, headers: &[(&str, &str)]) -> Request {
    let request = Request::new(Method::PUT, &format!("/v1.0-alpha1/crypto/vault/{verb}"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

fn encrypting(key: &str, algorithm: &str) -> Request {
    request("encrypt", &[("dapr-key-name", key), ("dapr-key-wrap-algorithm", algorithm)])
}

async fn encrypt(pillion: &Pillion, key: &str, algorithm: &str, plain: &[u8]) -> Vec<u8> {
    let answer = pillion.send(encrypting(key, algorithm).body(plain.to_vec())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body.to_vec()
}

async fn decrypt(pillion: &Pillion, encrypted: &[u8]) -> Answer {
    pillion.send(request("decrypt", &[]).body(encrypted.to_vec())).await
}

/// Bytes that tell where they stand.
fn pattern(from: u64, length: usize) -> Vec<u8> {
    let words =
        (from / 8..).flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    words.skip(usize::try_from(from % 8).expect("below 8")).take(length).collect()
}
