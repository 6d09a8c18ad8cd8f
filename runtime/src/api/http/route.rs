//! From method and path to the handler: the one table of the HTTP API's routes.
//!
//! A route exists only in the versions and with the methods listed here; everything else is
//! [`Kind::Unknown`], which service invocation answers. Parameters are single path segments, still
//! encoded; where the rest of the path belongs to the caller it is passed on whole.

use hyper::Method;
use std::borrow::Cow;

/// Names of the routes, without what varies between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Health,
    HealthOutbound,
    Metadata,
    MetadataPut,
    Shutdown,
    StateSave,
    StateGet,
    StateDelete,
    StateBulkGet,
    StateTransaction,
    StateQuery,
    SecretGet,
    SecretBulkGet,
    Publish,
    BulkPublish,
    Invoke,
    Binding,
    Configuration,
    Lock,
    Unlock,
    Crypto,
    Actor,
    JobSchedule,
    JobGet,
    JobDelete,
    Workflow,
    Conversation,
    Unknown,
}

/// Number of [`Kind`]s.
pub(super) const KINDS: usize = Kind::Unknown as usize + 1;

impl Kind {
    /// The path with names in the place of what varies, as metrics show it.
    pub(super) const fn template(self) -> &'static str {
        match self {
            Kind::Health => "/v1.0/healthz",
            Kind::HealthOutbound => "/v1.0/healthz/outbound",
            Kind::Metadata => "/v1.0/metadata",
            Kind::MetadataPut => "/v1.0/metadata/{key}",
            Kind::Shutdown => "/v1.0/shutdown",
            Kind::StateSave => "/v1.0/state/{name}",
            Kind::StateGet | Kind::StateDelete => "/v1.0/state/{name}/{key}",
            Kind::StateBulkGet => "/v1.0/state/{name}/bulk",
            Kind::StateTransaction => "/v1.0/state/{name}/transaction",
            Kind::StateQuery => "/v1.0-alpha1/state/{name}/query",
            Kind::SecretGet => "/v1.0/secrets/{name}/{key}",
            Kind::SecretBulkGet => "/v1.0/secrets/{name}/bulk",
            Kind::Publish => "/v1.0/publish/{name}/{topic}",
            Kind::BulkPublish => "/v1.0/publish/bulk/{name}/{topic}",
            Kind::Invoke => "/v1.0/invoke/{id}/method/{method}",
            Kind::Binding => "/v1.0/bindings/{name}",
            Kind::Configuration => "/v1.0/configuration/{name}",
            Kind::Lock => "/v1.0-alpha1/lock/{name}",
            Kind::Unlock => "/v1.0-alpha1/unlock/{name}",
            Kind::Crypto => "/v1.0-alpha1/crypto/{name}",
            Kind::Actor => "/v1.0/actors/{type}/{id}",
            Kind::JobSchedule | Kind::JobGet | Kind::JobDelete => "/v1.0/jobs/{name}",
            Kind::Workflow => "/v1.0/workflows/{name}",
            Kind::Conversation => "/v1.0-alpha1/conversation/{name}",
            Kind::Unknown => "",
        }
    }
}

/// A route with its parameters; those a kind does not have are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route<'p> {
    /// Which one.
    pub(super) kind: Kind,
    /// The component's or other thing's name, one segment, still encoded.
    pub(super) name: &'p str,
    /// Key, secret or rest of the path, still encoded.
    pub(super) rest: &'p str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Stable,
    Alpha1,
    Alpha2,
    Beta1,
}

/// Collapses double slashes and drops one slash at the end.
pub(super) fn clean(path: &str) -> Cow<'_, str> {
    let trimmed = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    if !trimmed.contains("//") {
        return Cow::Borrowed(trimmed);
    }
    let mut cleaned = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !cleaned.ends_with('/') {
            cleaned.push(c);
        }
    }
    if cleaned.len() > 1 && cleaned.ends_with('/') {
        cleaned.pop();
    }
    Cow::Owned(cleaned)
}

/// What follows `invoke/` in the path as the client sent it: the called app gets its double
/// slashes and the one at the end to judge.
pub(super) fn after_invoke(raw: &str) -> &str {
    let mut rest = raw;
    for _version_and_api in 0..2 {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default();
    }
    rest.trim_start_matches('/')
}

/// The route of a cleaned path.
pub(super) fn find<'p>(method: &Method, path: &'p str) -> Route<'p> {
    lookup(method, path).unwrap_or(Route { kind: Kind::Unknown, name: "", rest: "" })
}

fn lookup<'p>(method: &Method, path: &'p str) -> Option<Route<'p>> {
    let (version, path) = path.strip_prefix('/')?.split_once('/')?;
    let version = match version {
        "v1.0" => Version::Stable,
        "v1.0-alpha1" => Version::Alpha1,
        "v1.0-alpha2" => Version::Alpha2,
        "v1.0-beta1" => Version::Beta1,
        _ => return None,
    };
    let stable = version == Version::Stable;
    let alpha1 = version == Version::Alpha1;
    let (api, rest) = path.split_once('/').unwrap_or((path, ""));
    let get = method == Method::GET;
    let post = method == Method::POST;
    let put = method == Method::PUT;
    let delete = method == Method::DELETE;
    // One segment and nothing after it.
    let one = |kind, wanted| {
        let fits = wanted && !rest.is_empty() && !rest.contains('/');
        fits.then_some(Route { kind, name: rest, rest: "" })
    };
    // A segment and at least one more.
    let two = |kind, wanted| {
        let (name, rest) = rest.split_once('/')?;
        (wanted && !name.is_empty() && !rest.is_empty()).then_some(Route { kind, name, rest })
    };
    // Exactly two segments.
    let pair = |kind, wanted| two(kind, wanted).filter(|route| !route.rest.contains('/'));
    let bare = |kind, wanted| (wanted && rest.is_empty()).then_some(Route { kind, name: "", rest });
    match api {
        "healthz" if stable && get && rest == "outbound" => {
            Some(Route { kind: Kind::HealthOutbound, name: "", rest: "" })
        }
        "healthz" => bare(Kind::Health, stable && get),
        "metadata" if rest.is_empty() => bare(Kind::Metadata, stable && get),
        "metadata" => one(Kind::MetadataPut, stable && put),
        "shutdown" => bare(Kind::Shutdown, stable && post),
        "state" if !rest.contains('/') => one(Kind::StateSave, stable && (post || put)),
        "state" if post || put => {
            let route = pair(Kind::StateBulkGet, true)?;
            let kind = match route.rest {
                "bulk" if stable => Kind::StateBulkGet,
                "transaction" if stable => Kind::StateTransaction,
                "query" if alpha1 => Kind::StateQuery,
                _ => return None,
            };
            Some(Route { kind, ..route })
        }
        "state" if get => pair(Kind::StateGet, stable),
        "state" => pair(Kind::StateDelete, stable && delete),
        "secrets" if rest.ends_with("/bulk") => pair(Kind::SecretBulkGet, stable && get),
        "secrets" => pair(Kind::SecretGet, stable && get),
        "publish" => match rest.strip_prefix("bulk/") {
            // A publish to a component named `bulk` has no third segment.
            Some(bulk) if bulk.contains('/') && (stable || alpha1) && (post || put) => {
                Some(Route { kind: Kind::BulkPublish, name: "", rest: bulk })
            }
            _ => two(Kind::Publish, stable && (post || put)).map(|_| Route {
                kind: Kind::Publish,
                name: "",
                rest,
            }),
        },
        "invoke" if stable => Some(Route { kind: Kind::Invoke, name: "", rest }),
        "bindings" => one(Kind::Binding, stable && (post || put)),
        "configuration" if stable || alpha1 => configuration(rest).filter(|_| get),
        "lock" => one(Kind::Lock, alpha1 && post),
        "unlock" => one(Kind::Unlock, alpha1 && post),
        "crypto" => pair(Kind::Crypto, alpha1 && put)
            .filter(|route| matches!(route.rest, "encrypt" | "decrypt")),
        "actors" => two(Kind::Actor, stable && (get || post || put || delete)),
        "jobs" if stable || alpha1 => one(Kind::JobSchedule, post)
            .or_else(|| one(Kind::JobGet, get))
            .or_else(|| one(Kind::JobDelete, delete)),
        "workflows" => two(Kind::Workflow, version != Version::Alpha2 && (get || post)),
        "conversation" => pair(Kind::Conversation, !stable && version != Version::Beta1 && post)
            .filter(|route| route.rest == "converse"),
        _ => None,
    }
}

/// `{store}`, `{store}/subscribe`, `{store}/{id}/unsubscribe`.
fn configuration(rest: &str) -> Option<Route<'_>> {
    let (name, more) = rest.split_once('/').unwrap_or((rest, ""));
    let known = match more.split_once('/') {
        None => more.is_empty() || more == "subscribe",
        Some((id, word)) => !id.is_empty() && word == "unsubscribe",
    };
    (known && !name.is_empty()).then_some(Route { kind: Kind::Configuration, name, rest: more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/", "/a"),
            ("//a///b//", "/a/b"),
            ("/a/b", "/a/b"),
            ("//", "/"),
            ("/v1.0/state/s//k", "/v1.0/state/s/k"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn routes_exist_in_their_version_and_with_their_method_only() {
        for (method, path, expected) in [
            ("GET", "/v1.0/healthz", Kind::Health),
            ("POST", "/v1.0/healthz", Kind::Unknown),
            ("GET", "/v1.0/healthz/outbound", Kind::HealthOutbound),
            ("GET", "/v1.0/healthz/x", Kind::Unknown),
            ("GET", "/v1.0/state/s/bulk", Kind::StateGet),
            ("POST", "/v1.0/state/s/bulk", Kind::StateBulkGet),
            ("PUT", "/v1.0/state/s", Kind::StateSave),
            ("DELETE", "/v1.0/state/s", Kind::Unknown),
            ("GET", "/v1.0/state/s/a/b", Kind::Unknown),
            ("POST", "/v1.0-alpha1/state/s/query", Kind::StateQuery),
            ("POST", "/v1.0/state/s/query", Kind::Unknown),
            ("GET", "/v1.0-alpha1/state/s/k", Kind::Unknown),
            ("PATCH", "/v1.0/state/s/k", Kind::Unknown),
            ("POST", "/v1.0/publish/p/t/u", Kind::Publish),
            ("POST", "/v1.0/publish/p", Kind::Unknown),
            ("POST", "/v1.0/publish/bulk/p/t", Kind::BulkPublish),
            ("POST", "/v1.0/publish/bulk/t", Kind::Publish),
            ("POST", "/v1.0-alpha1/publish/bulk/p/t", Kind::BulkPublish),
            ("POST", "/v1.0-alpha1/publish/p/t", Kind::Unknown),
            ("GET", "/v1.0/secrets/s/bulk", Kind::SecretBulkGet),
            ("GET", "/v1.0/secrets/s/a/bulk", Kind::Unknown),
            ("PUT", "/v1.0/metadata/k", Kind::MetadataPut),
            ("OPTIONS", "/v1.0/metadata", Kind::Unknown),
            ("HEAD", "/v1.0/invoke/a/method/b", Kind::Invoke),
            ("GET", "/v1.0", Kind::Unknown),
            ("GET", "/v2.0/metadata", Kind::Unknown),
            ("GET", "/v1.0/configuration/c/x/unsubscribe", Kind::Configuration),
            ("POST", "/v1.0-alpha2/conversation/c/converse", Kind::Conversation),
            ("PUT", "/v1.0-alpha1/subtlecrypto/c/getkey", Kind::Unknown),
            ("DELETE", "/v1.0-alpha1/jobs/j", Kind::JobDelete),
            ("POST", "/v1.0-beta1/workflows/dapr/w/start", Kind::Workflow),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(find(&method, path).kind, expected, "{method} {path}");
        }
    }

    #[test]
    fn parameters_are_cut_where_they_belong() {
        let route = find(&Method::GET, "/v1.0/state/s/a%2Fb");
        assert_eq!((route.name, route.rest), ("s", "a%2Fb"));
        assert_eq!(find(&Method::POST, "/v1.0/publish/p/t/u").rest, "p/t/u");
        assert_eq!(find(&Method::POST, "/v1.0/publish/bulk/p/t/u").rest, "p/t/u");
        assert_eq!(after_invoke("//v1.0/invoke/http://x/method/a//b/"), "http://x/method/a//b/");
        assert_eq!(after_invoke("/v1.0/invoke"), "");
    }
}
