//! The file of items that a store begins with.

use super::{KEY_BYTES_MAX, Written};
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Read;

/// Largest file in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads it. Blocks for one small file, once, while components are opened.
pub(super) fn read(path: &str) -> Result<BTreeMap<String, Written>> {
    let in_file = |error: Error| error.context(format_args!("itemsFile '{path}'"));
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| in_file(error.into()))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| in_file(error.into()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("larger than the {FILE_BYTES_MAX} bytes allowed");
        return Err(in_file(Error::new(Kind::TooLarge, message)));
    }
    parse(&text).map_err(in_file)
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Written>> {
    let invalid = |message: String| Error::new(Kind::Invalid, message);
    let members: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
    let item = |(key, value): (String, Value)| {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(invalid(format!("key '{key}': 1 to {KEY_BYTES_MAX} bytes are allowed")));
        }
        match item(value) {
            Ok(written) => Ok((key, written)),
            Err(what) => Err(invalid(format!("key '{key}': {what}"))),
        }
    };
    members.into_iter().map(item).collect()
}

fn item(value: Value) -> Result<Written, String> {
    let members = match value {
        Value::String(value) => return Ok(Written { value, ..Written::default() }),
        Value::Object(members) => members,
        _ => return Err("write its value as a text".to_owned()),
    };
    let mut written = Written::default();
    let mut has_value = false;
    for (name, value) in members {
        match (name.as_str(), value) {
            ("value", Value::String(text)) => {
                written.value = text;
                has_value = true;
            }
            ("version", Value::String(text)) => written.version = Some(text),
            ("metadata", Value::Object(pairs)) => {
                for (name, value) in pairs {
                    let Value::String(value) = value else {
                        return Err(format!("write metadata '{name}' as a text"));
                    };
                    written.metadata.insert(name, value);
                }
            }
            ("value" | "version", _) => return Err(format!("write its {name} as a text")),
            ("metadata", _) => return Err("write its metadata as an object of texts".to_owned()),
            (unknown, _) => {
                return Err(format!("'{unknown}' is not known: value, version, metadata are"));
            }
        }
    }
    if has_value { Ok(written) } else { Err("it has no value".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_items_are_read() {
        let text = br#"{"a": "1", "b": {"value": "2", "version": "v7", "metadata": {"m": "n"}},
            "c": {"value": "", "version": ""}}"#;
        let items = parse(text).unwrap();
        assert_eq!(items["a"], Written { value: "1".into(), ..Written::default() });
        assert_eq!(items["b"].version.as_deref(), Some("v7"));
        assert_eq!(items["b"].metadata["m"], "n");
        assert_eq!(items["c"].version.as_deref(), Some(""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            (r#"{"a": 5}"#, "'a'"),
            (r#"{"a": {"value": 5}}"#, "value"),
            (r#"{"a": {"version": "1"}}"#, "no value"),
            (r#"{"a": {"value": "1", "metadata": {"m": 1}}}"#, "'m'"),
            (r#"{"a": {"value": "1", "etag": "1"}}"#, "'etag'"),
            (r#"{"": "1"}"#, "key ''"),
            ("[1]", "line 1"),
            ("{\n\"a\": \"1\",}", "line 2"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.message().contains(named), "{text}: {error}");
        }
        let error = read("/nowhere/items.json").unwrap_err();
        assert!(error.message().contains("/nowhere/items.json"), "{error}");
    }
}
