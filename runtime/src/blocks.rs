//! The building blocks: what an app may ask for, whichever door it comes through.
//!
//! A block looks the component up, applies scopes, prefixes and limits of the app, calls the
//! component and records what happened. It knows apps, not protocols.

pub mod bindings;
pub mod configuration;
#[cfg(feature = "crypto")]
pub mod crypto;
pub mod invoke;
pub mod lock;
pub mod pubsub;
mod record;
pub mod secrets;
pub mod state;

use crate::app::{App, Apps};
use pillion_components::bindings::Binding;
use pillion_components::configuration::ConfigurationStore;
#[cfg(feature = "crypto")]
use pillion_components::crypto::CryptoProvider;
use pillion_components::lock::LockStore;
use pillion_components::pubsub::PubSub;
use pillion_components::secrets::SecretStore;
use pillion_components::state::StateStore;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every building block of the process.
pub struct Blocks {
    /// The apps of this process.
    pub apps: Arc<Apps>,
    /// State.
    pub state: state::State,
    /// Publish and subscribe.
    pub pubsub: pubsub::Publishing,
    /// Secrets.
    pub secrets: secrets::Secrets,
    /// Configuration.
    pub configuration: configuration::Configuration,
    /// Distributed locks.
    pub locks: lock::Locks,
    /// Bindings.
    pub bindings: Arc<bindings::Bindings>,
    /// Cryptography.
    #[cfg(feature = "crypto")]
    pub crypto: crypto::Crypto,
    /// Service invocation.
    pub invoke: invoke::Invocation,
    /// Every component, in the order of their start.
    pub shown: Vec<Shown>,
    /// Names of HTTP endpoints and who may see them.
    pub endpoints: Vec<(Arc<str>, Vec<String>)>,
    /// Time.
    pub clock: pillion_components::env::Clock,
    /// What is not as it should be.
    pub notices: Notices,
}

/// Tells what an operator should know now: a key and a text each, for metadata. Nothing when all is
/// well.
pub type Notices = Box<dyn Fn() -> Vec<(&'static str, String)> + Send + Sync>;

/// An open component and who may see it.
pub struct Registered<C: ?Sized> {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Type, as `state.redb`.
    pub type_name: Arc<str>,
    /// Version, as `v1`.
    pub version: Arc<str>,
    /// Settings, for those that the block itself reads (`keyPrefix`, scopes of topics).
    pub options: Arc<pillion_components::options::Options>,
    /// App ids that may see it; empty means all.
    pub scopes: Vec<String>,
    /// The component.
    pub component: Arc<C>,
}

/// Components of one kind by name.
pub struct Registry<C: ?Sized> {
    by_name: BTreeMap<Arc<str>, Registered<C>>,
}

impl<C: ?Sized> Default for Registry<C> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new() }
    }
}

impl<C: ?Sized> Registry<C> {
    /// Adds a component; one of the same name is replaced.
    pub fn insert(&mut self, registered: Registered<C>) {
        self.by_name.insert(registered.name.clone(), registered);
    }

    /// The component of this name, if the app may see it.
    pub fn get(&self, app: &App, name: &str) -> Option<&Registered<C>> {
        self.by_name.get(name).filter(|registered| registered.is_visible_to(app))
    }

    /// The component of this name, whoever asks.
    pub fn find(&self, name: &str) -> Option<&Registered<C>> {
        self.by_name.get(name)
    }

    /// What the app may see.
    pub fn visible_to<'a>(&'a self, app: &'a App) -> impl Iterator<Item = &'a Registered<C>> {
        self.by_name.values().filter(|registered| registered.is_visible_to(app))
    }

    /// Every component.
    pub fn all(&self) -> impl Iterator<Item = &Registered<C>> {
        self.by_name.values()
    }
}

impl<C: ?Sized> Registered<C> {
    /// Whether the scopes let this app see the component.
    pub fn is_visible_to(&self, app: &App) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|id| **id == *app.id)
    }
}

/// State stores by name.
pub type StateStores = Registry<dyn StateStore>;
/// Pub/sub components by name.
pub type PubSubs = Registry<dyn PubSub>;
/// Secret stores by name.
pub type SecretStores = Registry<dyn SecretStore>;
/// Configuration stores by name.
pub type ConfigurationStores = Registry<dyn ConfigurationStore>;
/// Lock stores by name.
pub type LockStores = Registry<dyn LockStore>;
/// Bindings by name.
pub type BindingsByName = Registry<Binding>;

/// Crypto providers by name.
#[cfg(feature = "crypto")]
pub type CryptoProviders = Registry<dyn CryptoProvider>;

/// A component as metadata shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Type, as `state.redb`.
    pub type_name: Arc<str>,
    /// Version, as `v1`.
    pub version: Arc<str>,
    /// Words of what it can do.
    pub capabilities: Vec<&'static str>,
    /// App ids that may see it; empty means all.
    pub scopes: Vec<String>,
}
