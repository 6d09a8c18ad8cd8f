//! Reading the keys of one mapping: each getter checks its value and reports what is wrong with
//! it; the keys nobody asked for are reported at the end.

use super::Form;
use super::addresses::{ADDRESS_FORM, parse_address};
use super::load::Surroundings;
use super::yaml::{Document, Entry, Node, Value};
use super::{SecretRef, Setting};
use pillion_components::WITHOUT_TLS;
use pillion_components::options::{parse_bytes, parse_duration};
use std::cell::RefCell;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Most problems that are listed; a file of garbage needs no more.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// What is wrong and what is only remarkable, in the order it was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: RefCell<Vec<String>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    /// Something that keeps the plan from being used.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        match problems.len() {
            PROBLEMS_MAX.. => {}
            len if len + 1 == PROBLEMS_MAX => problems.push("and more: fix these first".into()),
            _ => problems.push(text.into()),
        }
    }

    /// Something to log.
    pub(crate) fn warning(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < PROBLEMS_MAX {
            warnings.push(text.into());
        }
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems; afterwards there are none.
    pub(crate) fn take_problems(&self) -> Vec<String> {
        self.problems.take()
    }

    /// The warnings; afterwards there are none.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// Everything found: problems, warnings.
    pub(crate) fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }
}

/// What the environment says of a variable; set in tests.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The keys of one mapping of a document.
pub(crate) struct Fields<'a> {
    document: &'a Document,
    report: &'a Report,
    /// Where it stands: `spec.storage`; empty for the whole document.
    path: String,
    node: &'a Node,
    /// Unknown keys are refused, and case counts; Dapr's kinds are read with neither.
    strict: bool,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The keys of a whole document.
    pub(crate) fn of(document: &'a Document, report: &'a Report, strict: bool) -> Self {
        Self::at(document, report, strict, String::new(), &document.root)
    }

    fn at(
        document: &'a Document,
        report: &'a Report,
        strict: bool,
        path: String,
        node: &'a Node,
    ) -> Self {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let what = if path.is_empty() { "the document" } else { &path };
            let is = node.value.what();
            let place = document.place(node);
            report.problem(format!("{place}: {what} is {is}: write keys and values under it"));
        }
        Self { document, report, path, node, strict, asked: RefCell::default() }
    }

    /// Reports something about the value of `key`, or about the mapping if the key is not there.
    pub(crate) fn problem(&self, key: &str, text: impl Display) {
        let text = format!("{}: {} {text}", self.place(key), self.name(key));
        self.report.problem(text);
    }

    /// Remarks something about the value of `key`.
    pub(crate) fn warning(&self, key: &str, text: impl Display) {
        let text = format!("{}: {} {text}", self.place(key), self.name(key));
        self.report.warning(text);
    }

    /// Reports that `key` asks for TLS, where this build has none.
    pub(crate) fn wants_tls(&self, key: &str) {
        if cfg!(not(feature = "tls")) {
            self.problem(key, format_args!("asks for TLS: {WITHOUT_TLS}"));
        }
    }

    /// `file:line` of a key, or of the mapping.
    pub(crate) fn place(&self, key: &str) -> String {
        match self.find(key) {
            Some(entry) => self.document.place_of_key(entry),
            None => self.document.place(self.node),
        }
    }

    /// The key with its path, for messages.
    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn entries(&self) -> &'a [Entry] {
        match &self.node.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    fn find(&self, key: &str) -> Option<&'a Entry> {
        let entries = self.entries();
        let exact = entries.iter().find(|entry| entry.key == key);
        exact.or_else(|| {
            entries.iter().find(|entry| !self.strict && entry.key.eq_ignore_ascii_case(key))
        })
    }

    /// Whether the value of a key is the word `off`.
    pub(crate) fn is_off(&self, key: &'static str) -> bool {
        self.node(key).is_some_and(|node| matches!(&node.value, Value::Text(text) if text == "off"))
    }

    /// The value of a key; `null` counts as absent.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let node = &self.find(key)?.node;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Whether a key has a value.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// Reports keys that nobody asked for. Called last.
    pub(crate) fn finish(self) {
        let asked = self.asked.borrow();
        for entry in self.entries() {
            let known = asked.iter().any(|key| {
                entry.key == *key || (!self.strict && entry.key.eq_ignore_ascii_case(key))
            });
            if known {
                continue;
            }
            let name = self.name(&entry.key);
            let place = self.document.place_of_key(entry);
            let near = super::closest(&entry.key, asked.iter().copied());
            if self.strict {
                let hint = match near {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known here: {}", asked.join(", ")),
                };
                self.report.problem(format!("{place}: unknown key '{name}': {hint}"));
            } else {
                let hint = near.map(|near| format!(" (did you mean '{near}'?)"));
                let hint = hint.unwrap_or_default();
                self.report.warning(format!("{place}: unknown key '{name}' is ignored{hint}"));
            }
        }
    }

    /// The keys below a key.
    pub(crate) fn map(&self, key: &'static str) -> Option<Fields<'a>> {
        let node = self.node(key)?;
        Some(Self::at(self.document, self.report, self.strict, self.name(key), node))
    }

    /// The keys below a key that must be there.
    pub(crate) fn required_map(&self, key: &'static str) -> Option<Fields<'a>> {
        let map = self.map(key);
        if map.is_none() {
            self.problem(key, "is missing: add it");
        }
        map
    }

    /// The elements of a list of mappings; none if the key is absent.
    pub(crate) fn maps(&self, key: &'static str) -> Vec<Fields<'a>> {
        let element = |(index, node): (usize, &'a Node)| {
            let path = format!("{}.{index}", self.name(key));
            Self::at(self.document, self.report, self.strict, path, node)
        };
        self.list(key).unwrap_or_default().iter().enumerate().map(element).collect()
    }

    /// The elements of a list.
    pub(crate) fn list(&self, key: &'static str) -> Option<&'a [Node]> {
        let node = self.node(key)?;
        match &node.value {
            Value::List(nodes) => Some(nodes),
            other => {
                self.problem(key, format!("is {}: write a list", other.what()));
                None
            }
        }
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let text = |node: &Node| match &node.value {
            Value::Text(text) => Some(text.clone()),
            other => {
                let (place, name) = (self.document.place(node), self.name(key));
                let is = other.what();
                self.report.problem(format!("{place}: {name} holds {is}: put it in quotes"));
                None
            }
        };
        Some(self.list(key)?.iter().filter_map(text).collect())
    }

    /// Names and values of a mapping of texts; other scalars become text.
    pub(crate) fn pairs(&self, key: &'static str) -> Vec<(String, String)> {
        let Some(map) = self.map(key) else { return Vec::new() };
        map.entries().iter().map(|entry| (entry.key.clone(), entry.node.value.to_text())).collect()
    }

    /// Text.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        let node = self.node(key)?;
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            other => {
                let text = format!("is {}: write text, in quotes if needed", other.what());
                self.problem(key, text);
                None
            }
        }
    }

    /// Text that must be there and not be empty. A wrong one is reported and counts as empty.
    pub(crate) fn required(&self, key: &'static str) -> String {
        match self.node(key) {
            None => self.problem(key, "is missing: add it"),
            Some(Node { value: Value::Text(text), .. }) if text.is_empty() => {
                self.problem(key, "is empty: give it a value");
            }
            Some(_) => return self.text(key).unwrap_or_default(),
        }
        String::new()
    }

    /// A value made from text (or a number as written); `form` says how to write it.
    pub(crate) fn parsed<T>(
        &self,
        key: &'static str,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(key)?;
        let parsed = match &node.value {
            Value::Text(text) | Value::Number(text) => parse(text),
            _ => None,
        };
        if parsed.is_none() {
            self.problem(key, format!("is '{}': write {form}", node.value.to_text()));
        }
        parsed
    }

    /// A whole number within a range.
    pub(crate) fn number<T>(&self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let form = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(key, &form, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A size in bytes within a range: `65536`, `64Mi`.
    pub(crate) fn bytes(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let form =
            format!("a size from {} to {} bytes, as 65536 or 64Mi", range.start(), range.end());
        self.parsed(key, &form, |text| parse_bytes(text).filter(|bytes| range.contains(bytes)))
    }

    /// A duration in Go's form.
    pub(crate) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, "a duration such as 500ms, 10s or 1h30m", parse_duration)
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        match &node.value {
            Value::Bool(flag) => Some(*flag),
            Value::Text(text) if text == "true" => Some(true),
            Value::Text(text) if text == "false" => Some(false),
            other => {
                self.problem(key, format!("is '{}': write true or false", other.to_text()));
                None
            }
        }
    }

    /// One of a few words; the first is the one offered.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(key, &all.join(" or "), |text| {
            words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
        })
    }

    /// A file or directory name.
    pub(crate) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// `address:port`, or a port alone for 127.0.0.1.
    pub(crate) fn address(&self, key: &'static str) -> Option<SocketAddr> {
        self.parsed(key, ADDRESS_FORM, parse_address)
    }

    /// Text as it is, from the environment, or a reference to a secret.
    pub(crate) fn secret(
        &self,
        key: &'static str,
        store: Option<&str>,
        around: &Surroundings<'_>,
    ) -> Option<Sourced> {
        let node = self.node(key)?;
        if !matches!(node.value, Value::Map(_)) {
            let text = self.text(key)?;
            // An empty token would open what it is meant to close.
            if text.is_empty() {
                self.problem(key, "is empty: give it a value, or remove it");
            }
            return Some(Sourced::Text(text));
        }
        let source = self.map(key)?;
        let sourced = source.reference(key, around);
        source.finish();
        match sourced {
            Some(Setting::Text(text)) => Some(Sourced::Text(text)),
            Some(Setting::Secret { name, key: secret_key }) => {
                let Some(store) = store else {
                    self.problem(key, NO_STORE);
                    return None;
                };
                Some(Sourced::Secret(SecretRef { store: store.into(), name, key: secret_key }))
            }
            None => {
                self.problem(key, "is a mapping: write text, envRef or secretKeyRef");
                None
            }
        }
    }

    /// `secretKeyRef` or `envRef` in this mapping.
    pub(crate) fn reference(&self, of: &str, around: &Surroundings<'_>) -> Option<Setting> {
        let by_env = self.text("envRef").filter(|variable| !variable.is_empty());
        let by_secret = self.map("secretKeyRef");
        if let Some(variable) = by_env {
            return Some(Setting::Text(self.variable(of, &variable, around)));
        }
        let by_secret = by_secret?;
        let name = by_secret.required("name");
        let key = by_secret.text("key").filter(|key| !key.is_empty());
        by_secret.finish();
        Some(Setting::Secret { key: key.unwrap_or_else(|| name.clone()), name })
    }

    fn variable(&self, of: &str, variable: &str, around: &Surroundings<'_>) -> String {
        let env = around.env;
        if !may_be_read(variable, env) {
            // daprd leaves the value empty and says so.
            let text = format!(
                "names the variable '{variable}', which resources may not read (DAPR_*, \
                 APP_API_TOKEN, and all that DAPR_ENV_KEYS leaves out): '{of}' needs another one"
            );
            match around.form {
                Form::Daprd => self.warning("envRef", text),
                Form::Run | Form::Gateway => self.problem("envRef", text),
            }
            return String::new();
        }
        let value = env(variable).filter(|value| !value.is_empty());
        value.unwrap_or_else(|| {
            // Our kinds take tokens and password hashes from there: those must not be empty.
            if self.strict {
                self.problem("envRef", format!("'{variable}' is not set: set it for '{of}'"));
            } else {
                self.warning("envRef", format!("'{variable}' is not set: '{of}' is empty"));
            }
            String::new()
        })
    }
}

/// A text, or where it will be found.
#[derive(Clone)]
pub(crate) enum Sourced {
    /// At hand.
    Text(String),
    /// In a secret store.
    Secret(SecretRef),
}

impl Sourced {
    /// The text, or the reference, as the two fields of a plan.
    pub(crate) fn split(source: Option<Sourced>) -> (Option<String>, Option<SecretRef>) {
        match source {
            Some(Sourced::Text(text)) => (Some(text).filter(|text| !text.is_empty()), None),
            Some(Sourced::Secret(secret)) => (None, Some(secret)),
            None => (None, None),
        }
    }
}

/// What to say of a `secretKeyRef` in a resource that names no store.
pub(crate) const NO_STORE: &str =
    "has a secretKeyRef, but the resource names no store: add auth.secretStore at its top level";

/// Whether a resource may read this variable: never what belongs to the process itself, and only
/// what `DAPR_ENV_KEYS` lists where that is set.
fn may_be_read(variable: &str, env: Environment<'_>) -> bool {
    let upper = variable.to_ascii_uppercase();
    if upper.starts_with("DAPR_") || upper == "APP_API_TOKEN" || upper.contains(' ') {
        return false;
    }
    match env("DAPR_ENV_KEYS").filter(|keys| !keys.is_empty()) {
        Some(keys) => keys.split_whitespace().any(|key| key.eq_ignore_ascii_case(variable)),
        None => true,
    }
}
