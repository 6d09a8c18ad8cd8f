//! Documents over HTTP and HTTPS for components, one connection each.

use crate::app::channel::pool::{Address, Pool};
use crate::app::channel::tls::Tls;
use crate::body::Body;
use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use hyper::header::{ACCEPT, HOST, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, StatusCode, Uri};
use pillion_components::crypto::Fetch;
use pillion_components::error::{Error, Kind, Result};

/// Asks any address; the certificate of an HTTPS one must lead to one of Mozilla's roots. Redirects
/// are not followed.
pub(super) struct Http;

#[async_trait]
impl Fetch for Http {
    async fn get(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>> {
        let (request, pool) = prepare(url)?;
        let unreachable = |error: String| Error::new(Kind::Unavailable, error);
        let response = pool.send(request).await.map_err(|error| unreachable(error.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(unreachable(format!("answered with status {}", response.status())));
        }
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let body = body.map_err(|error| unreachable(format!("its answer: {error}")))?;
        Ok(body.to_bytes().to_vec())
    }
}

fn prepare(url: &str) -> Result<(Request<Body>, std::sync::Arc<Pool>)> {
    let wrong = || Error::new(Kind::Invalid, "not an http:// or https:// URL with a host");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (host, authority) = uri.host().zip(uri.authority()).ok_or_else(wrong)?;
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    if host.is_empty() || authority.as_str().contains('@') {
        return Err(wrong());
    }
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let pool = Pool::new(Address::new(host, port, secure.then(Tls::to_outside)), 1);
    let mut request = Request::new(Body::empty());
    *request.uri_mut() =
        uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")).into();
    let name = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
    request.headers_mut().insert(HOST, name);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok((request, pool))
}
