//! Configuration stores: items that apps read and follow, and that somebody else writes.
//!
//! Any configuration store promises:
//! - `get` gives the items of the keys asked for, or every item when no key is named; a key without
//!   an item is left out, not an error;
//! - a subscription tells what changes after `subscribe` has returned, not what was there before;
//! - a change is told after it is durable, with the item as it is at that moment: changes of one
//!   key that nobody has taken yet are one, and the last of them is always told;
//! - more than [`PENDING_KEYS_MAX`] changed keys that nobody has taken may be told as every item;
//! - changes of several keys are told in the order in which the keys changed;
//! - a deleted key is told as a change without an item;
//! - dropping a subscription ends it.
//!
//! A store that can be written promises besides:
//! - `write` answers after the change is durable;
//! - writing what is there already changes nothing and is told to nobody;
//! - the version of an item that was written without one is a number that grows with every change
//!   of the store, across restarts;
//! - the mark of a write is stored with it, all or nothing.
//!
//! Keys have no prefix: a configuration store is shared by the apps that may see it.

mod changes;
pub mod embedded;
pub mod in_memory;
mod items_file;
mod stored;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use crate::topic;
use async_trait::async_trait;
use serde::Serialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use changes::{PENDING_KEYS_MAX, SUBSCRIPTIONS_MAX};
pub use items_file::FILE_BYTES_MAX;
pub use stored::{BYTES_MAX_DEFAULT, ITEM_BYTES_MAX, ITEM_OVERHEAD_BYTES};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// An item. As JSON it leaves out what is empty, as Dapr does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Its version; empty where its writer said that it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What else was said of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// An item as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The value.
    pub value: String,
    /// Its version; the store gives one where this is `None`. Empty is no version at all.
    pub version: Option<String>,
    /// What else is to be said of it.
    pub metadata: BTreeMap<String, String>,
}

/// A change that comes from outside.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// The key, at most [`KEY_BYTES_MAX`] bytes.
    pub key: String,
    /// The new item; `None` deletes.
    pub item: Option<Written>,
    /// What [`ConfigurationStore::mark`] answers from then on.
    pub mark: Option<String>,
}

/// A key that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The item as it is now; `None` when it was deleted.
    pub item: Option<Item>,
}

/// An open subscription. Dropping it ends it.
#[async_trait]
pub trait Changes: Send {
    /// The next change; waits while there is none. Cancel safe. After an error the same change may
    /// be asked for again; `Closed` means there will be no more.
    async fn next(&mut self) -> Result<Change>;
}

/// A topic that feeds a store: a message on `{topic}/{key}` writes the key, one without a payload
/// deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the pub/sub component.
    pub pubsub: String,
    /// What stands before the key, without the slash between them.
    pub topic: String,
}

impl Source {
    /// `pubsubName` and `topic` of the settings; both or neither.
    pub(crate) fn from_options(options: &Options) -> Result<Option<Self>> {
        let (pubsub, topic) = match (options.text("pubsubName"), options.text("topic")) {
            (None, None) => return Ok(None),
            (Some(pubsub), Some(topic)) => (pubsub.to_owned(), topic.to_owned()),
            _ => {
                let message = "metadata 'pubsubName' and 'topic' go together: the component and \
                               what stands before the keys in its topics";
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        topic::check_name(&topic).map_err(|error| error.context("metadata 'topic'"))?;
        if topic.ends_with('/') {
            let message = format!("metadata 'topic' is '{topic}': leave out the slash at its end");
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Some(Self { pubsub, topic }))
    }
}

/// A source of configuration. The laws stand at the head of this file.
#[async_trait]
pub trait ConfigurationStore: Send + Sync {
    /// The items of these keys; every item when there are none.
    async fn get(&self, keys: &[String]) -> Result<BTreeMap<String, Item>>;

    /// Follows these keys; every key when there are none.
    async fn subscribe(&self, keys: &[String]) -> Result<Box<dyn Changes>>;

    /// The topic that feeds the store, if one does. Whoever builds the process carries it over.
    fn source(&self) -> Option<&Source> {
        None
    }

    /// Makes a change. `false` when it was so already. Errors: `Unsupported` where items are
    /// written elsewhere, `Invalid` and `TooLarge` for what will never fit.
    async fn write(&self, write: Write) -> Result<bool> {
        let _ = write;
        Err(Error::new(
            Kind::Unsupported,
            "items of this configuration store are written elsewhere",
        ))
    }

    /// The mark of the last write that had one.
    async fn mark(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `configuration.…`.
    pub type_name: &'static str,
    /// Opens the store with its settings; its first items are there once it is open.
    pub open: for<'a> fn(&'a Options, &'a Context) -> Opening<'a>,
}

/// A store on its way.
pub type Opening<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<dyn ConfigurationStore>>> + Send + 'a>>;

/// The configuration stores there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "configuration.embedded", open: embedded::open },
    Row { type_name: "configuration.in-memory", open: in_memory::open },
];
