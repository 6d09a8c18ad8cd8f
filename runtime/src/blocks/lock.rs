//! Distributed locks: one owner at a time, whichever app asks.

use super::state::Keys;
use super::{LockStores, Registered};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result, status_of};
use pillion_components::lock::LockStore;
use pillion_components::{Error as ComponentError, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use pillion_components::lock::Unlock as Unlocked;

const NOT_CONFIGURED: Code =
    Code::plain("ERR_LOCK_STORE_NOT_CONFIGURED", 500, Grpc::FailedPrecondition);
const NOT_FOUND: Code = Code::plain("ERR_LOCK_STORE_NOT_FOUND", 400, Grpc::InvalidArgument);
const MALFORMED: Code = Code::plain("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument);
const TRY_LOCK: Code = Code::plain("ERR_TRY_LOCK", 500, Grpc::Internal);
const UNLOCK: Code = Code::plain("ERR_UNLOCK", 500, Grpc::Internal);

/// What stands before the prefix, so that locks and state may share a store.
const SPACE: &str = "lock||";

/// The block.
pub struct Locks {
    stores: LockStores,
    keys: BTreeMap<Arc<str>, Keys>,
}

/// A lock that is asked for or given back, checked.
struct Wanted<'a> {
    component: &'a dyn LockStore,
    /// The resource as the store knows it; the error says why it cannot know it.
    resource: Result<String, ComponentError>,
}

impl Locks {
    /// Locks in these stores.
    pub fn new(stores: LockStores) -> Self {
        let rule = |one: &Registered<dyn LockStore>| (one.name.clone(), Keys::of(one));
        let keys = stores.all().map(rule).collect();
        Self { stores, keys }
    }

    /// Takes the lock of a resource for an owner, for so many seconds. `false` when it is held.
    pub async fn try_lock(
        &self,
        app: &App,
        store: &str,
        resource: &str,
        owner: &str,
        expiry_s: i32,
    ) -> Result<bool> {
        let seconds = u64::try_from(expiry_s).ok().filter(|seconds| *seconds > 0);
        let Some(seconds) = seconds else {
            return Err(malformed(format!(
                "ExpiryInSeconds is not positive in lock store {store}"
            )));
        };
        let wanted = self.wanted(app, store, resource, owner)?;
        let result = match wanted.resource {
            Ok(whole) => {
                wanted.component.try_lock(&whole, owner, Duration::from_secs(seconds)).await
            }
            Err(error) => Err(error),
        };
        result.map_err(|error| failed(TRY_LOCK, "failed to try acquiring lock", &error))
    }

    /// Gives a lock back.
    pub async fn unlock(
        &self,
        app: &App,
        store: &str,
        resource: &str,
        owner: &str,
    ) -> Result<Unlocked> {
        let wanted = self.wanted(app, store, resource, owner)?;
        let result = match wanted.resource {
            Ok(whole) => wanted.component.unlock(&whole, owner).await,
            Err(error) => Err(error),
        };
        result.map_err(|error| failed(UNLOCK, "failed to release lock", &error))
    }

    /// Checks in Dapr's order: which of two mistakes is told, clients may rely on.
    fn wanted(&self, app: &App, store: &str, resource: &str, owner: &str) -> Result<Wanted<'_>> {
        if self.stores.visible_to(app).next().is_none() {
            return Err(Error::new(NOT_CONFIGURED, "lock store is not configured"));
        }
        if resource.is_empty() {
            return Err(malformed(format!("ResourceId is empty in lock store {store}")));
        }
        if owner.is_empty() {
            return Err(malformed(format!("LockOwner is empty in lock store {store}")));
        }
        let found = self.stores.get(app, store).zip(self.keys.get(store));
        let Some((registered, keys)) = found else {
            return Err(Error::new(NOT_FOUND, format!("lock store {store} not found")));
        };
        let resource = match keys.prefixed(app, resource) {
            Some(whole) => Ok(format!("{SPACE}{whole}")),
            None => {
                let message = format!("input key/keyPrefix '{resource}' can't contain '||'");
                Err(ComponentError::new(Kind::Invalid, message))
            }
        };
        Ok(Wanted { component: &*registered.component, resource })
    }
}

fn malformed(message: String) -> Error {
    Error::new(MALFORMED, message)
}

/// An error of this row; where the component's kind says more than the row does, with its status.
fn failed(row: Code, what: &str, error: &ComponentError) -> Error {
    let row = match error.kind() {
        kind @ (Kind::Full | Kind::TooLarge | Kind::Overloaded) => {
            let (http, grpc) = status_of(kind);
            row.with_status(http, grpc)
        }
        _ => row,
    };
    Error::new(row, format!("{what}: {error}"))
}
