//! Bodies of the state API become what a store is asked.

use crate::api::http::json::{compact, elements, is_null, members, text, texts};
use bytes::Bytes;
use pillion_components::state::{Concurrency, Consistency, Delete, Operation, Set};
use pillion_components::{Error as ComponentError, Kind};
use serde_json::value::RawValue;

/// Why a body was not understood.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is not what the route takes; the text says where.
    Malformed(String),
    /// What it asks for does not exist, which Dapr leaves to the store to say.
    ByStore(ComponentError),
    /// No such operation in a transaction.
    Operation(String),
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Refused::Malformed(error.to_string())
    }
}

impl From<ComponentError> for Refused {
    fn from(error: ComponentError) -> Self {
        Refused::ByStore(error)
    }
}

/// The items of a save. `query` are `metadata.*` parameters, which win over an item's own.
pub(super) fn sets(body: &Bytes, query: &[(String, String)]) -> Result<Vec<Set>, Refused> {
    let array: &RawValue = serde_json::from_slice(body)?;
    let mut sets = Vec::new();
    for element in elements(array)? {
        let item = Item::read(element)?;
        if item.key.is_empty() {
            return Err(Refused::Malformed("\"key\" is a required field".into()));
        }
        sets.push(item.into_set(body, query)?);
    }
    Ok(sets)
}

/// The operations of a transaction.
pub(super) fn operations(body: &Bytes) -> Result<Vec<Operation>, Refused> {
    let object: &RawValue = serde_json::from_slice(body)?;
    let mut list = Vec::new();
    members(object, |name, value| {
        if name.eq_ignore_ascii_case("operations") {
            list = elements(value)?;
        }
        Ok(())
    })?;
    list.into_iter().map(|one| operation(body, one)).collect()
}

fn operation(body: &Bytes, object: &RawValue) -> Result<Operation, Refused> {
    let (mut verb, mut request) = (String::new(), None);
    members(object, |name, value| {
        match name {
            name if name.eq_ignore_ascii_case("operation") => {
                verb = text(value)?.unwrap_or_default();
            }
            name if name.eq_ignore_ascii_case("request") => request = Some(value),
            _ => {}
        }
        Ok(())
    })?;
    let item = || request.map_or_else(|| Ok(Item::default()), Item::read);
    match verb.as_str() {
        "upsert" => Ok(Operation::Set(item()?.into_set(body, &[])?)),
        "delete" => Ok(Operation::Delete(item()?.into_delete()?)),
        _ => Err(Refused::Operation(verb)),
    }
}

/// The keys of a bulk get; an error is the decoder's text.
pub(super) fn keys(body: &[u8]) -> Result<Vec<String>, String> {
    let read = || {
        let object: &RawValue = serde_json::from_slice(body)?;
        let mut keys = Vec::new();
        members(object, |name, value| {
            if name.eq_ignore_ascii_case("keys") {
                keys =
                    serde_json::from_str::<Option<Vec<String>>>(value.get())?.unwrap_or_default();
            }
            Ok(())
        })?;
        Ok(keys)
    };
    read().map_err(|error: serde_json::Error| error.to_string())
}

/// The two options that are words.
pub(super) fn options(
    concurrency: Option<&str>,
    consistency: Option<&str>,
) -> Result<(Concurrency, Consistency), ComponentError> {
    let unknown = |what, word| {
        let message = format!("unrecognized {what} model '{word}'");
        Err(ComponentError::new(Kind::Invalid, message))
    };
    let concurrency = match concurrency.unwrap_or_default() {
        "" | "last-write" => Concurrency::LastWrite,
        "first-write" => Concurrency::FirstWrite,
        word => return unknown("concurrency", word),
    };
    let consistency = match consistency.unwrap_or_default() {
        "" => Consistency::Default,
        "strong" => Consistency::Strong,
        "eventual" => Consistency::Eventual,
        word => return unknown("consistency", word),
    };
    Ok((concurrency, consistency))
}

/// An item of a save or the request of an operation.
#[derive(Default)]
struct Item<'a> {
    key: String,
    value: Option<&'a RawValue>,
    etag: Option<String>,
    metadata: Vec<(String, String)>,
    concurrency: Option<String>,
    consistency: Option<String>,
    content_type: Option<String>,
}

impl<'a> Item<'a> {
    fn read(object: &'a RawValue) -> Result<Self, serde_json::Error> {
        let mut item = Self::default();
        members(object, |name, value| {
            match name.to_ascii_lowercase().as_str() {
                "key" => item.key = text(value)?.unwrap_or_default(),
                "value" => item.value = Some(value),
                "etag" => item.etag = text(value)?.filter(|etag| !etag.is_empty()),
                "metadata" if !is_null(value) => item.metadata = texts(value)?,
                "options" => item.read_options(value)?,
                "contenttype" => item.content_type = text(value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(item)
    }

    fn read_options(&mut self, object: &RawValue) -> Result<(), serde_json::Error> {
        members(object, |name, value| {
            match name.to_ascii_lowercase().as_str() {
                "concurrency" => self.concurrency = text(value)?,
                "consistency" => self.consistency = text(value)?,
                _ => {}
            }
            Ok(())
        })
    }

    /// A metadata entry, from the query if it is there.
    fn entry<'s>(&'s self, query: &'s [(String, String)], wanted: &str) -> Option<&'s str> {
        let mut entries = query.iter().chain(&self.metadata);
        let found = entries.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn into_set(self, body: &Bytes, query: &[(String, String)]) -> Result<Set, ComponentError> {
        let (concurrency, consistency) =
            options(self.concurrency.as_deref(), self.consistency.as_deref())?;
        let ttl_ms = self.entry(query, "ttlInSeconds").map(ttl_ms).transpose()?.flatten();
        let named = self.content_type.as_deref().filter(|text| !text.is_empty());
        let content_type = self.entry(query, "contentType").or(named).map(str::to_owned);
        Ok(Set {
            value: self.value.map_or(Bytes::from_static(b"null"), |value| compact(body, value)),
            key: self.key,
            etag: self.etag,
            concurrency,
            consistency,
            ttl_ms,
            content_type,
        })
    }

    fn into_delete(self) -> Result<Delete, ComponentError> {
        let (_concurrency, consistency) =
            options(self.concurrency.as_deref(), self.consistency.as_deref())?;
        Ok(Delete { key: self.key, etag: self.etag, consistency })
    }
}

/// Milliseconds to keep a value; zero and less is for ever.
fn ttl_ms(seconds: &str) -> Result<Option<u64>, ComponentError> {
    match seconds.parse::<i64>() {
        Ok(seconds) => Ok(u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(|seconds| seconds.saturating_mul(1000))),
        Err(_) => {
            let message = format!("ttlInSeconds is '{seconds}': write a whole number of seconds");
            Err(ComponentError::new(Kind::Invalid, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Result<Vec<Set>, Refused> {
        sets(&Bytes::from_static(body.as_bytes()), &[])
    }

    #[test]
    fn member_names_are_matched_without_case() {
        let sets = read(
            r#"[{"KEY":"a","Value":[1, 2],"eTag":"7","METADATA":{"TTLinSeconds":"2"},
                "Options":{"Concurrency":"first-write","CONSISTENCY":"eventual"}, "more":1}]"#,
        )
        .unwrap();
        let set = sets.first().unwrap();
        assert_eq!((set.key.as_str(), &set.value[..]), ("a", &b"[1,2]"[..]));
        assert_eq!((set.etag.as_deref(), set.ttl_ms), (Some("7"), Some(2000)));
        assert_eq!(set.concurrency, Concurrency::FirstWrite);
        assert_eq!(set.consistency, Consistency::Eventual);
    }

    #[test]
    fn the_query_wins_over_an_items_metadata() {
        let body = Bytes::from_static(br#"[{"key":"a","metadata":{"ttlInSeconds":"9"}}]"#);
        let query = [("ttlInSeconds".to_owned(), "1".to_owned())];
        assert_eq!(sets(&body, &query).unwrap().first().unwrap().ttl_ms, Some(1000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, fragment) in [
            (r#"{"key":"a"}"#, "sequence"),
            (r#"[{"value":1}]"#, "\"key\" is a required field"),
            (r#"[{"key":"a","metadata":{"ttlInSeconds":1}}]"#, "ttlInSeconds"),
            ("[{\"key\":", "EOF"),
        ] {
            match read(body) {
                Err(Refused::Malformed(text)) => assert!(text.contains(fragment), "{text}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        assert!(matches!(
            read(r#"[{"key":"a","metadata":{"ttlInSeconds":"x"}}]"#),
            Err(Refused::ByStore(_))
        ));
    }

    #[test]
    fn operations_are_read_in_order() {
        let body = Bytes::from_static(
            br#"{"operations":[{"operation":"upsert","request":{"key":"a","value":1}},
                {"operation":"delete","request":{"key":"b","etag":"3"}}],"metadata":null}"#,
        );
        let operations = operations(&body).unwrap();
        assert!(matches!(operations.as_slice(), [Operation::Set(_), Operation::Delete(_)]));
        let body = Bytes::from_static(br#"{"operations":[{"operation":"explode"}]}"#);
        assert!(
            matches!(super::operations(&body), Err(Refused::Operation(verb)) if verb == "explode")
        );
    }
}
