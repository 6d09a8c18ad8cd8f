//! Opening components: secret stores first, since others take their secrets from them.

use crate::blocks::invoke::open_client;
use crate::blocks::state::Keys;
use crate::blocks::{BindingsByName, ConfigurationStores, LockStores, PubSubs, StateStores};
use crate::blocks::{Registered, SecretStores, Shown};
use crate::observe::metrics::families::{COMPONENT_INIT, COMPONENT_INIT_FAIL, COMPONENT_LOADED};
use crate::resources::{ComponentPlan, EndpointPlan, Plan, Setting};
use pillion_components::bindings;
use pillion_components::configuration::{self, ConfigurationStore};
use pillion_components::context::{Context, OpenStorage};
use pillion_components::env::Clock;
use pillion_components::error::{Error, Kind, Result};
use pillion_components::http::OpenHttp;
use pillion_components::lock::{self, LockStore};
use pillion_components::options::Options;
use pillion_components::pubsub::{self, PubSub};
use pillion_components::secrets::{self, SecretStore};
use pillion_components::state;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every open component of the process.
#[derive(Default)]
pub(super) struct Components {
    pub(super) state: StateStores,
    pub(super) pubsub: PubSubs,
    pub(super) secrets: SecretStores,
    pub(super) configuration: ConfigurationStores,
    pub(super) locks: LockStores,
    pub(super) bindings: BindingsByName,
    #[cfg(feature = "crypto")]
    pub(super) crypto: crate::blocks::CryptoProviders,
    /// In the order of their start.
    pub(super) shown: Vec<Shown>,
}

/// What opening needs to know besides the plan.
pub(super) struct Opener<'a> {
    pub(super) app_id: &'a str,
    pub(super) clock: &'a Clock,
    pub(super) storage: &'a OpenStorage,
}

impl Opener<'_> {
    /// Opens every component. One that fails ends the start, unless its plan says otherwise.
    pub(super) async fn open(&self, plans: Vec<ComponentPlan>) -> Result<Components> {
        let mut components = Components::default();
        let (secret_stores, others): (Vec<_>, Vec<_>) =
            plans.into_iter().partition(|plan| plan.type_name.starts_with("secretstores."));
        for plan in secret_stores.into_iter().chain(others) {
            let opened =
                tokio::time::timeout(plan.init_timeout, self.open_one(&plan, &mut components))
                    .await
                    .unwrap_or_else(|_| {
                        let limit = plan.init_timeout;
                        Err(Error::new(Kind::Timeout, format!("it did not start within {limit:?}")))
                    });
            COMPONENT_INIT.with(&[self.app_id, &plan.type_name]).inc();
            match opened {
                Ok(()) => COMPONENT_LOADED.with(&[self.app_id]).inc(),
                Err(error) => self.failed(&plan, &error)?,
            }
        }
        Ok(components)
    }

    fn failed(&self, plan: &ComponentPlan, error: &Error) -> Result<()> {
        let ComponentPlan { name, type_name, version, origin, .. } = plan;
        COMPONENT_INIT_FAIL.with(&[self.app_id, type_name, name, "init"]).inc();
        tracing::error!(
            "Failed to init component {name} ({type_name}/{version}): [INIT_COMPONENT_FAILURE]: \
             initialization error occurred for {name} ({type_name}/{version}): {error}"
        );
        if plan.ignore_errors {
            tracing::error!(
                "Ignoring error processing component: process component {name} error: {error}"
            );
            return Ok(());
        }
        tracing::error!(
            "Error processing component, daprd will exit gracefully: \
             process component {name} error: {error}"
        );
        Err(error.clone().context(format_args!("{origin}: component {name} ({type_name})")))
    }

    async fn open_one(&self, plan: &ComponentPlan, into: &mut Components) -> Result<()> {
        let options = Arc::new(self.options(plan, &into.secrets).await?);
        let context = Context {
            name: plan.name.clone(),
            app_id: self.app_id.to_owned(),
            clock: self.clock.clone(),
            storage: self.storage.clone(),
        };
        let type_name = plan.type_name.as_str();
        let capabilities;
        if let Some(row) = state::CATALOGUE.iter().find(|row| row.type_name == type_name) {
            Keys::check(&options)?;
            let store = (row.open)(&options, &context)?;
            capabilities = state_capabilities(store.features());
            into.state.insert(registered(plan, &options, store));
        } else if let Some(row) = pubsub::CATALOGUE.iter().find(|row| row.type_name == type_name) {
            let component = (row.open)(&options, &context)?;
            capabilities = component.features().iter().map(|feature| feature.name()).collect();
            into.pubsub.insert(registered::<dyn PubSub>(plan, &options, component));
        } else if let Some(row) = secrets::CATALOGUE.iter().find(|row| row.type_name == type_name) {
            let store = (row.open)(&options)?;
            capabilities = store.capabilities().to_vec();
            into.secrets.insert(registered::<dyn SecretStore>(plan, &options, store));
        } else if let Some(row) =
            configuration::CATALOGUE.iter().find(|row| row.type_name == type_name)
        {
            let store = (row.open)(&options, &context).await?;
            capabilities = Vec::new();
            into.configuration.insert(registered::<dyn ConfigurationStore>(plan, &options, store));
        } else if let Some(row) = lock::CATALOGUE.iter().find(|row| row.type_name == type_name) {
            Keys::check(&options)?;
            let store = (row.open)(&options, &context)?;
            capabilities = Vec::new();
            into.locks.insert(registered::<dyn LockStore>(plan, &options, store));
        } else if let Some(row) = bindings::CATALOGUE.iter().find(|row| row.type_name == type_name)
        {
            let http: OpenHttp = Arc::new(open_client);
            let binding = row.open(&options, &context, &http).await?;
            capabilities = binding.capabilities();
            into.bindings.insert(registered(plan, &options, Arc::new(binding)));
        } else if let Some(opened) = open_crypto(plan, &options, into).await {
            capabilities = opened?;
        } else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("this build has no component of type {type_name}"),
            ));
        }
        warn_unknown(plan, &options);
        into.shown.push(Shown {
            name: plan.name.as_str().into(),
            type_name: type_name.into(),
            version: plan.version.as_str().into(),
            capabilities,
            scopes: plan.scopes.clone(),
        });
        tracing::info!("Component loaded: {} ({type_name}/{})", plan.name, plan.version);
        Ok(())
    }

    /// The settings with their secrets.
    async fn options(&self, plan: &ComponentPlan, stores: &SecretStores) -> Result<Options> {
        let mut known = BTreeMap::new();
        for (_, setting) in &plan.settings {
            let Setting::Secret { name, key } = setting else { continue };
            let text = secret(stores, plan.secret_store.as_deref(), name, key).await?;
            known.insert((name.clone(), key.clone()), text);
        }
        plan.options(|name, key| {
            known.get(&(name.to_owned(), key.to_owned())).cloned().ok_or_else(|| {
                Error::new(Kind::NotFound, format!("secret {name} has no key {key}"))
            })
        })
    }
}

/// Opens a crypto provider, if it is one of ours.
#[cfg(feature = "crypto")]
async fn open_crypto(
    plan: &ComponentPlan,
    options: &Arc<Options>,
    into: &mut Components,
) -> Option<Result<Vec<&'static str>>> {
    use pillion_components::crypto::{CATALOGUE, CryptoProvider};
    let row = CATALOGUE.iter().find(|row| row.type_name == plan.type_name)?;
    let opened = (row.open)(options, Arc::new(super::fetch::Http)).await;
    Some(opened.map(|provider| {
        let capabilities = provider.capabilities().to_vec();
        into.crypto.insert(registered::<dyn CryptoProvider>(plan, options, provider));
        capabilities
    }))
}

/// A build without cryptography has none.
#[cfg(not(feature = "crypto"))]
#[allow(clippy::unused_async, reason = "stands in for an opening, which waits")]
async fn open_crypto(
    _plan: &ComponentPlan,
    _options: &Arc<Options>,
    _into: &mut Components,
) -> Option<Result<Vec<&'static str>>> {
    None
}

/// Settings that the block reads by itself; a component need not know them.
const BLOCK_SETTINGS: [&str; 6] = [
    "keyprefix",
    "allowedtopics",
    "protectedtopics",
    "publishingscopes",
    "subscriptionscopes",
    "consumerid",
];

fn warn_unknown(plan: &ComponentPlan, options: &Options) {
    for name in options.unknown() {
        if !BLOCK_SETTINGS.contains(&name) {
            tracing::warn!(
                "{}: component {} ({}) does not know the metadata '{name}'; it has no effect",
                plan.origin,
                plan.name,
                plan.type_name
            );
        }
    }
}

fn registered<C: ?Sized>(
    plan: &ComponentPlan,
    options: &Arc<Options>,
    component: Arc<C>,
) -> Registered<C> {
    Registered {
        name: plan.name.as_str().into(),
        type_name: plan.type_name.as_str().into(),
        version: plan.version.as_str().into(),
        options: options.clone(),
        scopes: plan.scopes.clone(),
        component,
    }
}

fn state_capabilities(features: &[state::Feature]) -> Vec<&'static str> {
    let has = |feature| features.contains(&feature);
    let mut words: Vec<_> = features.iter().map(|feature| feature.name()).collect();
    if has(state::Feature::Etag) && has(state::Feature::Transactional) {
        words.push("ACTOR");
    }
    words
}

async fn secret(
    stores: &SecretStores,
    store: Option<&str>,
    name: &str,
    key: &str,
) -> Result<String> {
    let Some(store) = store else {
        return Err(Error::new(
            Kind::Invalid,
            format!("secretKeyRef {name}: name the store in auth.secretStore"),
        ));
    };
    let Some(found) = stores.find(store) else {
        return Err(Error::new(Kind::Invalid, format!("there is no secret store {store}")));
    };
    let secret = found.component.get(name).await?.unwrap_or_default();
    secret.get(key).cloned().ok_or_else(|| {
        Error::new(Kind::NotFound, format!("secret {name} of store {store} has no key {key}"))
    })
}

/// Puts the tokens that apps keep in secret stores in their place.
pub(super) async fn resolve_tokens(plan: &mut Plan, stores: &SecretStores) -> Result<()> {
    let mut known = BTreeMap::new();
    for app in &plan.apps {
        for from in app.api_token_from.iter().chain(&app.channel_token_from) {
            let text = secret(stores, Some(&from.store), &from.name, &from.key).await?;
            known.insert((from.store.clone(), from.name.clone(), from.key.clone()), text);
        }
    }
    plan.resolve_tokens(|from| {
        known.get(&(from.store.clone(), from.name.clone(), from.key.clone())).cloned().ok_or_else(
            || Error::new(Kind::NotFound, format!("secret {} has no key {}", from.name, from.key)),
        )
    })
}

/// Puts the secrets of an endpoint's headers in their place.
pub(super) async fn resolve_endpoint(
    mut endpoint: EndpointPlan,
    stores: &SecretStores,
) -> Result<EndpointPlan> {
    for (_, setting) in &mut endpoint.headers {
        if let Setting::Secret { name, key } = setting {
            let text = secret(stores, endpoint.secret_store.as_deref(), name, key)
                .await
                .map_err(|error| error.context(format_args!("HTTPEndpoint {}", endpoint.name)))?;
            *setting = Setting::Text(text);
        }
    }
    Ok(endpoint)
}
