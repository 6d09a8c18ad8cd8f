//! Addresses outside: HTTP endpoints that resources name, and absolute URLs.

use crate::app::App;
use crate::app::channel::CallError;
use crate::app::channel::pool::{Address, CALLS_MAX, Pool};
use crate::app::channel::tls::Tls;
use crate::body::Body;
use crate::resources::{EndpointPlan, Setting};
use bytes::Bytes;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Hosts called by URL whose connections are kept; a further one takes the place of the one that
/// was not called for longest.
const HOSTS_MAX: usize = 32;

/// What can be called outside.
pub(super) struct Outside {
    endpoints: HashMap<Box<str>, Endpoint>,
    hosts: Mutex<Hosts>,
}

/// An endpoint of the resources.
struct Endpoint {
    /// What is wrong with its URL, if it is.
    base: Result<Base, String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    scopes: Vec<String>,
}

#[derive(Default)]
struct Hosts {
    /// By scheme and authority.
    by_origin: HashMap<Box<str>, (u64, Host)>,
    /// Calls so far, to tell which host was called last.
    calls: u64,
}

/// A host's connections and how to address it.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) pool: Arc<Pool>,
    pub(super) name: HeaderValue,
}

/// A URL that paths are put behind.
#[derive(Clone)]
struct Base {
    host: Host,
    /// Without the slash at its end; mostly empty.
    path: Box<str>,
}

/// What one call needs.
pub(super) struct Place<'a> {
    base: std::borrow::Cow<'a, Base>,
    headers: &'a [(HeaderName, HeaderValue)],
}

impl Outside {
    /// Endpoints as planned; hosts called by URL come as they are called.
    pub(super) fn new(plans: Vec<EndpointPlan>) -> Self {
        let endpoints = plans.into_iter().map(|plan| (plan.name.as_str().into(), plan.into()));
        Self { endpoints: endpoints.collect(), hosts: Mutex::default() }
    }

    /// The place that `id` names, or what is wrong with it; `None` when `id` is neither an
    /// endpoint that this app may see nor a URL.
    pub(super) fn find(&self, caller: &App, id: &str) -> Option<Result<Place<'_>, String>> {
        use std::borrow::Cow;
        if let Some(endpoint) = self.endpoints.get(id)
            && (endpoint.scopes.is_empty() || endpoint.scopes.iter().any(|app| **app == *caller.id))
        {
            let base = endpoint.base.as_ref().map_err(String::clone);
            let headers = &endpoint.headers;
            return Some(base.map(|base| Place { base: Cow::Borrowed(base), headers }));
        }
        let is_url = id.starts_with("http://") || id.starts_with("https://");
        is_url.then(|| {
            let url = Url::parse(id)?;
            let host = self.host(&url);
            Ok(Place { base: Cow::Owned(Base { host, path: url.path.into() }), headers: &[] })
        })
    }

    fn host(&self, url: &Url<'_>) -> Host {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.calls += 1;
        let now = hosts.calls;
        if let Some((called, host)) = hosts.by_origin.get_mut(url.origin) {
            *called = now;
            return host.clone();
        }
        if hosts.by_origin.len() >= HOSTS_MAX {
            let oldest = hosts.by_origin.iter().min_by_key(|(_, (called, _))| *called);
            if let Some(origin) = oldest.map(|(origin, _)| origin.clone()) {
                hosts.by_origin.remove(&origin);
            }
        }
        let host = url.host();
        hosts.by_origin.insert(url.origin.into(), (now, host.clone()));
        host
    }
}

impl Place<'_> {
    /// Calls it: the request's path goes behind the base's.
    pub(super) async fn call(
        self,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        if !self.base.path.is_empty() {
            let below = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let path = Bytes::from([&*self.base.path, below].concat());
            let whole = PathAndQuery::from_maybe_shared(path)
                .map_err(|error| CallError::Unreachable(error.to_string()))?;
            *request.uri_mut() = Uri::from(whole);
        }
        for (name, value) in self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        request.headers_mut().insert(HOST, self.base.host.name.clone());
        self.base.host.pool.send(request).await
    }
}

impl From<EndpointPlan> for Endpoint {
    fn from(plan: EndpointPlan) -> Self {
        let base =
            Url::parse(&plan.base_url).map(|url| Base { host: url.host(), path: url.path.into() });
        let mut headers = Vec::new();
        for (name, setting) in &plan.headers {
            let header = match setting {
                Setting::Text(text) => name.parse().ok().zip(HeaderValue::from_str(text).ok()),
                Setting::Secret { .. } => None,
            };
            match header {
                Some(header) => headers.push(header),
                None => tracing::error!(
                    endpoint = plan.name,
                    "the header {name:?} has no valid name or value and is not sent"
                ),
            }
        }
        Self { base, headers, scopes: plan.scopes }
    }
}

/// The parts of an absolute URL.
pub(super) struct Url<'a> {
    /// Scheme and authority as written.
    origin: &'a str,
    authority: &'a str,
    host: String,
    port: u16,
    pub(super) secure: bool,
    /// Without the slash at its end.
    pub(super) path: &'a str,
}

impl<'a> Url<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is not a URL to call: {why}");
        let uri: Uri = text.parse().map_err(|_| wrong("it does not parse"))?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("no host"))?;
        if uri.query().is_some() {
            return Err(wrong("a base has no query"));
        }
        let after = text.find("://").map_or(0, |at| at + 3);
        let rest = text.get(after..).unwrap_or_default();
        let end = rest.find(['/', '#']).unwrap_or(rest.len());
        Ok(Self {
            origin: text.get(..after + end).unwrap_or(text),
            authority: rest.get(..end).unwrap_or(rest),
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
            path: rest
                .get(end..)
                .and_then(|path| path.split('#').next())
                .unwrap_or_default()
                .trim_end_matches('/'),
        })
    }

    fn host(&self) -> Host {
        self.host_by(Tls::to_outside(), CALLS_MAX)
    }

    /// With TLS of its own, for so many calls at a time.
    pub(super) fn host_by(&self, tls: Tls, calls_max: usize) -> Host {
        let address = Address::new(&self.host, self.port, self.secure.then_some(tls));
        // What stands before an `@` is for the server's door, not for its name.
        let name = self.authority.rsplit('@').next().unwrap_or(self.authority);
        Host {
            pool: Pool::new(address, calls_max),
            // Parsed as an authority already, so these are header bytes.
            name: HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, origin, port, path) in [
            ("http://a", "http://a", 80, ""),
            ("https://a/", "https://a", 443, ""),
            ("http://a:8080/base/x/", "http://a:8080", 8080, "/base/x"),
            ("http://[::1]:9/b", "http://[::1]:9", 9, "/b"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.origin, url.port, url.path), (origin, port, path), "{text}");
        }
        for text in ["http://", "ftp://a/", "/a", "http://a/?q=1", "http://a b/", ""] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}
