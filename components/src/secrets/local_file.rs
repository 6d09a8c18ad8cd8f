//! `secretstores.local.file`: secrets from a JSON file.
//!
//! Options:
//! - `secretsFile` (required): path of the file, a JSON object. Read once, when the store opens; at
//!   most [`FILE_BYTES_MAX`].
//! - `nestedSeparator` (`:`): joins the names of nested objects and the indexes of arrays.
//! - `multiValued` (false): every member of the top level is one secret whose keys are what lies
//!   below it. Otherwise every leaf is a secret of its own, with one key of the same name.
//!
//! A leaf that is not text is given as its JSON text: `5`, `true`.

use super::{Secret, SecretStore};
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use async_trait::async_trait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

/// Largest file in bytes: all of it is kept in memory.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Opens it.
pub fn open(options: &Options) -> Result<Arc<dyn SecretStore>> {
    let path = options.required("secretsFile")?;
    let separator = options.text("nestedSeparator").unwrap_or(":");
    let multi_valued = options.truthy("multiValued", false);
    let in_file = |error: Error| error.context(format_args!("secretsFile '{path}'"));
    let text = read(path).map_err(in_file)?;
    let secrets = parse(&text, separator, multi_valued).map_err(in_file)?;
    Ok(Arc::new(LocalFile { secrets, multi_valued }))
}

struct LocalFile {
    secrets: BTreeMap<String, Secret>,
    multi_valued: bool,
}

#[async_trait]
impl SecretStore for LocalFile {
    fn capabilities(&self) -> &'static [&'static str] {
        if self.multi_valued { &["MULTIPLE_KEY_VALUES_PER_SECRET"] } else { &[] }
    }

    async fn get(&self, name: &str) -> Result<Option<Secret>> {
        match self.secrets.get(name) {
            Some(secret) => Ok(Some(secret.clone())),
            None => Err(Error::new(Kind::NotFound, format!("secret {name} not found"))),
        }
    }

    async fn bulk_get(&self) -> Result<BTreeMap<String, Secret>> {
        Ok(self.secrets.clone())
    }
}

/// Blocks for one small file, once, while components are opened.
fn read(path: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::from)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(Error::from)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("larger than the {FILE_BYTES_MAX} bytes allowed");
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(text)
}

fn parse(text: &[u8], separator: &str, multi_valued: bool) -> Result<BTreeMap<String, Secret>> {
    // Into a tree first: serde's message for a value of a wrong type would quote the value.
    let tree: Value = serde_json::from_slice(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        let kind = if error.is_eof() { "ends too early" } else { "is not valid JSON" };
        Error::new(Kind::Invalid, format!("{place}: the text {kind}"))
    })?;
    let Value::Object(members) = tree else {
        let message = "line 1: the file must hold one JSON object, {\"name\": \"value\", …}";
        return Err(Error::new(Kind::Invalid, message));
    };
    if multi_valued {
        let secret = |(name, value): (String, Value)| {
            let mut secret = Secret::new();
            match value {
                Value::Object(_) | Value::Array(_) => flatten("", value, separator, &mut secret),
                leaf => flatten(&name, leaf, separator, &mut secret),
            }
            (name, secret)
        };
        return Ok(members.into_iter().map(secret).collect());
    }
    let mut leaves = Secret::new();
    flatten("", Value::Object(members), separator, &mut leaves);
    let secret = |(name, value): (String, String)| (name.clone(), Secret::from([(name, value)]));
    Ok(leaves.into_iter().map(secret).collect())
}

/// Adds every leaf under `value`, which has the name `path`. The parser bounds the depth.
fn flatten(path: &str, value: Value, separator: &str, leaves: &mut Secret) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}{separator}{name}"),
    };
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(&below(&name), value, separator, leaves);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.into_iter().enumerate() {
                flatten(&below(&index.to_string()), value, separator, leaves);
            }
        }
        Value::String(text) => {
            leaves.insert(path.to_owned(), text);
        }
        other => {
            leaves.insert(path.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = br#"{"top":"secret","nested":{"a":{"b":"deep"},"list":[1,"two"]},"n":5}"#;

    fn names(separator: &str, multi_valued: bool) -> Vec<(String, String, String)> {
        let secrets = parse(FILE, separator, multi_valued).unwrap();
        let rows = secrets.into_iter().flat_map(|(name, secret)| {
            secret.into_iter().map(move |(key, value)| (name.clone(), key, value))
        });
        rows.collect()
    }

    fn row(name: &str, key: &str, value: &str) -> (String, String, String) {
        (name.to_owned(), key.to_owned(), value.to_owned())
    }

    #[test]
    fn leaves_are_named_by_their_path() {
        let expected = [
            row("n", "n", "5"),
            row("nested.a.b", "nested.a.b", "deep"),
            row("nested.list.0", "nested.list.0", "1"),
            row("nested.list.1", "nested.list.1", "two"),
            row("top", "top", "secret"),
        ];
        assert_eq!(names(".", false), expected);
    }

    #[test]
    fn multi_valued_secrets_are_members_of_the_top() {
        let expected = [
            row("n", "n", "5"),
            row("nested", "a:b", "deep"),
            row("nested", "list:0", "1"),
            row("nested", "list:1", "two"),
            row("top", "top", "secret"),
        ];
        assert_eq!(names(":", true), expected);
    }

    #[test]
    fn a_bad_file_is_named_with_its_line_and_without_its_text() {
        for (text, place) in [
            ("{\"a\": \"hunter2\",\n  oops}", "line 2"),
            ("\"hunter2\"", "line 1"),
            ("{\"a\": \"hunter2\"", "line 1"),
        ] {
            let error = parse(text.as_bytes(), ":", false).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.message().contains(place), "{error}");
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let options: Options = [("secretsFile", "/nowhere/s.json")].into_iter().collect();
        let error = open(&options).err().unwrap();
        assert!(error.message().contains("/nowhere/s.json"), "{error}");
        let error = open(&Options::default()).err().unwrap();
        assert!(error.message().contains("secretsFile"), "{error}");
    }
}
