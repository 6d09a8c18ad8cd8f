//! HTTP calls as a component makes them: the process lends its connections, a component knows
//! neither sockets nor the library behind them.

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// TLS settings of a component's own: authorities, and a certificate to show.
#[cfg(feature = "tls")]
pub type ClientTls = Arc<rustls::ClientConfig>;

/// TLS settings that a build without TLS cannot have.
#[cfg(not(feature = "tls"))]
#[derive(Debug, Clone)]
pub enum ClientTls {}

/// Where a client calls.
pub struct HttpTarget<'a> {
    /// `http://` or `https://`, host, and the path that every call begins with; no query.
    pub url: &'a str,
    /// Settings for `https`; without any the authorities of the web are trusted.
    pub tls: Option<ClientTls>,
}

/// One call.
pub struct HttpRequest {
    /// Method, in capitals.
    pub method: &'static str,
    /// What goes behind the target's path: nothing, or `/…` with or without a query.
    pub below: String,
    /// Headers; those that are not fit to be sent, or belong to the connection, are left out.
    pub headers: Vec<(String, String)>,
    /// The body; `None` sends none, and no word about its length.
    pub body: Option<Bytes>,
    /// Time for all of it, the whole answer included.
    pub timeout: Duration,
    /// Largest body of an answer, in bytes; a larger one is `TooLarge`.
    pub answer_bytes_max: usize,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// The words beside it.
    pub reason: String,
    /// Headers without those of the connection; several of one name are joined by `, `.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

/// Calls one target.
///
/// - Any answer is `Ok`, whatever its status; redirects are not followed.
/// - `Unavailable`: no connection, or it broke; the other side may have seen the request.
///   `Timeout`: it took too long. `Invalid`: the request cannot be written.
#[async_trait]
pub trait HttpClient: Send + Sync {
    /// One exchange.
    async fn send(&self, request: HttpRequest) -> Result<HttpAnswer>;
}

/// Makes a client; connects at its first call. Fails with `Invalid` for a URL that is none, and
/// `Unsupported` for `https` in a build without TLS.
pub type OpenHttp = Arc<dyn Fn(HttpTarget<'_>) -> Result<Arc<dyn HttpClient>> + Send + Sync>;
