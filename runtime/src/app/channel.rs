//! The channel to one app: pooled connections, a limit on calls at a time, the app's token.

use crate::body::Body;
use crate::resources::ChannelPlan;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::watch;

/// Calls one app over HTTP/1.1.
#[derive(Debug)]
pub struct Channel {
    plan: ChannelPlan,
    healthy: watch::Sender<bool>,
}

/// Why a call did not reach the app or had no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The app's health check fails.
    Unhealthy,
    /// No connection, or it broke before an answer; the text says which.
    Unreachable(String),
    /// The time allowed has passed.
    Timeout,
}

impl Channel {
    /// A channel as planned. Connects at the first call.
    pub fn new(plan: ChannelPlan) -> Self {
        Self { plan, healthy: watch::Sender::new(false) }
    }

    /// What the channel was made from.
    pub fn plan(&self) -> &ChannelPlan {
        &self.plan
    }

    /// Whether the app's port has answered and its health check, if it has one, passes.
    pub fn healthy(&self) -> watch::Receiver<bool> {
        self.healthy.subscribe()
    }

    /// Tells whether the app can be called.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.send_if_modified(|known| std::mem::replace(known, healthy) != healthy);
    }

    /// Sends a request whose URI is only path and query; host and token are added here. Waits for
    /// a free place when `max_concurrency` calls are under way; the place is held until the
    /// answer's body is gone.
    pub async fn call(&self, _request: Request<Body>) -> Result<Response<Incoming>, CallError> {
        unimplemented!()
    }
}
