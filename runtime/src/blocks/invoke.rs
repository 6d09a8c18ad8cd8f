//! Service invocation: calls from one app to another, and to addresses outside.
//!
//! Apps of this process are one hop apart: the caller's request goes straight to the channel of
//! the called app. Who calls whom is stamped on the request here, so that no caller can forge it.

mod client;
mod outside;
mod pairs;

use crate::app::{App, Apps};
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use crate::resources::EndpointPlan;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode};
use outside::Outside;
use pairs::Pairs;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

pub use client::open as open_client;

/// A call that did not reach its target, or had no answer.
pub const DIRECT_INVOKE: Code = Code::plain("ERR_DIRECT_INVOKE", 500, Grpc::Internal);

const CALLER_ID: HeaderName = HeaderName::from_static("dapr-caller-app-id");
const CALLER_NAMESPACE: HeaderName = HeaderName::from_static("dapr-caller-namespace");
const CALLEE_ID: HeaderName = HeaderName::from_static("dapr-callee-app-id");

/// The block.
pub struct Invocation {
    apps: Arc<Apps>,
    outside: Outside,
    pairs: Pairs,
}

impl Invocation {
    /// Calls among `apps` and to `endpoints`, whose header secrets are already text.
    pub fn new(apps: Arc<Apps>, endpoints: Vec<EndpointPlan>) -> Self {
        Self { apps, outside: Outside::new(endpoints), pairs: Pairs::default() }
    }

    /// Calls what `id` names: an HTTP endpoint of the resources, an absolute URL, or an app
    /// (`id` or `id.namespace`). The request's URI is only path and query; its headers are what
    /// the callee shall see but for those that say who calls whom.
    ///
    /// - The answer's head is waited for without a deadline; dropping the future ends the call.
    /// - Bodies pass through in both directions as they arrive.
    /// - An error means that there is no answer of the target; whatever it answers is passed on.
    pub async fn call(
        &self,
        caller: &App,
        id: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>> {
        if let Some(place) = self.outside.find(caller, id) {
            allow(caller, id, id, &request)?;
            unstamp(request.headers_mut());
            let place = place.map_err(|why| failed(id, &why))?;
            // On the heap: rare, and the future of every call would be larger for it.
            let answer = Box::pin(place.call(request)).await;
            return answer.map_err(|error| failed(id, &error));
        }
        let callee = self.app(caller, id)?;
        allow(caller, &callee.id, id, &request)?;
        let Some(channel) = &callee.channel else {
            return Err(failed(id, &no_channel(caller, &callee)));
        };
        let pair = self.pairs.of(caller, &callee);
        pair.stamp(request.headers_mut());
        pair.sent();
        let started = Instant::now();
        let answer = channel.call(request).await;
        let status = answer.as_ref().map_or(StatusCode::INTERNAL_SERVER_ERROR, Response::status);
        pair.answered(status, started.elapsed());
        answer
            .map_err(|error| failed(id, &format_args!("rpc error: code = Internal desc = {error}")))
    }

    /// The app that `id` or `id.namespace` names; without a namespace it is the caller's.
    fn app(&self, caller: &App, id: &str) -> Result<Arc<App>> {
        let (name, namespace) = match id.split_once('.') {
            None => (id, &*caller.namespace),
            Some((name, namespace)) if !namespace.contains('.') => (name, namespace),
            Some(_) => return Err(failed(id, &format_args!("invalid app id {id}"))),
        };
        let app = self.apps.get(name).filter(|app| *app.namespace == *namespace);
        app.ok_or_else(|| failed(id, &format_args!("couldn't find service: {name}")))
    }
}

/// An error with the sentence that all errors of this block begin with.
pub fn failed(id: &str, why: &dyn fmt::Display) -> Error {
    Error::new(DIRECT_INVOKE, format!("failed to invoke, id: {id}, err: {why}"))
}

/// Every app may call itself; others only if its access says so.
fn allow(caller: &App, target: &str, id: &str, request: &Request<Body>) -> Result<()> {
    let allowed = match &caller.access.invoke {
        None => true,
        Some(targets) => *target == *caller.id || targets.iter().any(|known| known == target),
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(
        DIRECT_INVOKE.with_status(403, Grpc::PermissionDenied),
        format!(
            "failed to invoke, id: {id}, err: access control policy has denied access to id: \
             {target} operation: {} verb: {}",
            request.uri().path(),
            request.method()
        ),
    ))
}

fn no_channel(caller: &App, callee: &App) -> &'static str {
    if caller.id == callee.id {
        "cannot invoke local endpoint: app channel not initialized"
    } else {
        "app channel is not initialized"
    }
}

/// Takes away what only a callee inside may believe.
fn unstamp(headers: &mut HeaderMap) {
    for name in [CALLER_ID, CALLER_NAMESPACE, CALLEE_ID] {
        headers.remove(name);
    }
}
