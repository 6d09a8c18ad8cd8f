//! Configuration: items that an app reads, and of whose changes it is told.
//!
//! A subscription lives until it is ended or the process ends; an app that finds itself with
//! another pillion, or comes up anew, subscribes again, as it does with Dapr.

mod updates;

use super::record::{Families, Recorder};
use super::{ConfigurationStores, Registered};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result, status_of};
use crate::observe::metrics::families::{CONFIGURATION_COUNT, CONFIGURATION_LATENCY};
use pillion_components::configuration::{ConfigurationStore, Item};
use pillion_components::{Error as ComponentError, Kind, env};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use updates::Updates;

/// Most keys of one request; more is refused with 413.
pub const KEYS_MAX: usize = 1000;

/// Most subscriptions of one app. At the bound its oldest ends: an app that subscribes whenever it
/// comes up and never ends a subscription still gets every change.
pub const SUBSCRIPTIONS_PER_APP_MAX: usize = 64;

const NOT_CONFIGURED: Code =
    Code::plain("ERR_CONFIGURATION_STORE_NOT_CONFIGURED", 500, Grpc::FailedPrecondition);
const NOT_FOUND: Code =
    Code::plain("ERR_CONFIGURATION_STORE_NOT_FOUND", 400, Grpc::InvalidArgument);
const GET: Code = Code::plain("ERR_CONFIGURATION_GET", 500, Grpc::Internal);
const SUBSCRIBE: Code = Code::plain("ERR_CONFIGURATION_SUBSCRIBE", 500, Grpc::InvalidArgument);
const NO_CHANNEL: Code = Code::plain("ERR_APP_CHANNEL_NIL", 500, Grpc::FailedPrecondition);

/// The block.
pub struct Configuration {
    stores: ConfigurationStores,
    recorders: BTreeMap<Arc<str>, Recorder>,
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Default)]
struct Subscriptions {
    opened: u64,
    by_id: BTreeMap<Arc<str>, Subscribed>,
}

/// One subscription. Dropping it ends it.
struct Subscribed {
    app_id: Arc<str>,
    store: Arc<str>,
    /// Its number: the smallest of an app is the oldest.
    number: u64,
    task: JoinHandle<()>,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Configuration {
    /// Configuration from these stores.
    pub fn new(stores: ConfigurationStores) -> Self {
        let recorder = |registered: &Registered<dyn ConfigurationStore>| {
            let families =
                Families { count: &CONFIGURATION_COUNT, latency: &CONFIGURATION_LATENCY };
            (registered.name.clone(), Recorder::new(families, registered.name.clone()))
        };
        let recorders = stores.all().map(recorder).collect();
        Self { stores, recorders, subscriptions: Mutex::default() }
    }

    /// The items of these keys, or every item when there are none.
    pub async fn get(
        &self,
        app: &App,
        store: &str,
        keys: &[String],
    ) -> Result<BTreeMap<String, Item>> {
        let (registered, recorder) = self.store(app, store)?;
        check_count(GET, keys)?;
        let started = Instant::now();
        let result = registered.component.get(keys).await;
        recorder.record(app, "get", result.is_ok(), started.elapsed());
        result.map_err(|error| failed(GET, "get", keys, store, &error))
    }

    /// Tells the app of changes of these keys from now on, or of every key when there are none.
    /// Gives the subscription's id.
    pub async fn subscribe(
        &self,
        app: &Arc<App>,
        store: &str,
        keys: &[String],
    ) -> Result<Arc<str>> {
        let (registered, recorder) = self.store(app, store)?;
        let Some(channel) = app.channel.clone() else {
            let message = "app channel is not initialized. cannot subscribe to configuration \
                           updates";
            return Err(Error::new(NO_CHANNEL, message));
        };
        check_count(SUBSCRIBE, keys)?;
        let started = Instant::now();
        let result = registered.component.subscribe(keys).await;
        recorder.record(app, "subscribe", result.is_ok(), started.elapsed());
        let changes =
            result.map_err(|error| failed(SUBSCRIBE, "subscribe", keys, store, &error))?;
        let id: Arc<str> = env::uuid().into();
        let updates = Updates {
            app_id: app.id.clone(),
            store: registered.name.clone(),
            id: id.clone(),
            channel,
        };
        self.keep(&id, &app.id, &registered.name, tokio::spawn(updates.run(changes)));
        Ok(id)
    }

    /// Ends a subscription. `false` when the app has none of this id at this store.
    pub fn unsubscribe(&self, app: &App, store: &str, id: &str) -> Result<bool> {
        let (_, recorder) = self.store(app, store)?;
        let mut subscriptions = self.subscriptions();
        let is_own = |one: &&Subscribed| one.app_id == app.id && *one.store == *store;
        let is_there = subscriptions.by_id.get(id).as_ref().is_some_and(is_own);
        if is_there {
            subscriptions.by_id.remove(id);
        }
        recorder.record(app, "unsubscribe", is_there, Duration::ZERO);
        Ok(is_there)
    }

    /// Ends what an app has subscribed to that is gone.
    pub fn forget(&self, app: &App) {
        self.subscriptions().by_id.retain(|_, one| one.app_id != app.id);
    }

    fn keep(&self, id: &Arc<str>, app_id: &Arc<str>, store: &Arc<str>, task: JoinHandle<()>) {
        let mut subscriptions = self.subscriptions();
        let of_app = || subscriptions.by_id.iter().filter(|(_, one)| one.app_id == *app_id);
        if of_app().count() >= SUBSCRIPTIONS_PER_APP_MAX
            && let Some((oldest, _)) = of_app().min_by_key(|(_, one)| one.number)
        {
            let oldest = oldest.clone();
            tracing::warn!(
                app_id = &**app_id,
                id = &*oldest,
                "the app has {SUBSCRIPTIONS_PER_APP_MAX} subscriptions to configuration: its \
                 oldest ends. Does it end them before it subscribes again?"
            );
            subscriptions.by_id.remove(&oldest);
        }
        let number = subscriptions.opened;
        subscriptions.opened += 1;
        let (app_id, store) = (app_id.clone(), store.clone());
        subscriptions.by_id.insert(id.clone(), Subscribed { app_id, store, number, task });
    }

    fn store(
        &self,
        app: &App,
        name: &str,
    ) -> Result<(&Registered<dyn ConfigurationStore>, &Recorder)> {
        if let Some(found) = self.stores.get(app, name).zip(self.recorders.get(name)) {
            return Ok(found);
        }
        if self.stores.visible_to(app).next().is_none() {
            return Err(Error::new(NOT_CONFIGURED, "configuration stores not configured"));
        }
        Err(Error::new(NOT_FOUND, format!("configuration store {name} not found")))
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_count(row: Code, keys: &[String]) -> Result<()> {
    if keys.len() <= KEYS_MAX {
        return Ok(());
    }
    let (http, grpc) = status_of(Kind::TooLarge);
    let message = format!("{} keys: ask for at most {KEYS_MAX} at a time", keys.len());
    Err(Error::new(row.with_status(http, grpc), message))
}

fn failed(row: Code, verb: &str, keys: &[String], store: &str, error: &ComponentError) -> Error {
    // Keys as Go writes a list: blanks between them.
    let mut list = String::from("[");
    for (index, key) in keys.iter().enumerate() {
        let blank = if index > 0 { " " } else { "" };
        let _ = write!(list, "{blank}{key}");
    }
    let message = format!("failed to {verb} {list}] from Configuration store {store}: {error}");
    Error::new(row, message)
}

#[cfg(test)]
mod tests;
