//! Who may connect, and what each may publish and subscribe.

use crate::resources::MqttUserPlan;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pillion_components::topic::Filter;
use ring::pbkdf2;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Most rounds of a password hash that are computed: 10 million take seconds on a small ARM.
const ITERATIONS_MAX: u32 = 10_000_000;

/// The name under which the rights of clients without a name are found, if there is such a user.
const ANONYMOUS: &str = "anonymous";

/// The users of the door.
#[derive(Debug, Default)]
pub(crate) struct Users {
    by_name: HashMap<Arc<str>, User>,
    allow_anonymous: bool,
    /// Checked where there is no such user, so that the time it takes does not tell.
    decoy: Option<Arc<PasswordHash>>,
}

#[derive(Debug)]
struct User {
    hash: Option<Arc<PasswordHash>>,
    publish: Arc<[String]>,
    subscribe: Arc<[String]>,
}

/// How a client says who it is.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    /// Subject of a certificate that was verified, on TLS.
    pub(crate) certificate_name: Option<&'a str>,
    /// From CONNECT.
    pub(crate) user_name: Option<&'a str>,
}

/// What to do about a [`Claim`].
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Let in with these rights.
    Known(Rights),
    /// Let in with these rights once the password matches this hash.
    IfPassword(Arc<PasswordHash>, Rights),
    /// No such user, or one without a password.
    BadCredentials,
    /// Clients that do not say who they are may not come in here.
    NotAuthorized,
}

impl Users {
    /// The users of the plan.
    pub(crate) fn new(plans: Vec<MqttUserPlan>, allow_anonymous: bool) -> Self {
        let mut by_name = HashMap::with_capacity(plans.len());
        for plan in plans {
            let hash = plan.password_hash.as_deref().map(PasswordHash::parse);
            if matches!(hash, Some(None)) {
                tracing::warn!(
                    user = plan.name,
                    "the password hash is not $7$iterations$salt$hash: nobody can log in with it"
                );
            }
            let user = User {
                hash: hash.flatten().map(Arc::new),
                publish: plan.publish.into(),
                subscribe: plan.subscribe.into(),
            };
            by_name.insert(plan.name.into(), user);
        }
        let hashes = by_name.values().filter_map(|user| user.hash.as_ref());
        let costliest = hashes.map(|hash| hash.iterations).max();
        let decoy = costliest.map(|iterations| Arc::new(PasswordHash::of_nobody(iterations)));
        Self { by_name, allow_anonymous, decoy }
    }

    /// Judges who a client says it is.
    pub(crate) fn judge(&self, claim: &Claim<'_>, client_id: &str) -> Verdict {
        if let Some(name) = claim.certificate_name {
            return match self.by_name.get(name) {
                Some(user) => Verdict::Known(user.rights(name, client_id)),
                None => Verdict::NotAuthorized,
            };
        }
        // Where there are no users, a name means nothing and is ignored.
        let name = claim.user_name.filter(|_| !self.by_name.is_empty());
        let Some(name) = name else { return self.judge_anonymous(client_id) };
        match self.by_name.get(name) {
            Some(user) => match &user.hash {
                Some(hash) => Verdict::IfPassword(hash.clone(), user.rights(name, client_id)),
                None => self.decoyed(),
            },
            None => self.decoyed(),
        }
    }

    fn decoyed(&self) -> Verdict {
        match &self.decoy {
            Some(hash) => Verdict::IfPassword(hash.clone(), Rights::nothing()),
            None => Verdict::BadCredentials,
        }
    }

    fn judge_anonymous(&self, client_id: &str) -> Verdict {
        if !self.allow_anonymous {
            return Verdict::NotAuthorized;
        }
        match self.by_name.get(ANONYMOUS) {
            Some(user) => Verdict::Known(user.rights("", client_id)),
            None => Verdict::Known(Rights::everything()),
        }
    }
}

impl User {
    fn rights(&self, name: &str, client_id: &str) -> Rights {
        Rights {
            publish: Some(expand(&self.publish, name, client_id)),
            subscribe: Some(expand(&self.subscribe, name, client_id)),
        }
    }
}

/// Puts the user for `%u` and the client id for `%c`. A filter gets no value that would reach
/// beyond its level: then it allows nothing.
fn expand(patterns: &[String], user: &str, client_id: &str) -> Box<[Filter]> {
    let fits = |value: &str| !value.is_empty() && !value.contains(['/', '+', '#']);
    let one = |pattern: &String| {
        let allowed =
            (!pattern.contains("%u") || fits(user)) && (!pattern.contains("%c") || fits(client_id));
        // The client id goes in last and is not searched again.
        let text = pattern.split("%c").map(|part| part.replace("%u", user)).collect::<Vec<_>>();
        if allowed { Filter::new(&text.join(client_id)).ok() } else { None }
    };
    patterns.iter().filter_map(one).collect()
}

/// What one client may do. `None` is everything.
#[derive(Debug, Clone)]
pub(crate) struct Rights {
    publish: Option<Box<[Filter]>>,
    subscribe: Option<Box<[Filter]>>,
}

impl Rights {
    /// No bounds.
    pub(crate) const fn everything() -> Self {
        Self { publish: None, subscribe: None }
    }

    /// What nobody's password gives.
    fn nothing() -> Self {
        Self { publish: Some(Box::default()), subscribe: Some(Box::default()) }
    }

    /// Whether it may publish to this topic. Topics that begin with `$` are the server's.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with('$')
            && self
                .publish
                .as_ref()
                .is_none_or(|filters| filters.iter().any(|filter| filter.matches(topic)))
    }

    /// Whether it may subscribe to everything that this filter matches.
    pub(crate) fn may_subscribe(&self, wanted: &Filter) -> bool {
        !is_own(wanted)
            && self
                .subscribe
                .as_ref()
                .is_none_or(|filters| filters.iter().any(|filter| covers(filter, wanted)))
    }
}

/// Whether the filter reaches into the door's own topics.
fn is_own(filter: &Filter) -> bool {
    let own = super::record::OWN_TOPICS.trim_end_matches('/');
    filter.as_str().split('/').next() == Some(own)
}

/// Whether every topic that `inner` matches is matched by `outer`.
fn covers(outer: &Filter, inner: &Filter) -> bool {
    if inner.as_str().starts_with('$') && outer.as_str().starts_with(['+', '#']) {
        return false;
    }
    let mut inner = inner.as_str().split('/');
    for level in outer.as_str().split('/') {
        match (level, inner.next()) {
            ("#", _) => return true,
            (_, None | Some("#")) => return false,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// mosquitto's `$7$iterations$salt$hash`: PBKDF2 with SHA-512, salt and hash in base64.
#[derive(Debug)]
pub(crate) struct PasswordHash {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

impl PasswordHash {
    /// Reads the text form; `None` if it is another one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$7$")?.split('$');
        let (iterations, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let iterations =
            iterations.parse().ok().filter(|n: &NonZeroU32| n.get() <= ITERATIONS_MAX)?;
        let salt = BASE64.decode(salt).ok()?.into_boxed_slice();
        let hash = BASE64.decode(hash).ok()?.into_boxed_slice();
        (parts.next().is_none() && !hash.is_empty()).then_some(Self { iterations, salt, hash })
    }

    /// A hash that no password has.
    fn of_nobody(iterations: NonZeroU32) -> Self {
        Self { iterations, salt: Box::new([0; 12]), hash: Box::new([0; 64]) }
    }

    /// Whether this is the password. Takes milliseconds: not for the event loop.
    pub(crate) fn matches(&self, password: &[u8]) -> bool {
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
        pbkdf2::verify(algorithm, self.iterations, &self.salt, password, &self.hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `mosquitto_passwd` for the password `secret`.
    const HASH: &str = "$7$101$L0OnSt/5AXi3klFu$DILRvRfX9nTEfYP/Xf27iR/JxbxMHOVVXRLg/8pXWMVYOtGSc8Uj/9vG2egL8hq6ZqWiSQKq3K1QZeQ+NqN6vg==";

    fn filter(text: &str) -> Filter {
        Filter::new(text).expect("a valid filter")
    }

    fn plan(name: &str, publish: &[&str], subscribe: &[&str]) -> MqttUserPlan {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        MqttUserPlan {
            name: name.into(),
            password_hash: Some(HASH.into()),
            publish: owned(publish),
            subscribe: owned(subscribe),
        }
    }

    #[test]
    fn hashes_of_mosquitto_are_understood() {
        let hash = PasswordHash::parse(HASH).expect("parses");
        assert!(hash.matches(b"secret"));
        assert!(!hash.matches(b"Secret"));
        for text in
            ["", "secret", "$6$a$b", "$7$0$AA==$AA==", "$7$99999999$AA==$AA==", "$7$1$!$AA=="]
        {
            assert!(PasswordHash::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_filter_covers_what_it_allows() {
        for (outer, inner, expected) in [
            ("#", "a/#", true),
            ("a/#", "a", true),
            ("a/#", "a/+/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+", "a", false),
            ("a/b", "a/+", false),
            ("a/b", "#", false),
            ("#", "$SYS/#", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(covers(&filter(outer), &filter(inner)), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn rights_are_per_user_and_client() {
        let plan = plan("joe", &["dev/%c/up", "u/%u/#"], &["dev/%c/#"]);
        let users = Users::new(vec![plan], false);
        let claim = Claim { certificate_name: None, user_name: Some("joe") };
        let rights = |client: &str| match users.judge(&claim, client) {
            Verdict::IfPassword(_, rights) => rights,
            other => panic!("{other:?}"),
        };
        let one = rights("one");
        assert!(one.may_publish("dev/one/up") && one.may_publish("u/joe/x"));
        assert!(!one.may_publish("dev/two/up") && !one.may_publish("$SYS/x"));
        assert!(one.may_subscribe(&filter("dev/one/+")));
        assert!(!one.may_subscribe(&filter("dev/+/up")));
        // A client id cannot reach beyond its level.
        assert!(!rights("+").may_subscribe(&filter("dev/+/x")));
        assert!(!rights("a/b").may_publish("dev/a/b/up"));
    }

    #[test]
    fn strangers_come_in_only_where_they_may() {
        let judge = |user_name, allow_anonymous| {
            let users = Users::new(vec![plan("joe", &[], &[])], allow_anonymous);
            users.judge(&Claim { certificate_name: None, user_name }, "c")
        };
        assert!(matches!(judge(None, true), Verdict::Known(_)));
        assert!(matches!(judge(None, false), Verdict::NotAuthorized));
        match judge(Some("eve"), true) {
            Verdict::IfPassword(decoy, _) => assert!(!decoy.matches(b"secret")),
            other => panic!("{other:?}"),
        }
        assert!(!Rights::everything().may_subscribe(&filter("$pillion/#")));
        let open = Users::new(Vec::new(), true);
        let claim = Claim { certificate_name: None, user_name: Some("x") };
        assert!(matches!(open.judge(&claim, "c"), Verdict::Known(_)));
        let claim = Claim { certificate_name: Some("cn"), ..claim };
        assert!(matches!(open.judge(&claim, "c"), Verdict::NotAuthorized));
    }
}
