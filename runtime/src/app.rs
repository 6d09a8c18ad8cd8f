//! One app: who it is, what it may do, and the channel back to it.

pub mod channel;
#[cfg(test)]
pub(crate) mod fake;
pub mod health;

use crate::resources::{Access, SubscriptionPlan};
use channel::Channel;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most entries that `PUT /v1.0/metadata/{key}` may leave with one app.
pub const EXTENDED_ENTRIES_MAX: usize = 64;

/// An app that Pillion serves. Its identity comes from the listener a request arrived at.
#[derive(Debug)]
pub struct App {
    /// The app id.
    pub id: Arc<str>,
    /// The namespace, `default` unless set.
    pub namespace: Arc<str>,
    /// Token that every API call must carry in `dapr-api-token`.
    pub api_token: Option<Box<str>>,
    /// What it may use.
    pub access: Access,
    /// The way to call it; `None` for an app that only calls.
    pub channel: Option<Arc<Channel>>,
    /// How far its start has come.
    pub ready: Readiness,
    extended: Mutex<BTreeMap<String, String>>,
    subscriptions: Mutex<Vec<ActiveSubscription>>,
}

/// How far the start of an app's side has come, for the two health endpoints.
#[derive(Debug, Default)]
pub struct Readiness {
    outbound: AtomicBool,
    inbound: AtomicBool,
}

impl Readiness {
    /// Components and listeners are up: the app may call.
    pub fn set_outbound(&self) {
        self.outbound.store(true, Ordering::Release);
    }
    /// The app's port answered, or it has none: everything is up.
    pub fn set_inbound(&self) {
        self.inbound.store(true, Ordering::Release);
    }
    /// What `GET /v1.0/healthz/outbound` answers.
    pub fn is_outbound(&self) -> bool {
        self.outbound.load(Ordering::Acquire)
    }
    /// What `GET /v1.0/healthz` answers.
    pub fn is_all(&self) -> bool {
        self.is_outbound() && self.inbound.load(Ordering::Acquire)
    }
}

/// A subscription that was started, as metadata shows it.
#[derive(Debug, Clone)]
pub struct ActiveSubscription {
    /// What it is.
    pub plan: SubscriptionPlan,
    /// It came from the app, not from a resource.
    pub programmatic: bool,
}

impl App {
    /// An app as its plan describes it.
    pub fn new(
        id: &str,
        namespace: &str,
        api_token: Option<&str>,
        access: Access,
        channel: Option<Arc<Channel>>,
    ) -> Self {
        Self {
            id: id.into(),
            namespace: namespace.into(),
            api_token: api_token.map(Into::into),
            access,
            channel,
            ready: Readiness::default(),
            extended: Mutex::default(),
            subscriptions: Mutex::default(),
        }
    }

    /// What was put into its metadata.
    pub fn extended(&self) -> BTreeMap<String, String> {
        self.extended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a text into its metadata. `false` when [`EXTENDED_ENTRIES_MAX`] is reached.
    pub fn extend(&self, key: &str, value: &str) -> bool {
        let mut extended = self.extended.lock().unwrap_or_else(PoisonError::into_inner);
        if extended.len() >= EXTENDED_ENTRIES_MAX && !extended.contains_key(key) {
            return false;
        }
        extended.insert(key.into(), value.into());
        true
    }

    /// Its subscriptions.
    pub fn subscriptions(&self) -> Vec<ActiveSubscription> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what it is subscribed to.
    pub fn set_subscriptions(&self, subscriptions: Vec<ActiveSubscription>) {
        *self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner) = subscriptions;
    }
}

/// The apps of this process, by id.
#[derive(Debug, Default)]
pub struct Apps {
    by_id: Mutex<BTreeMap<Arc<str>, Arc<App>>>,
}

impl Apps {
    /// Adds an app. `false` when its id is taken.
    pub fn insert(&self, app: Arc<App>) -> bool {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if by_id.contains_key(&app.id) {
            return false;
        }
        by_id.insert(app.id.clone(), app);
        true
    }

    /// Takes an app out.
    pub fn remove(&self, id: &str) -> Option<Arc<App>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// The app of this id.
    pub fn get(&self, id: &str) -> Option<Arc<App>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Every app.
    pub fn all(&self) -> Vec<Arc<App>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
