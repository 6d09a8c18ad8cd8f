//! Secrets: what an app may read of the secret stores.

use super::record::{Families, Recorder};
use super::{Registered, SecretStores};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result};
use crate::observe::metrics::families::{SECRET_COUNT, SECRET_LATENCY};
use pillion_components::secrets::{Secret, SecretStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const NOT_CONFIGURED: Code =
    Code::plain("ERR_SECRET_STORES_NOT_CONFIGURED", 500, Grpc::FailedPrecondition);
const NOT_FOUND: Code = Code::plain("ERR_SECRET_STORE_NOT_FOUND", 401, Grpc::InvalidArgument);
const DENIED: Code = Code::plain("ERR_PERMISSION_DENIED", 403, Grpc::PermissionDenied);
const GET: Code = Code::plain("ERR_SECRET_GET", 500, Grpc::Internal);

/// The block.
pub struct Secrets {
    stores: SecretStores,
    recorders: BTreeMap<Arc<str>, Recorder>,
}

impl Secrets {
    /// Secrets of these stores.
    pub fn new(stores: SecretStores) -> Self {
        let recorder = |registered: &Registered<dyn SecretStore>| {
            let families = Families { count: &SECRET_COUNT, latency: &SECRET_LATENCY };
            (registered.name.clone(), Recorder::new(families, registered.name.clone()))
        };
        let recorders = stores.all().map(recorder).collect();
        Self { stores, recorders }
    }

    /// One secret. `None` where the store answered with nothing at all.
    pub async fn get(&self, app: &App, store: &str, name: &str) -> Result<Option<Secret>> {
        let (registered, recorder) = self.store(app, store)?;
        if !may_read(app, store, name) {
            let message = format!("access denied by policy to get \"{name}\" from \"{store}\"");
            return Err(Error::new(DENIED, message));
        }
        let started = Instant::now();
        let result = registered.component.get(name).await;
        recorder.record(app, "get", result.is_ok(), started.elapsed());
        result.map_err(|error| {
            let what = format!("failed getting secret with key {name} from secret store {store}");
            Error::new(GET, format!("{what}: {error}"))
        })
    }

    /// Every secret that the app may read.
    pub async fn bulk_get(&self, app: &App, store: &str) -> Result<BTreeMap<String, Secret>> {
        let (registered, recorder) = self.store(app, store)?;
        let started = Instant::now();
        let result = registered.component.bulk_get().await;
        recorder.record(app, "bulk_get", result.is_ok(), started.elapsed());
        let mut secrets = result.map_err(|error| {
            let what = format!("failed getting secrets from secret store {store}");
            Error::new(GET, format!("{what}: {error}"))
        })?;
        secrets.retain(|name, _| may_read(app, store, name));
        Ok(secrets)
    }

    fn store(&self, app: &App, name: &str) -> Result<(&Registered<dyn SecretStore>, &Recorder)> {
        if let Some(found) = self.stores.get(app, name).zip(self.recorders.get(name)) {
            return Ok(found);
        }
        if self.stores.visible_to(app).next().is_none() {
            return Err(Error::new(NOT_CONFIGURED, "secret store is not configured"));
        }
        Err(Error::new(NOT_FOUND, format!("failed finding secret store with key {name}")))
    }
}

/// Rights come first, then the scope of the store, if it has one.
fn may_read(app: &App, store: &str, name: &str) -> bool {
    let access = &app.access;
    let has_right =
        access.secrets.as_ref().is_none_or(|stores| stores.iter().any(|one| one == store));
    let scope = access.secret_scopes.iter().find(|scope| scope.store == store);
    has_right && scope.is_none_or(|scope| scope.allows(name))
}
