//! State: values of an app under its keys.
//!
//! The block finds the store an app names, checks that the app may use it, puts the prefix before
//! its keys, and says in Dapr's words what went wrong. [`Keys`] holds the rules of prefixes.

mod keys;

pub use keys::Keys;

use super::record::{Families, Recorder};
use super::{Registered, StateStores};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result, status_of};
use crate::observe::metrics::families::{STATE_COUNT, STATE_LATENCY};
use pillion_components::env::Clock;
use pillion_components::state::{Delete, Feature, Item, Operation, Set, StateStore};
use pillion_components::{Error as ComponentError, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Most keys of one bulk get; more is refused with 413.
pub const BULK_KEYS_MAX: usize = 10_000;

/// Most bytes of values that one bulk get answers; more is refused with 413.
pub const BULK_BYTES_MAX: usize = 16 << 20;

/// Keys that are asked of the component at a time, so that the byte limit is noticed early.
const BULK_STEP_KEYS: usize = 256;

const NOT_CONFIGURED: Code = Code::rich(
    "ERR_STATE_STORE_NOT_CONFIGURED",
    500,
    Grpc::FailedPrecondition,
    "DAPR_STATE_NOT_CONFIGURED",
);
const NOT_FOUND: Code =
    Code::rich("ERR_STATE_STORE_NOT_FOUND", 400, Grpc::InvalidArgument, "DAPR_STATE_NOT_FOUND");
const DENIED: Code = Code::plain("ERR_PERMISSION_DENIED", 403, Grpc::PermissionDenied);
const GET: Code = Code::plain("ERR_STATE_GET", 500, Grpc::Internal);
const BULK_GET: Code = Code::plain("ERR_STATE_BULK_GET", 500, Grpc::Internal);
const SAVE: Code = Code::plain("ERR_STATE_SAVE", 500, Grpc::Internal);
const DELETE: Code = Code::plain("ERR_STATE_DELETE", 500, Grpc::Internal);
const TRANSACTION: Code = Code::plain("ERR_STATE_TRANSACTION", 500, Grpc::Internal);
const NO_TRANSACTIONS: Code = Code::rich(
    "ERR_STATE_STORE_NOT_SUPPORTED",
    500,
    Grpc::Unimplemented,
    "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
);
const NO_QUERIES: Code = Code::rich(
    "ERR_STATE_STORE_NOT_SUPPORTED",
    500,
    Grpc::Internal,
    "DAPR_STATE_QUERYING_NOT_SUPPORTED",
);

/// The block.
pub struct State {
    stores: StateStores,
    beside: BTreeMap<Arc<str>, Beside>,
}

/// What the block keeps of its own for each store.
struct Beside {
    keys: Keys,
    recorder: Recorder,
}

/// A store that an app may use, as that app sees it.
pub struct Store<'a> {
    app: &'a App,
    name: &'a str,
    component: &'a dyn StateStore,
    beside: &'a Beside,
}

impl State {
    /// State in these stores.
    pub fn new(stores: StateStores, _clock: Clock) -> Self {
        let beside = |registered: &Registered<dyn StateStore>| {
            let families = Families { count: &STATE_COUNT, latency: &STATE_LATENCY };
            let recorder = Recorder::new(families, registered.name.clone());
            let beside = Beside { keys: Keys::of(registered), recorder };
            (registered.name.clone(), beside)
        };
        let beside = stores.all().map(beside).collect();
        Self { stores, beside }
    }

    /// The store of this name, if the app may use it.
    pub fn store<'a>(&'a self, app: &'a App, name: &str) -> Result<Store<'a>> {
        let found = self.stores.get(app, name).zip(self.beside.get(name));
        let Some((registered, beside)) = found else {
            let none = self.stores.visible_to(app).next().is_none();
            let error = if none {
                Error::new(NOT_CONFIGURED, format!("state store {name} is not configured"))
            } else {
                Error::new(NOT_FOUND, format!("state store {name} is not found"))
            };
            return Err(error.info("appID", &*app.id));
        };
        if app.access.stores.as_ref().is_some_and(|names| names.iter().all(|one| one != name)) {
            let message = format!("app {} may not use state store {name}", app.id);
            return Err(Error::new(DENIED, message));
        }
        let component = &*registered.component;
        Ok(Store { app, name: &registered.name, component, beside })
    }
}

impl Store<'_> {
    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Item>> {
        let whole = self.whole(key)?;
        let started = Instant::now();
        let result = self.component.get(&whole).await;
        self.record("get", &result, started);
        result.map_err(|error| {
            let what = format!("fail to get {key} from state store {}", self.name);
            failed(GET, &error, format!("{what}: {error}"))
        })
    }

    /// Values of several keys in the order asked for; each may fail alone.
    pub async fn bulk_get(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<Option<Item>, ComponentError>>> {
        if keys.len() > BULK_KEYS_MAX {
            return Err(too_large(format!("{} keys: at most {BULK_KEYS_MAX}", keys.len())));
        }
        let whole: Vec<String> = keys.iter().map(|key| self.whole(key)).collect::<Result<_>>()?;
        let started = Instant::now();
        let mut items = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for step in whole.chunks(BULK_STEP_KEYS) {
            let found = self.component.bulk_get(step).await;
            bytes += found.iter().flatten().flatten().map(|item| item.value.len()).sum::<usize>();
            if bytes > BULK_BYTES_MAX {
                return Err(too_large(format!("values of more than {BULK_BYTES_MAX} bytes")));
            }
            items.extend(found);
        }
        self.record("bulk_get", &Ok::<_, ()>(()), started);
        Ok(items)
    }

    /// Writes values under the app's own keys: one atomically, several not.
    pub async fn save(&self, mut sets: Vec<Set>) -> Result<()> {
        for set in &mut sets {
            set.key = self.whole(&set.key)?;
        }
        let several = sets.len() > 1;
        let started = Instant::now();
        let result = match (several, sets.pop()) {
            (_, None) => return Ok(()),
            (false, Some(set)) => self.component.set(set).await,
            (true, Some(last)) => {
                sets.push(last);
                self.component.bulk_set(sets).await
            }
        };
        self.record("set", &result, started);
        result.map_err(|error| self.save_failed(&error))
    }

    /// What a save is answered that the component refused, or that could not be put to it.
    pub fn save_failed(&self, error: &ComponentError) -> Error {
        let what = format!("failed saving state in state store {}", self.name);
        failed(SAVE, error, format!("{what}: {}", reason(error)))
    }

    /// Removes a key of the app's own.
    pub async fn delete(&self, mut delete: Delete) -> Result<()> {
        let whole = self.whole(&delete.key)?;
        let key = std::mem::replace(&mut delete.key, whole);
        let started = Instant::now();
        let result = self.component.delete(delete).await;
        self.record("delete", &result, started);
        result.map_err(|error| self.delete_failed(&key, &error))
    }

    /// What a delete is answered that the component refused, or that could not be put to it.
    pub fn delete_failed(&self, key: &str, error: &ComponentError) -> Error {
        let what = format!("failed deleting state with key {key}");
        failed(DELETE, error, format!("{what}: {}", reason(error)))
    }

    /// Whether the store has transactions; the error is what the app is told otherwise.
    pub fn transactional(&self) -> Result<()> {
        if self.component.features().contains(&Feature::Transactional) {
            return Ok(());
        }
        let message = format!("state store {} doesn't support transactions", self.name);
        let help = "https://docs.dapr.io/reference/components-reference/supported-state-stores/";
        Err(Error::new(NO_TRANSACTIONS, message)
            .help("Check the list of state stores and the features they support", help)
            .resource("state", self.name))
    }

    /// Applies operations on the app's own keys: all or none.
    pub async fn transact(&self, mut operations: Vec<Operation>) -> Result<()> {
        self.transactional()?;
        for operation in &mut operations {
            match operation {
                Operation::Set(set) => set.key = self.whole(&set.key)?,
                Operation::Delete(delete) => delete.key = self.whole(&delete.key)?,
            }
        }
        if operations.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let result = self.component.transact(operations).await;
        self.record("transaction", &result, started);
        result.map_err(|error| self.transaction_failed(&error))
    }

    /// What a transaction is answered that the component refused, or that could not be put to it.
    /// A conflict is no status of its own here: clients of Dapr know it by the text.
    pub fn transaction_failed(&self, error: &ComponentError) -> Error {
        let message = format!("error while executing state transaction: {}", reason(error));
        match error.kind() {
            Kind::Conflict | Kind::InvalidEtag => Error::new(TRANSACTION, message),
            _ => failed(TRANSACTION, error, message),
        }
    }

    /// What a query is answered: no store here has an index over values.
    pub fn query_unsupported(&self) -> Error {
        Error::new(NO_QUERIES, "state store does not support querying").resource("state", self.name)
    }

    fn whole(&self, key: &str) -> Result<String> {
        self.beside.keys.whole(self.app, self.name, key)
    }

    fn record<T, E>(&self, operation: &'static str, result: &Result<T, E>, started: Instant) {
        self.beside.recorder.record(self.app, operation, result.is_ok(), started.elapsed());
    }
}

/// An error of this row; where the component's kind says more than the row does, with its status.
fn failed(row: Code, error: &ComponentError, message: String) -> Error {
    let row = match error.kind() {
        kind @ (Kind::Conflict
        | Kind::InvalidEtag
        | Kind::Full
        | Kind::TooLarge
        | Kind::Overloaded) => {
            let (http, grpc) = status_of(kind);
            row.with_status(http, grpc)
        }
        _ => row,
    };
    Error::new(row, message)
}

/// The component's message, an ETag's refusal in the words that clients look for.
fn reason(error: &ComponentError) -> String {
    let prefix = match error.kind() {
        Kind::Conflict => "possible etag mismatch. error from state store: ",
        Kind::InvalidEtag => "invalid etag value: ",
        _ => "",
    };
    if error.message().starts_with(prefix) {
        return error.message().to_owned();
    }
    format!("{prefix}{error}")
}

fn too_large(what: String) -> Error {
    let (http, grpc) = status_of(Kind::TooLarge);
    Error::new(BULK_GET.with_status(http, grpc), format!("{what}: ask for fewer keys at a time"))
}
