//! JSON bodies read as Dapr reads them: member names without case, unknown members ignored,
//! `null` as absent, and values kept as the text they came in.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Error;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Calls `member` with each name and value of an object. `null` has none.
pub(super) fn members<'a>(
    object: &'a RawValue,
    mut member: impl FnMut(&str, &'a RawValue) -> Result<(), Error>,
) -> Result<(), Error> {
    if is_null(object) {
        return Ok(());
    }
    each(object, &mut member)
}

/// One copy of the parser for all callers.
fn each<'a>(object: &'a RawValue, member: &mut Member<'_, 'a>) -> Result<(), Error> {
    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    deserializer.deserialize_map(Members(member))
}

type Member<'f, 'a> = dyn FnMut(&str, &'a RawValue) -> Result<(), Error> + 'f;

struct Members<'m, 'f, 'a>(&'m mut Member<'f, 'a>);

impl<'a> Visitor<'a> for Members<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        while let Some((Name(name), value)) = map.next_entry::<Name<'a>, &'a RawValue>()? {
            (self.0)(&name, value).map_err(|error| A::Error::custom(format!("{name}: {error}")))?;
        }
        Ok(())
    }
}

/// The elements of an array; `null` has none.
pub(super) fn elements(array: &RawValue) -> Result<Vec<&RawValue>, Error> {
    Ok(serde_json::from_str::<Option<Vec<&RawValue>>>(array.get())?.unwrap_or_default())
}

/// A text, `None` for `null`.
pub(super) fn text(value: &RawValue) -> Result<Option<String>, Error> {
    serde_json::from_str(value.get())
}

/// An object of texts in its order; a `null` in it is an empty text.
pub(super) fn texts(value: &RawValue) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    members(value, |name, value| {
        pairs.push((name.to_owned(), text(value)?.unwrap_or_default()));
        Ok(())
    })?;
    Ok(pairs)
}

pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The text of a value without blanks between its tokens. Shares the memory of `body`, which the
/// value was read from, where there are none.
pub(super) fn compact(body: &Bytes, value: &RawValue) -> Bytes {
    let text = value.get().as_bytes();
    if !text.iter().any(|byte| is_blank(*byte)) {
        return share(body, text);
    }
    let mut compacted = Vec::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        if !in_string && is_blank(byte) {
            continue;
        }
        compacted.push(byte);
        in_string = match byte {
            b'"' if !escaped => !in_string,
            _ => in_string,
        };
        escaped = in_string && byte == b'\\' && !escaped;
    }
    compacted.into()
}

/// A slice of `body` if `text` lies in it, else a copy.
fn share(body: &Bytes, text: &[u8]) -> Bytes {
    let offset = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize);
    match offset {
        Some(begin) if begin + text.len() <= body.len() => body.slice(begin..begin + text.len()),
        _ => Bytes::copy_from_slice(text),
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn blanks_between_tokens_go_and_number_texts_stay() {
        for (text, expected) in [
            ("1.0", "1.0"),
            ("12345678901234567890", "12345678901234567890"),
            ("{ \"a b\" : [ 1 , 2.50 ] }", "{\"a b\":[1,2.50]}"),
            (r#"{ "q" : "say \" hi \\" , "r" : 1 }"#, r#"{"q":"say \" hi \\","r":1}"#),
        ] {
            let body = Bytes::copy_from_slice(text.as_bytes());
            let value: &RawValue = serde_json::from_slice(&body).unwrap();
            assert_eq!(compact(&body, value), expected);
        }
    }

    #[test]
    fn member_names_have_no_case_for_those_who_match_so() {
        let mut seen = Vec::new();
        members(raw(r#"{"Key": "a", "other": [1]}"#), |name, value| {
            seen.push((name.to_ascii_lowercase(), value.get().to_owned()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [("key".into(), "\"a\"".into()), ("other".into(), "[1]".into())]);
        assert!(members(raw("[1]"), |_, _| Ok(())).is_err());
    }

    #[test]
    fn texts_must_be_texts() {
        assert_eq!(texts(raw(r#"{"a": null, "b": "x"}"#)).unwrap().len(), 2);
        assert!(texts(raw(r#"{"a": 1}"#)).unwrap_err().to_string().contains('a'));
    }
}
