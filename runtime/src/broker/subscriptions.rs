//! What a session is subscribed to, and what a message of a topic means for it.

use super::packet::{Qos, RetainHandling};
use pillion_components::topic::Filter;
use std::collections::BTreeMap;

/// Options of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// Highest QoS it gets.
    pub(crate) qos: Qos,
    /// Not what the client published itself.
    pub(crate) no_local: bool,
    /// Keep the retain flag of the publisher.
    pub(crate) retain_as_published: bool,
    /// Identifier that MQTT 5 sends along.
    pub(crate) id: Option<u32>,
}

/// The subscriptions of one session, by filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions(BTreeMap<Filter, Options>);

/// How a message reaches the session. Overlapping subscriptions count as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Match {
    /// Highest QoS of those that match.
    pub(crate) qos: Qos,
    /// One of them keeps the retain flag.
    pub(crate) retain_as_published: bool,
    /// Their identifiers.
    pub(crate) ids: Vec<u32>,
}

impl Subscriptions {
    /// Adds or replaces one. Whether there was none of this filter.
    pub(crate) fn insert(&mut self, filter: Filter, options: Options) -> bool {
        self.0.insert(filter, options).is_none()
    }

    /// Removes one. Whether there was one.
    pub(crate) fn remove(&mut self, filter: &Filter) -> bool {
        self.0.remove(filter).is_some()
    }

    /// Whether there is one of this filter.
    pub(crate) fn contains(&self, filter: &Filter) -> bool {
        self.0.contains_key(filter)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every filter.
    pub(crate) fn filters(&self) -> Vec<Filter> {
        self.0.keys().cloned().collect()
    }

    /// Every subscription.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Filter, &Options)> {
        self.0.iter()
    }

    /// What a message of `topic` is to the session; `None` if it does not want it. `own` says that
    /// the client published it itself.
    pub(crate) fn matched(&self, topic: &str, own: bool) -> Option<Match> {
        let mut found: Option<Match> = None;
        for (filter, options) in &self.0 {
            if (own && options.no_local) || !filter.matches(topic) {
                continue;
            }
            let so_far = found.get_or_insert_default();
            so_far.qos = so_far.qos.max(options.qos);
            so_far.retain_as_published |= options.retain_as_published;
            so_far.ids.extend(options.id);
        }
        found
    }
}

/// Whether a SUBSCRIBE brings the retained messages of its filter.
pub(crate) const fn brings_retained(handling: RetainHandling, is_new: bool) -> bool {
    match handling {
        RetainHandling::Always => true,
        RetainHandling::IfNew => is_new,
        RetainHandling::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::new(text).expect("a valid filter")
    }

    #[test]
    fn overlapping_subscriptions_count_as_one_with_the_highest_qos() {
        let mut subscriptions = Subscriptions::default();
        let low = Options { id: Some(1), ..Options::default() };
        let high = Options {
            qos: Qos::AtLeastOnce,
            retain_as_published: true,
            id: Some(2),
            ..Options::default()
        };
        assert!(subscriptions.insert(filter("a/#"), low));
        assert!(subscriptions.insert(filter("a/+"), high));
        let expected = Match { qos: Qos::AtLeastOnce, retain_as_published: true, ids: vec![2, 1] };
        let found = subscriptions.matched("a/b", false).map(|mut found| {
            found.ids.sort_unstable_by(|left, right| right.cmp(left));
            found
        });
        assert_eq!(found, Some(expected));
        assert_eq!(subscriptions.matched("b", false), None);
        assert!(!subscriptions.insert(filter("a/#"), low));
        assert!(subscriptions.remove(&filter("a/#")));
        assert!(!subscriptions.remove(&filter("a/#")));
    }

    #[test]
    fn no_local_leaves_out_ones_own() {
        let mut subscriptions = Subscriptions::default();
        let options = Options { no_local: true, ..Options::default() };
        subscriptions.insert(filter("a"), options);
        assert!(subscriptions.matched("a", true).is_none());
        assert!(subscriptions.matched("a", false).is_some());
    }
}
