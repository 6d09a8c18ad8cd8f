//! Log lines in logfmt or JSON, as Dapr writes them: time, level, message, app id, instance, scope,
//! type and version, then the fields of the event.
//!
//! The whole subscriber is here: an event becomes one line, spans are not shown. Levels are
//! filtered by a comparison; what libraries say below a warning is left out unless the level is
//! `trace`. A line is bounded, and an output that cannot be written to (a closed pipe, a full disk)
//! loses lines and nothing else.
//!
//! Two conventions for callers: a `target` that begins with `dapr.` is the scope as it stands, and
//! the field `fatal = true` on an error turns its level into `fatal`.

use crate::DAPR_VERSION;
use pillion_components::env::rfc3339_utc;
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Most bytes of message and field values in one line; the rest is cut off with `…`.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// Most fields of one line besides the message.
pub const FIELDS_MAX: usize = 24;

/// Sends every event of the process to standard output, or to a file that is appended to. Fails
/// if the file cannot be opened; calling it a second time changes nothing.
pub fn init(level: Level, json: bool, file: Option<&Path>, app_id: &str) -> io::Result<()> {
    let output = match file {
        Some(path) => Output::File(File::options().append(true).create(true).open(path)?),
        None => Output::Stdout,
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let shape = Shape { json, app_id: app_id.into(), instance: host.trim().into() };
    let lines = Lines { level, shape, output };
    // An error says that a subscriber is there already: a test in this process set it.
    let _ = tracing::subscriber::set_global_default(lines);
    Ok(())
}

struct Lines {
    level: Level,
    shape: Shape,
    output: Output,
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    /// One write per line, so that lines of several processes do not mix.
    fn write(&self, line: &str) {
        let _ = match self {
            Output::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Output::File(file) => { file }.write_all(line.as_bytes()),
        };
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_wanted(self.level, metadata.target(), *metadata.level())
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = String::with_capacity(256);
        self.shape.write(&mut line, now(), metadata.level(), metadata.target(), &fields);
        self.output.write(&line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Of libraries only warnings and errors, unless everything is wanted.
fn is_wanted(wanted: Level, target: &str, level: Level) -> bool {
    let is_ours = target.starts_with("pillion") || target.starts_with("dapr.");
    let all = is_ours || wanted == Level::TRACE;
    level <= if all { wanted } else { wanted.min(Level::WARN) }
}

/// Seconds with nanoseconds, as RFC 3339 in UTC.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = rfc3339_utc(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    text.pop();
    let _ = write!(text, "{:06}Z", since.subsec_nanos() % 1_000_000);
    text
}

/// What stays the same from line to line.
struct Shape {
    json: bool,
    app_id: String,
    instance: String,
}

impl Shape {
    fn write(&self, out: &mut String, time: String, level: &Level, target: &str, fields: &Fields) {
        let level = match *level {
            Level::ERROR if fields.fatal => "fatal",
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let scope = scope(target);
        let head = [
            ("time", time.as_str(), true),
            ("level", level, false),
            ("msg", &fields.message, true),
            ("app_id", &self.app_id, false),
            ("instance", &self.instance, false),
            ("scope", &scope, false),
            ("type", "log", false),
            ("ver", DAPR_VERSION, false),
        ];
        let others = fields.others.iter().map(|(name, value)| (*name, value.as_str(), false));
        out.push_str(if self.json { "{" } else { "" });
        for (index, (name, value, quoted)) in head.into_iter().chain(others).enumerate() {
            let between = match (index, self.json) {
                (0, _) => "",
                (_, true) => ",",
                (_, false) => " ",
            };
            out.push_str(between);
            if self.json {
                push_quoted(out, name);
                out.push(':');
                push_quoted(out, value);
            } else {
                out.push_str(name);
                out.push('=');
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+:".contains(&b);
                if quoted || value.is_empty() || !value.bytes().all(plain) {
                    push_quoted(out, value);
                } else {
                    out.push_str(value);
                }
            }
        }
        out.push_str(if self.json { "}\n" } else { "\n" });
    }
}

/// `pillion::api::http` is `dapr.runtime.api.http`, a component's module `dapr.contrib.…`.
fn scope(target: &str) -> Cow<'_, str> {
    for (root, scope) in [("pillion_components", "dapr.contrib"), ("pillion", "dapr.runtime")] {
        if let Some(rest) = target.strip_prefix(root)
            && (rest.is_empty() || rest.starts_with("::"))
        {
            return format!("{scope}{}", rest.replace("::", ".")).into();
        }
    }
    target.into()
}

/// Text in quotes with the escapes that JSON and logfmt share.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The fields of one event as text, within [`LINE_BYTES_MAX`].
#[derive(Default)]
struct Fields {
    message: String,
    fatal: bool,
    others: Vec<(&'static str, String)>,
    used_bytes: usize,
}

impl Fields {
    fn keep(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = Bounded { text: String::new(), left: LINE_BYTES_MAX - self.used_bytes };
        // An error is the bound that was reached; the text is cut off there.
        if text.write_fmt(value).is_err() {
            text.text.push('…');
        }
        self.used_bytes = LINE_BYTES_MAX - text.left;
        match field.name() {
            "message" => self.message = text.text,
            name if self.others.len() < FIELDS_MAX => self.others.push((name, text.text)),
            _ => {}
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "fatal" {
            self.fatal = value;
        } else {
            self.keep(field, format_args!("{value}"));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, format_args!("{value}"));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.keep(field, format_args!("{value}"));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format_args!("{value:?}"));
    }
}

/// Text that refuses to grow past a bound.
struct Bounded {
    text: String,
    left: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let mut fits = self.left.min(piece.len());
        while !piece.is_char_boundary(fits) {
            fits -= 1;
        }
        self.text.push_str(piece.get(..fits).unwrap_or_default());
        if fits < piece.len() {
            self.left = 0;
            return Err(fmt::Error);
        }
        self.left -= fits;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Takes events as the real subscriber does and keeps the lines.
    struct Kept(Shape, Arc<Mutex<Vec<String>>>);

    impl Subscriber for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let mut line = String::new();
            let metadata = event.metadata();
            self.0.write(&mut line, "T".into(), metadata.level(), metadata.target(), &fields);
            self.1.lock().expect("no panic under it").push(line);
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn lines(json: bool, log: impl FnOnce()) -> Vec<String> {
        let kept = Arc::default();
        let shape = Shape { json, app_id: "app1".into(), instance: "box".into() };
        tracing::subscriber::with_default(Kept(shape, Arc::clone(&kept)), log);
        kept.lock().expect("no panic under it").split_off(0)
    }

    fn say() {
        tracing::info!(target: "dapr.runtime", port = 3500, path = "/a b", "say \"hi\"\n");
        tracing::warn!(target: "pillion::api::http", "w");
        tracing::error!(target: "pillion_components::state::redb", fatal = true, "f");
    }

    #[test]
    fn logfmt_is_dapr_s() {
        let rest = "type=log ver=1.18.3";
        let expected = [
            format!(
                "time=\"T\" level=info msg=\"say \\\"hi\\\"\\n\" app_id=app1 instance=box \
                 scope=dapr.runtime {rest} port=3500 path=\"/a b\"\n"
            ),
            format!(
                "time=\"T\" level=warning msg=\"w\" app_id=app1 instance=box \
                 scope=dapr.runtime.api.http {rest}\n"
            ),
            format!(
                "time=\"T\" level=fatal msg=\"f\" app_id=app1 instance=box \
                 scope=dapr.contrib.state.redb {rest}\n"
            ),
        ];
        assert_eq!(lines(false, say), expected);
    }

    #[test]
    fn json_lines_are_json() {
        let lines = lines(true, say);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        let expected = serde_json::json!({
            "time": "T", "level": "info", "msg": "say \"hi\"\n", "app_id": "app1",
            "instance": "box", "scope": "dapr.runtime", "type": "log", "ver": "1.18.3",
            "port": "3500", "path": "/a b",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn lines_are_bounded() {
        let long = "é".repeat(LINE_BYTES_MAX);
        let lines = lines(false, || tracing::info!(a = %long, b = ?long, "{long}"));
        assert!(lines[0].len() < LINE_BYTES_MAX + 300, "{}", lines[0].len());
        assert!(lines[0].ends_with('\n'));
    }

    #[test]
    fn libraries_are_quieter() {
        for (level, target, event, expected) in [
            (Level::INFO, "pillion::api", Level::INFO, true),
            (Level::INFO, "pillion::api", Level::DEBUG, false),
            (Level::DEBUG, "rumqttd::x", Level::INFO, false),
            (Level::DEBUG, "rumqttd::x", Level::WARN, true),
            (Level::ERROR, "rumqttd::x", Level::WARN, false),
            (Level::TRACE, "rumqttd::x", Level::DEBUG, true),
        ] {
            assert_eq!(is_wanted(level, target, event), expected, "{level} {target} {event}");
        }
    }

    #[test]
    fn times_have_nanoseconds() {
        let time = now();
        assert_eq!(time.len(), "2026-01-31T23:59:59.999999999Z".len(), "{time}");
    }
}
