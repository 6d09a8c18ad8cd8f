//! Starting and stopping the side of one app: its listeners, its health, its deliveries.

use super::listeners;
use crate::api::http::server::{self, Door};
use crate::app::channel::{CallError, Channel};
use crate::app::{App, Apps, health};
use crate::blocks::Blocks;
use crate::body::Body;
use crate::deliver::{self, Redelivery, inputs};
use crate::drain::{Drain, RequestExit};
use crate::resources::{Access, AppPlan, Limits, SubscriptionPlan};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Uri};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an app may take to tell its configuration; it starts without.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest configuration that is read.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Everything that the sides of all apps share.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) apps: Arc<Apps>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) limits: Limits,
    pub(super) request_exit: RequestExit,
    pub(super) subscriptions: Arc<[SubscriptionPlan]>,
    pub(super) redelivery: Redelivery,
    pub(super) ask_subscriptions: bool,
    pub(super) ask_config: bool,
    pub(super) probe_timeout: Duration,
}

/// Where the drains of an app's parts come from: deliveries stop before its listeners do.
#[derive(Clone)]
pub(super) struct Drains {
    pub(super) intake: Drain,
    pub(super) serving: Drain,
}

/// An app whose listeners are bound.
pub(super) struct Hosted {
    pub(super) app: Arc<App>,
    /// The first address of its HTTP API; `None` when it has only a unix socket.
    pub(super) http: Option<SocketAddr>,
}

impl Host {
    /// Binds the app's listeners and starts its parts. Its id must be free.
    pub(super) async fn start(&self, plan: AppPlan, drains: &Drains) -> Result<Hosted, String> {
        let (listeners, http) = listeners::http(&plan.listen, plan.unix_socket.as_deref()).await?;
        let channel = plan.channel.map(|channel| Arc::new(Channel::new(channel)));
        let access = Access { secret_scopes: plan.configuration.secret_scopes, ..plan.access };
        let token = plan.api_token.as_deref();
        let app = Arc::new(App::new(&plan.id, &plan.namespace, token, access, channel));
        if !self.apps.insert(app.clone()) {
            return Err(format!("the app id {} is taken: choose another with --app-id", plan.id));
        }
        let door = Arc::new(Door {
            app: app.clone(),
            blocks: self.blocks.clone(),
            limits: self.limits.clone(),
            request_exit: self.request_exit.clone(),
        });
        for listener in listeners {
            tokio::spawn(server::serve(listener, door.clone(), drains.serving.clone()));
        }
        app.ready.set_outbound();
        self.follow(&app, drains);
        Ok(Hosted { app, http })
    }

    /// Watches the app's health and starts its deliveries.
    fn follow(&self, app: &Arc<App>, drains: &Drains) {
        let Some(channel) = app.channel.clone() else {
            app.ready.set_inbound();
            return;
        };
        tokio::spawn(health::watch(channel.clone(), drains.intake.clone()));
        let answering = until_answering(app.clone(), self.ask_config, drains.intake.clone());
        let declarative =
            self.subscriptions.iter().filter(|plan| is_for(plan, &app.id)).cloned().collect();
        let deliveries = deliver::run(
            app.clone(),
            self.blocks.clone(),
            declarative,
            self.ask_subscriptions,
            self.redelivery,
            drains.intake.clone(),
        );
        let blocks = self.blocks.clone();
        let inputs = inputs::run(app.clone(), blocks, self.probe_timeout, drains.intake.clone());
        // An app is asked for its configuration before its subscriptions, and for those before
        // its bindings.
        tokio::spawn(async move {
            answering.await;
            tokio::join!(deliveries, inputs);
        });
    }

    /// Takes an app out whose drains have ended.
    pub(super) fn remove(&self, app: &App) {
        self.blocks.configuration.forget(app);
        self.apps.remove(&app.id);
    }
}

fn is_for(plan: &SubscriptionPlan, app_id: &str) -> bool {
    plan.scopes.is_empty() || plan.scopes.iter().any(|id| id == app_id)
}

/// Waits for the app's first answer; from then on `healthz` is 204. Asks it for its actors'
/// configuration as Dapr does, so that apps which wait for that question go on.
async fn until_answering(app: Arc<App>, ask_config: bool, mut drain: Drain) {
    let Some(channel) = app.channel.as_ref() else { return };
    let mut healthy = channel.healthy();
    tokio::select! {
        () = drain.started() => return,
        answered = healthy.wait_for(|healthy| *healthy) => if answered.is_err() { return },
    }
    if ask_config && let Err(error) = ask_for_config(&app.id, channel).await {
        tracing::debug!("app {}: GET /dapr/config: {error:?}", app.id);
    }
    app.ready.set_inbound();
    tracing::info!("app {} answers at {}:{}", app.id, channel.plan().host, channel.plan().port);
}

async fn ask_for_config(app_id: &str, channel: &Channel) -> Result<(), CallError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/dapr/config");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(app_id) {
        headers.insert("dapr-app-id", id);
    }
    channel.call_whole(request, CONFIG_TIMEOUT, CONFIG_BYTES_MAX).await.map(|_| ())
}
