//! What counts as the same: masks, JSON as JSON, errors by what an app could branch on.

use crate::record::{AppRequest, Case};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_tests::{Answer, Asked, Pillion, Request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Headers that say how bytes travelled, not what was said.
const TRAVEL: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "date",
    "host",
    "keep-alive",
    "metadata.date",
    "te",
    "transfer-encoding",
    "user-agent",
];

/// Members of the metadata that are ours by intent; `recorded/README.md` says which versions.
const OUR_MEMBERS: &[&str] = &[
    // Ours is 1.18.3, the recorded build had no version.
    "runtimeVersion",
    "daprRuntimeVersion",
    "pillionVersion",
    // Switches of daprd's own code; none of them is ours.
    "enabledFeatures",
];

/// The trace that requests carry where the recording says `{trace}`.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// One thing that is not as recorded.
#[derive(Debug)]
pub(crate) struct Difference {
    /// `status`, `header x`, `body`, `message`, with `app ` before it for a request to the app.
    pub(crate) part: String,
    pub(crate) ours: String,
    pub(crate) recorded: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    ours:     {}\n    recorded: {}", self.part, self.ours, self.recorded)
    }
}

/// What masks stand for in this run.
pub(crate) struct Context {
    app_port: u16,
    http_port: u16,
    /// What `{uuid}` in a request stands for: the last ETag, or the last id that was given.
    dir: String,
    etag: String,
    /// The request under way carries [`TRACE`].
    traced: bool,
}

impl Context {
    pub(crate) fn new(app_port: u16, pillion: &Pillion) -> Self {
        let (http_port, dir) = (pillion.port, pillion.dir().display().to_string());
        Self { app_port, http_port, dir, etag: String::new(), traced: false }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{app_port}", &self.app_port.to_string())
            .replace("{http_port}", &self.http_port.to_string())
            .replace("{dir}", &self.dir)
    }

    /// The request of a case with its masks filled.
    pub(crate) fn request(&mut self, case: &Case) -> Request {
        self.traced = case.headers.iter().any(|(_, value)| value.contains("{trace}"));
        let fill =
            |text: &str| self.fill(text).replace("{trace}", TRACE).replace("{uuid}", &self.etag);
        let method = case.method.parse().expect("a method");
        let mut request = Request::new(method, &fill(&case.path));
        for (name, value) in &case.headers {
            request = request.header(name, &fill(value));
        }
        match std::str::from_utf8(&case.body) {
            Ok(text) => request.body(fill(text)),
            Err(_) => request.body(case.body.clone()),
        }
    }

    /// How an answer differs.
    pub(crate) fn answer(&mut self, case: &Case, answer: &Answer) -> Vec<Difference> {
        if let Some(etag) = answer.header("etag") {
            self.etag = etag.to_owned();
        }
        if case.answer_body.contains(r#""id":"{uuid}""#)
            && let Some(id) = answer.json()["id"].as_str()
        {
            self.etag = id.to_owned();
        }
        if case.failed {
            // A connection that breaks and a refusal are both fine.
            let refused = answer.status >= 400;
            return if refused { Vec::new() } else { different("status", answer.status, "4xx") };
        }
        let recorded = case.status.unwrap_or_default();
        let mut differences = different("status", answer.status, recorded);
        differences.extend(self.headers("", &case.answer_headers, &answer.headers));
        differences.extend(self.body("", &case.answer_body, &answer.text()));
        differences
    }

    /// How a request to the app differs.
    pub(crate) fn asked(&self, expected: &AppRequest, asked: &Asked) -> Vec<Difference> {
        let mut differences = different("app method", &*expected.method, asked.method.as_str());
        differences.extend(different("app path", &*asked.path, &*self.fill(&expected.path)));
        differences.extend(different("app answered", asked.answered, expected.answered));
        differences.extend(self.headers("app ", &expected.headers, &asked.headers));
        let body = String::from_utf8_lossy(&asked.body);
        differences.extend(self.body("app ", &expected.body, &body));
        differences
    }

    fn headers(
        &self,
        of: &str,
        recorded: &[(String, String)],
        ours: &[(String, String)],
    ) -> Vec<Difference> {
        let told = |headers: &[(String, String)]| -> BTreeMap<String, String> {
            let kept = headers.iter().filter(|(name, _)| !TRAVEL.contains(&name.as_str()));
            kept.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
        };
        let (recorded, ours) = (told(recorded), told(ours));
        let mut differences = Vec::new();
        for name in recorded.keys().chain(ours.keys().filter(|name| !recorded.contains_key(*name)))
        {
            let absent = String::from("(absent)");
            let recorded = recorded.get(name).unwrap_or(&absent);
            let ours = ours.get(name).unwrap_or(&absent);
            if !self.same_text(recorded, ours) {
                differences.extend(different(&format!("{of}header {name}"), ours, recorded));
            }
        }
        differences
    }

    fn body(&self, of: &str, recorded: &str, ours: &str) -> Vec<Difference> {
        let recorded = self.fill(recorded);
        let parsed = serde_json::from_str(&recorded).ok().zip(serde_json::from_str(ours).ok());
        let same = match &parsed {
            Some((recorded, ours)) if is_error(recorded) => {
                return self.error(of, recorded, ours);
            }
            Some((recorded, ours)) => self.same_json(recorded, ours),
            None => self.same_text(&recorded, ours) || same_encrypted(&recorded, ours),
        };
        if same { Vec::new() } else { different(&format!("{of}body"), ours, &recorded) }
    }

    fn error(&self, of: &str, recorded: &Value, ours: &Value) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut check = |part: &str, recorded: &Value, ours: &Value| {
            if !self.same_json(recorded, ours) {
                differences.extend(different(&format!("{of}{part}"), ours, recorded));
            }
        };
        check("errorCode", &recorded["errorCode"], &ours["errorCode"]);
        check("message", &recorded["message"], &ours["message"]);
        for key in ["reason", "domain", "metadata"] {
            check(&format!("details {key}"), &info(recorded)[key], &info(ours)[key]);
        }
        differences
    }

    fn same_json(&self, recorded: &Value, ours: &Value) -> bool {
        match (recorded, ours) {
            (Value::String(recorded), Value::String(ours)) => self.same_text(recorded, ours),
            (Value::Array(recorded), Value::Array(ours)) => {
                let mut pairs = recorded.iter().zip(ours);
                recorded.len() == ours.len() && pairs.all(|(a, b)| self.same_json(a, b))
            }
            (Value::Object(recorded), Value::Object(ours)) => {
                recorded.keys().chain(ours.keys()).all(|name| {
                    let (a, b) = (recorded.get(name), ours.get(name));
                    OUR_MEMBERS.contains(&name.as_str())
                        || a.zip(b).is_some_and(|(a, b)| {
                            self.same_json(a, b) || (name == "data_base64" && self.same_event(a, b))
                        })
                })
            }
            (recorded, ours) => recorded == ours,
        }
    }

    /// Whether two encoded events are the same but for their id and time.
    fn same_event(&self, recorded: &Value, ours: &Value) -> bool {
        let decode = |value: &Value| -> Option<Value> {
            let bytes = STANDARD.decode(value.as_str()?).ok()?;
            let mut event: Value = serde_json::from_slice(&bytes).ok()?;
            for own in ["id", "time"] {
                event.as_object_mut()?.remove(own)?;
            }
            Some(event)
        };
        decode(recorded).zip(decode(ours)).is_some_and(|(a, b)| self.same_json(&a, &b))
    }

    /// Whether a text is what a recorded one with masks stands for.
    fn same_text(&self, recorded: &str, ours: &str) -> bool {
        const MASKS: &[&str] = &["{uuid}", "{time}", "{trace}", "{host_ip}", "{host}"];
        let first = MASKS.iter().filter_map(|mask| Some((recorded.find(mask)?, *mask))).min();
        let Some((begin, mask)) = first else { return recorded == ours };
        let (before, after) = (&recorded[..begin], &recorded[begin + mask.len()..]);
        let Some(rest) = ours.strip_prefix(before) else { return false };
        let ends = rest.char_indices().map(|(index, c)| index + c.len_utf8());
        ends.into_iter().any(|end| {
            let (value, tail) = rest.split_at(end);
            self.fits(mask, value) && self.same_text(after, tail)
        })
    }

    fn fits(&self, mask: &str, value: &str) -> bool {
        match mask {
            "{trace}" => {
                let right = !self.traced || value.get(3..35) == Some(TRACE_ID);
                value.len() == 55 && value.starts_with("00-") && right
            }
            "{time}" => {
                // RFC 3339, or Go's own with `+0000 UTC` behind it.
                let time = |b: u8| b.is_ascii_digit() || b"TZ:.+- UC".contains(&b);
                value.len() >= 20 && value.bytes().all(time)
            }
            _ => !value.contains(['"', ' ', ',']),
        }
    }
}

/// A difference where the app was not asked as often as recorded.
pub(crate) fn count(recorded: usize, asked: &[Asked]) -> Vec<Difference> {
    different("app requests", asked.len(), recorded)
}

/// Whether both are encrypted messages with the same manifest, but for what is random in it. What
/// comes behind is random altogether.
fn same_encrypted(recorded: &str, ours: &str) -> bool {
    let lines = |text: &str| {
        let (scheme, rest) = text.split_once('\n')?;
        let (manifest, rest) = rest.split_once('\n')?;
        let mut manifest: Value = serde_json::from_str(manifest).ok()?;
        for random in ["wfk", "np"] {
            let length = STANDARD.decode(manifest[random].as_str()?).ok()?.len();
            manifest[random] = length.into();
        }
        let code = STANDARD.decode(rest.split_once('\n')?.0).ok()?.len();
        Some((scheme.to_owned(), manifest, code))
    };
    lines(recorded).is_some_and(|recorded| lines(ours) == Some(recorded))
}

fn is_error(body: &Value) -> bool {
    body.get("errorCode").is_some() && body.get("failedEntries").is_none()
}

fn info(error: &Value) -> &Value {
    let details = error["details"].as_array().map_or(&[][..], Vec::as_slice);
    details.iter().find(|detail| detail.get("reason").is_some()).unwrap_or(&Value::Null)
}

fn different<O: fmt::Display, R: fmt::Display>(
    part: &str,
    ours: O,
    recorded: R,
) -> Vec<Difference> {
    let (ours, recorded) = (ours.to_string(), recorded.to_string());
    if ours == recorded {
        return Vec::new();
    }
    vec![Difference { part: part.to_owned(), ours, recorded }]
}
