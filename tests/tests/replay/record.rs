//! The recordings as they lie on disk.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// One file.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) resources: Vec<(String, String)>,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) config: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) app_answers: Value,
    pub(crate) at_start: Vec<AppRequest>,
    pub(crate) cases: Vec<Case>,
    pub(crate) exit_code: i32,
}

/// One request and what came of it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The recording has no answer: the connection broke.
    pub(crate) failed: bool,
    pub(crate) status: Option<u16>,
    pub(crate) answer_headers: Vec<(String, String)>,
    pub(crate) answer_body: String,
    pub(crate) app: Vec<AppRequest>,
}

/// One request that the app was asked.
pub(crate) struct AppRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) answered: u16,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded")
}

/// Names of all scenarios.
pub(crate) fn all() -> Vec<String> {
    let files = fs::read_dir(folder()).expect("the recordings");
    let name = |file: fs::DirEntry| {
        let name = file.file_name().into_string().expect("a name in ASCII");
        name.strip_suffix(".json").map(str::to_owned)
    };
    files.filter_map(|file| name(file.expect("a readable folder"))).collect()
}

impl Scenario {
    pub(crate) fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(format!("{name}.json"))).expect("a recording");
        let file: Value = serde_json::from_str(&text).expect("JSON");
        let list = |key: &str| file[key].as_array().cloned().unwrap_or_default();
        Self {
            name: name.to_owned(),
            resources: texts(&file["resources"]),
            files: texts(&file["files"]),
            config: file["config"].as_str().map(str::to_owned),
            args: list("args").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            env: texts(&file["env"]),
            app_answers: file["app_answers"].clone(),
            at_start: list("at_start_the_app_was_asked").iter().map(AppRequest::read).collect(),
            cases: list("cases").iter().map(Case::read).collect(),
            exit_code: file["exit_code_on_SIGTERM"]
                .as_i64()
                .and_then(|code| i32::try_from(code).ok())
                .unwrap_or_default(),
        }
    }

    /// How many subscriptions the recorded metadata shows.
    pub(crate) fn subscriptions(&self) -> usize {
        let count = |case: &Case| {
            // The port stands there as a number.
            let body = case.answer_body.replace("{app_port}", "1");
            let body: Value = serde_json::from_str(&body).ok()?;
            body["subscriptions"].as_array().map(Vec::len)
        };
        self.cases.iter().filter_map(count).max().unwrap_or_default()
    }

    /// The token that calls must carry.
    pub(crate) fn api_token(&self) -> Option<&str> {
        let token = self.env.iter().find(|(name, _)| name == "DAPR_API_TOKEN");
        token.map(|(_, value)| value.as_str())
    }
}

impl Case {
    fn read(case: &Value) -> Self {
        if let Some(encrypted) = case["encrypted_base64"].as_str() {
            return Self::decryption(case, encrypted);
        }
        let (request, response) = (&case["request"], &case["response"]);
        let note = request["body_note"].as_str().unwrap_or_default();
        Self {
            name: text(&case["name"]),
            method: text(&request["method"]),
            path: text(&request["path"]),
            headers: texts(&request["headers"]),
            body: if note.is_empty() { body(request) } else { oversized(note) },
            failed: response["failed"].is_string(),
            status: response["status"].as_u64().and_then(|status| u16::try_from(status).ok()),
            answer_headers: texts(&response["headers"]),
            answer_body: String::from_utf8_lossy(&body(response)).into_owned(),
            app: case["app"].as_array().into_iter().flatten().map(AppRequest::read).collect(),
        }
    }
}

impl Case {
    /// What was encrypted, to be decrypted.
    fn decryption(case: &Value, encrypted: &str) -> Self {
        let plain = match case["plain_base64"].as_str() {
            Some(encoded) => STANDARD.decode(encoded).expect("base64"),
            None => b"0123456789".repeat(7_000),
        };
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            name: text(&case["name"]),
            method: "PUT".to_owned(),
            path: "/v1.0-alpha1/crypto/vault/decrypt".to_owned(),
            headers: Vec::new(),
            body: STANDARD.decode(encrypted).expect("base64"),
            failed: false,
            status: Some(200),
            answer_headers: vec![
                header("content-type", "application/octet-stream"),
                header("traceparent", "{trace}"),
            ],
            answer_body: String::from_utf8(plain).expect("a text"),
            app: Vec::new(),
        }
    }
}

impl AppRequest {
    fn read(request: &Value) -> Self {
        Self {
            method: text(&request["method"]),
            path: text(&request["path"]),
            headers: texts(&request["headers"]),
            body: String::from_utf8_lossy(&body(request)).into_owned(),
            answered: u16::try_from(request["answered"].as_u64().unwrap_or_default())
                .expect("a status"),
        }
    }
}

/// `N bytes: starts '[ ', ends ' ]'`, blanks between.
fn oversized(note: &str) -> Vec<u8> {
    let count = note.split(' ').next().and_then(|count| count.parse().ok()).expect("a size");
    let mut body = vec![b' '; count];
    body[0] = b'[';
    body[count - 1] = b']';
    body
}

fn body(message: &Value) -> Vec<u8> {
    match message["body_base64"].as_str() {
        Some(encoded) => STANDARD.decode(encoded).expect("base64"),
        None => text(&message["body"]).into_bytes(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(object: &Value) -> Vec<(String, String)> {
    let pairs = object.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), text(value))).collect()
}
