//! YAML text becomes trees of nodes, each of which knows its line.
//!
//! serde hands over values without their places, but an error that a visitor returns comes back
//! with one. So a node only carries its number in reading order; when somebody asks for its line,
//! the document is read again and fails on purpose at that number. Lines are asked for once per
//! document and per problem, so a file without mistakes is read twice and nothing is kept but the
//! text.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A file's name and text.
#[derive(Debug)]
pub(crate) struct File {
    /// As it was found, for messages.
    pub(crate) path: PathBuf,
    /// All of it.
    pub(crate) text: String,
}

/// One document of a file.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    file: Arc<File>,
    /// Its number in the file, from 0.
    number: usize,
    /// The whole tree.
    pub(crate) root: Node,
}

/// A value and its number in reading order.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    id: usize,
    /// The value.
    pub(crate) value: Value,
}

/// What YAML can say.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, in the text form of JSON.
    Number(String),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no key comes twice.
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    id: usize,
    /// The key.
    pub(crate) key: String,
    /// The value.
    pub(crate) node: Node,
}

/// A file that is not YAML.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// The line it was noticed in, from 1.
    pub(crate) line: usize,
    /// What the parser says.
    pub(crate) reason: String,
}

/// The documents of a file that hold anything, up to the first mistake.
pub(crate) fn documents(file: Arc<File>) -> (Vec<Document>, Option<Malformed>) {
    let mut documents = Vec::new();
    for (number, deserializer) in serde_norway::Deserializer::from_str(&file.text).enumerate() {
        let twice = Cell::new(None);
        let walk = Walk { next_id: &Cell::new(0), stop_at: None, twice: &twice };
        match walk.deserialize(deserializer) {
            Ok(Node { value: Value::Null, .. }) => {}
            Ok(root) => {
                let document = Document { file: file.clone(), number, root };
                if let Some(id) = twice.get() {
                    let reason = "this key is in the mapping twice: remove one".into();
                    return (documents, Some(Malformed { line: document.line_of(id), reason }));
                }
                documents.push(document);
            }
            Err(error) => {
                let line = error.location().map_or(1, |place| place.line());
                return (documents, Some(Malformed { line, reason: error.to_string() }));
            }
        }
    }
    (documents, None)
}

impl Document {
    /// `file:line` of a node.
    pub(crate) fn place(&self, node: &Node) -> String {
        self.place_of(node.id)
    }

    /// `file:line` of a key.
    pub(crate) fn place_of_key(&self, entry: &Entry) -> String {
        self.place_of(entry.id)
    }

    /// `file:line` of the deepest part of `path` (keys and list indices, dots between) that exists.
    pub(crate) fn place_at(&self, path: &str) -> String {
        let (mut node, mut id) = (&self.root, self.root.id);
        for step in path.split('.') {
            let next = match &node.value {
                Value::Map(entries) => {
                    let entry = entries.iter().find(|entry| entry.key == step);
                    entry.map(|entry| (&entry.node, entry.id))
                }
                Value::List(nodes) => step
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| nodes.get(index))
                    .map(|node| (node, node.id)),
                _ => None,
            };
            let Some((next_node, next_id)) = next else { break };
            (node, id) = (next_node, next_id);
        }
        self.place_of(id)
    }

    fn place_of(&self, id: usize) -> String {
        format!("{}:{}", self.file.path.display(), self.line_of(id))
    }

    fn line_of(&self, id: usize) -> usize {
        let walk = Walk { next_id: &Cell::new(0), stop_at: Some(id), twice: &Cell::new(None) };
        serde_norway::Deserializer::from_str(&self.file.text)
            .nth(self.number)
            .and_then(|again| walk.deserialize(again).err())
            .and_then(|error| error.location())
            .map_or(1, |place| place.line())
    }
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Text as it is, anything else as JSON.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_json().to_string(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Number(text) => serde_json::from_str(text).unwrap_or_default(),
            Value::Text(text) => text.as_str().into(),
            Value::List(nodes) => nodes.iter().map(|node| node.value.to_json()).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|e| (e.key.clone(), e.node.value.to_json())).collect(),
            ),
        }
    }
}

/// Builds nodes, and fails at `stop_at` so that the parser tells its place.
#[derive(Clone, Copy)]
struct Walk<'c> {
    next_id: &'c Cell<usize>,
    stop_at: Option<usize>,
    /// The first key that was in its mapping already.
    twice: &'c Cell<Option<usize>>,
}

impl Walk<'_> {
    fn enter<E: serde::de::Error>(self) -> Result<usize, E> {
        let id = self.next_id.replace(self.next_id.get() + 1);
        if self.stop_at == Some(id) { Err(E::custom("here")) } else { Ok(id) }
    }

    fn leaf<E: serde::de::Error>(self, value: Value) -> Result<Node, E> {
        Ok(Node { id: self.enter()?, value })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain YAML value without a tag")
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(Value::Null)
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(Value::Null)
    }
    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Node, E> {
        self.leaf(Value::Bool(flag))
    }
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Node, E> {
        self.leaf(Value::Number(number.to_string()))
    }
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Node, E> {
        self.leaf(Value::Number(number.to_string()))
    }
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Node, E> {
        // `.inf` and `.nan` have no JSON form; they stay the words that YAML has for them.
        let value = match serde_json::Number::from_f64(number) {
            Some(_) => Value::Number(number.to_string()),
            None => Value::Text(number.to_string()),
        };
        self.leaf(value)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        self.leaf(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let id = self.enter()?;
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node { id, value: Value::List(nodes) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let id = self.enter()?;
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(Node { id, value }) = access.next_key_seed(self)? {
            let key = match value {
                Value::List(_) | Value::Map(_) => return Err(A::Error::custom("a key is no text")),
                scalar => scalar.to_text(),
            };
            if entries.iter().any(|entry| entry.key == key) {
                self.twice.set(self.twice.get().or(Some(id)));
            }
            entries.push(Entry { id, key, node: access.next_value_seed(self)? });
        }
        Ok(Node { id, value: Value::Map(entries) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Arc<File> {
        Arc::new(File { path: "f.yaml".into(), text: text.into() })
    }

    /// Every kind of place in a file of several documents is found at its line.
    #[test]
    fn places_are_lines_of_the_file() {
        let text =
            "# head\na: 1\nb:\n  - x\n  - y: 2\n---\n---\n\nc:\n  d: >\n    long\n  e: \"q\"\n";
        let (documents, malformed) = documents(file(text));
        assert!(malformed.is_none());
        let [first, second] = documents.as_slice() else { panic!("{documents:?}") };
        for (document, path, line) in [
            (first, "a", 2),
            (first, "b", 3),
            (first, "b.1", 5),
            (first, "b.1.y", 5),
            (first, "b.7", 3),
            (second, "", 9),
            (second, "c.d", 10),
            (second, "c.e", 12),
            (second, "c.nothing", 9),
        ] {
            assert_eq!(document.place_at(path), format!("f.yaml:{line}"), "{path}");
        }
    }

    #[test]
    fn mistakes_have_lines_and_earlier_documents_survive() {
        for (text, line, documents_before) in [
            ("a: 1\nb: [1,\nc: 2\n", 4, 0),
            ("a: 1\n---\na: b: c\n", 3, 1),
            ("a: 1\n\tb: 2\n", 2, 0),
            ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, 0),
            ("a: !thing 1\n", 1, 0),
        ] {
            let (documents, malformed) = documents(file(text));
            let malformed = malformed.unwrap_or_else(|| panic!("{text:?} is accepted"));
            assert_eq!(
                (malformed.line, documents.len()),
                (line, documents_before),
                "{malformed:?}"
            );
        }
    }

    #[test]
    fn values_become_text_as_json_would_write_them() {
        let (documents, _) =
            documents(file("[a, 5, true, 1.5, {k: [1, x]}, ~, 12345678901234567890]"));
        let Value::List(nodes) = &documents[0].root.value else { panic!("a list") };
        let texts: Vec<_> = nodes.iter().map(|node| node.value.to_text()).collect();
        let expected = ["a", "5", "true", "1.5", "{\"k\":[1,\"x\"]}", "", "12345678901234567890"];
        assert_eq!(texts, expected);
    }
}
