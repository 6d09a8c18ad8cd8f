//! Which app may use which topic: scopes of the component and rights of the app.

use crate::app::App;
use pillion_components::options::Options;
use pillion_components::topic::Filter;
use std::collections::{BTreeMap, BTreeSet};

/// What an app wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Publish to it.
    Publish,
    /// Subscribe to it.
    Subscribe,
}

type Topics = BTreeSet<Box<str>>;

/// The topic scopes in a component's metadata.
#[derive(Debug, Default)]
pub(crate) struct TopicScopes {
    /// If any, only these exist.
    allowed: Topics,
    /// Need an explicit grant.
    protected: Topics,
    publishing: BTreeMap<Box<str>, Topics>,
    subscription: BTreeMap<Box<str>, Topics>,
}

impl TopicScopes {
    /// Reads `allowedTopics`, `protectedTopics`, `publishingScopes`, `subscriptionScopes`.
    pub(crate) fn read(options: &Options) -> Self {
        let topics = |name| options.text(name).map(parse_topics).unwrap_or_default();
        let grants = |name| options.text(name).map(parse_grants).unwrap_or_default();
        Self {
            allowed: topics("allowedTopics"),
            protected: topics("protectedTopics"),
            publishing: grants("publishingScopes"),
            subscription: grants("subscriptionScopes"),
        }
    }

    /// Whether scopes and the app's own rights let it use the topic (or filter) so.
    pub(crate) fn allow(&self, app: &App, topic: &str, how: Use) -> bool {
        self.grants(&app.id, topic, how) && is_within_rights(app, topic)
    }

    fn grants(&self, app_id: &str, topic: &str, how: Use) -> bool {
        if !self.allowed.is_empty() && !self.allowed.contains(topic) {
            return false;
        }
        let grants = match how {
            Use::Publish => &self.publishing,
            Use::Subscribe => &self.subscription,
        };
        match grants.get(app_id) {
            Some(granted) => granted.contains(topic),
            None => !self.protected.contains(topic),
        }
    }
}

/// `t1,t2`; blanks anywhere are removed.
fn parse_topics(text: &str) -> Topics {
    let text: String = text.split_whitespace().collect();
    text.split(',').filter(|topic| !topic.is_empty()).map(Box::from).collect()
}

/// `app1=t1,t2;app2=`; an app listed with nothing may use nothing.
fn parse_grants(text: &str) -> BTreeMap<Box<str>, Topics> {
    let text: String = text.split_whitespace().collect();
    let grant = |entry: &str| {
        let (app, topics) = entry.split_once('=')?;
        Some((Box::from(app), parse_topics(topics)))
    };
    text.split(';').filter_map(grant).collect()
}

/// Whether the app's `access.topics` has a filter that holds all that `topic` names.
fn is_within_rights(app: &App, topic: &str) -> bool {
    let Some(filters) = &app.access.topics else { return true };
    filters.iter().any(|filter| covers(filter, topic))
}

/// Whether every topic that `wanted`, a topic or filter, matches is matched by `filter` too.
fn covers(filter: &Filter, wanted: &str) -> bool {
    if wanted.starts_with('$') && filter.as_str().starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = wanted.split('/');
    for level in filter.as_str().split('/') {
        match (level, wanted.next()) {
            ("#", _) => return true,
            ("+", Some(name)) if name != "#" => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Access;

    fn scopes() -> TopicScopes {
        TopicScopes::read(&Options::from_iter([
            ("allowedTopics", "a, b,c,p"),
            ("protectedTopics", "p"),
            ("publishingScopes", "app1 = a,p; app2="),
        ]))
    }

    #[test]
    fn scopes_decide_as_the_contract_says() {
        let scopes = scopes();
        for (app, topic, expected) in [
            ("app1", "a", true),
            ("app1", "p", true),
            ("app1", "b", false),
            ("app2", "a", false),
            ("app3", "a", true),
            ("app3", "p", false),
            ("app3", "z", false),
        ] {
            assert_eq!(scopes.grants(app, topic, Use::Publish), expected, "{app} {topic}");
        }
        assert!(scopes.grants("app2", "a", Use::Subscribe));
        assert!(!scopes.grants("app2", "p", Use::Subscribe));
    }

    #[test]
    fn rights_hold_for_filters_too() {
        let filters = ["a/+", "b/#"].map(|text| Filter::new(text).expect("a filter"));
        let access = Access { topics: Some(filters.to_vec()), ..Access::default() };
        let app = App::new("app1", "default", None, access, None);
        for (topic, expected) in [
            ("a/x", true),
            ("a/+", true),
            ("a/#", false),
            ("a/x/y", false),
            ("b", true),
            ("b/#", true),
            ("b/+/c", true),
            ("#", false),
            ("c", false),
        ] {
            assert_eq!(
                TopicScopes::default().allow(&app, topic, Use::Subscribe),
                expected,
                "{topic}"
            );
        }
    }
}
