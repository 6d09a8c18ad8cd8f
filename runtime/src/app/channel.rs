//! The channel to one app: pooled connections, a limit on calls at a time, the app's token.

mod measured;
pub(crate) mod pool;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "channel/tls_absent.rs"]
pub(crate) mod tls;

use crate::body::Body;
use crate::resources::ChannelPlan;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use measured::Measured;
use pool::{Address, CALLS_MAX, Pool};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tls::Tls;
use tokio::sync::watch;

/// The header that carries a token, both ways.
pub(crate) const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");

/// Calls one app over HTTP/1.1.
#[derive(Debug)]
pub struct Channel {
    plan: ChannelPlan,
    healthy: watch::Sender<bool>,
    pool: Arc<Pool>,
    host: Option<HeaderValue>,
    token: Option<HeaderValue>,
    measured: Measured,
}

/// Why a call did not reach the app or had no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The app's health check fails.
    Unhealthy,
    /// No connection; the text says why.
    Unreachable(String),
    /// The connection broke before the answer was complete: the app may have seen the request.
    Broken(String),
    /// The answer has this status and more than so many bytes.
    TooLarge(StatusCode, usize),
    /// The time allowed has passed.
    Timeout,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unhealthy => f.write_str("app is not in a healthy state"),
            CallError::Unreachable(why) | CallError::Broken(why) => {
                write!(f, "the app did not answer: {why}")
            }
            CallError::TooLarge(_, bytes_max) => {
                write!(f, "the answer is larger than {bytes_max} bytes")
            }
            CallError::Timeout => f.write_str("the app did not answer in time"),
        }
    }
}

impl std::error::Error for CallError {}

impl Channel {
    /// A channel as planned. Connects at the first call.
    pub fn new(plan: ChannelPlan) -> Self {
        let address = Address::new(&plan.host, plan.port, plan.tls.then(Tls::to_app));
        let host = HeaderValue::from_str(&address.to_string()).ok();
        let token = plan.token.as_deref().and_then(|token| {
            let value = HeaderValue::from_str(token).ok();
            if value.is_none() {
                let app_id = &plan.app_id;
                tracing::error!(%app_id, "the app's token is no header text and is not sent");
            }
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let calls_max = plan.max_concurrency.filter(|calls| *calls > 0).unwrap_or(CALLS_MAX);
        Self {
            pool: Pool::new(address, calls_max),
            healthy: watch::Sender::new(false),
            host,
            token,
            measured: Measured::default(),
            plan,
        }
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
    ///
    /// - There is no deadline but the one for connecting: drop the future to give up.
    /// - A health check that fails refuses the call; without one, it is tried in any case.
    /// - Sent a second time only if a kept connection turned out dead, and nothing was written
    ///   or the request is safe and has no body.
    pub async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, CallError> {
        if self.plan.health.is_some() && !*self.healthy.borrow() {
            return Err(CallError::Unhealthy);
        }
        self.stamp(request.headers_mut());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let started = Instant::now();
        let answer = self.pool.send(request).await;
        let status = match &answer {
            Ok(response) => response.status(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let elapsed = started.elapsed();
        self.measured.record(&self.plan.app_id, &method, uri.path(), status, elapsed);
        answer
    }

    /// [`call`](Channel::call) for an answer that is read whole, all within `timeout`. An answer of
    /// more than `body_bytes_max` bytes is `TooLarge`.
    pub async fn call_whole(
        &self,
        request: Request<Body>,
        timeout: Duration,
        body_bytes_max: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let call = async { whole(self.call(request).await?, body_bytes_max).await };
        tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::Timeout))
    }

    /// One health probe: `GET path`, whatever the health and however many calls are under way.
    pub(super) async fn probe(
        &self,
        path: &Uri,
        timeout: Duration,
    ) -> Result<StatusCode, CallError> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = path.clone();
        self.stamp(request.headers_mut());
        let call = async {
            let answer = self.pool.send_unlimited(request).await?;
            Ok(whole(answer, PROBE_BODY_BYTES_MAX).await?.status())
        };
        tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::Timeout))
    }

    /// Whether the app's port takes a connection.
    pub(super) async fn port_accepts(&self) -> bool {
        self.pool.accepts().await
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        if let Some(token) = &self.token {
            headers.insert(API_TOKEN, token.clone());
        }
    }
}

/// Largest body of a health check's answer; nobody reads it, but the connection is kept.
const PROBE_BODY_BYTES_MAX: usize = 16 << 10;

/// Reads the whole of an answer.
pub(crate) async fn whole(
    answer: Response<Body>,
    bytes_max: usize,
) -> Result<Response<Bytes>, CallError> {
    let (head, body) = answer.into_parts();
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(CallError::TooLarge(head.status, bytes_max))
        }
        Err(error) => Err(CallError::Broken(format!("its answer broke off: {error}"))),
    }
}
