//! Which queues want a topic: filters by topic, so that a publish costs its levels and its matches,
//! not every filter there is.

use crate::topic::Filter;
use std::collections::HashMap;

/// Filters, each with the ids that asked for it. An id stands at most once under a filter.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    exact: HashMap<Filter, Vec<u32>>,
    wild: Node,
}

/// One level of the filters with wildcards.
#[derive(Debug, Default)]
struct Node {
    named: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: Vec<u32>,
    /// Filters that end here with `#`.
    rest: Vec<u32>,
}

impl Routes {
    /// Adds a filter of `id`; adding it again changes nothing.
    pub(crate) fn insert(&mut self, filter: &Filter, id: u32) {
        let ids = if filter.is_exact() {
            self.exact.entry(filter.clone()).or_default()
        } else {
            self.wild.leaf(filter)
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    /// Removes a filter of `id`.
    pub(crate) fn remove(&mut self, filter: &Filter, id: u32) {
        if !filter.is_exact() {
            self.wild.remove(filter.as_str().split('/'), id);
        } else if let Some(ids) = self.exact.get_mut(filter) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.exact.remove(filter);
            }
        }
    }

    /// Fills `ids` with everybody who wants `topic`, each once, in ascending order.
    pub(crate) fn collect(&self, topic: &str, ids: &mut Vec<u32>) {
        ids.clear();
        if let Some(exact) = self.exact.get(topic) {
            ids.extend_from_slice(exact);
        }
        if !self.wild.is_empty() {
            self.wild.collect(topic, topic.starts_with('$'), ids);
        }
        if ids.len() > 1 {
            ids.sort_unstable();
            ids.dedup();
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }

    fn leaf(&mut self, filter: &Filter) -> &mut Vec<u32> {
        let mut node = self;
        for level in filter.as_str().split('/') {
            node = match level {
                "#" => return &mut node.rest,
                "+" => node.any.get_or_insert_default(),
                name => node.named.entry(name.into()).or_default(),
            };
        }
        &mut node.here
    }

    /// Recursion is as deep as a filter has levels, which its constructor bounds.
    fn remove<'a>(&mut self, mut levels: impl Iterator<Item = &'a str> + Clone, id: u32) {
        match levels.next() {
            None => self.here.retain(|other| *other != id),
            Some("#") => self.rest.retain(|other| *other != id),
            Some("+") => {
                if let Some(any) = &mut self.any {
                    any.remove(levels, id);
                    if any.is_empty() {
                        self.any = None;
                    }
                }
            }
            Some(name) => {
                if let Some(named) = self.named.get_mut(name) {
                    named.remove(levels, id);
                    if named.is_empty() {
                        self.named.remove(name);
                    }
                }
            }
        }
    }

    /// `rest_of_topic` are the levels below this node. A leading wildcard does not see topics that
    /// begin with `$`.
    fn collect(&self, rest_of_topic: &str, hidden: bool, ids: &mut Vec<u32>) {
        if !hidden {
            ids.extend_from_slice(&self.rest);
        }
        let (name, below) = match rest_of_topic.split_once('/') {
            Some((name, below)) => (name, Some(below)),
            None => (rest_of_topic, None),
        };
        let named = self.named.get(name);
        let any = if hidden { None } else { self.any.as_deref() };
        for node in named.into_iter().chain(any) {
            match below {
                Some(below) => node.collect(below, false, ids),
                None => {
                    ids.extend_from_slice(&node.here);
                    ids.extend_from_slice(&node.rest);
                }
            }
        }
    }
}

impl std::borrow::Borrow<str> for Filter {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "a failing test shows its seed")]
mod tests {
    use super::*;
    use crate::env;

    fn collect(routes: &Routes, topic: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        routes.collect(topic, &mut ids);
        ids
    }

    /// Random filters and topics over a small alphabet: the index must agree with matching every
    /// filter by itself, also after some are removed, and be empty when all are.
    #[test]
    fn the_index_agrees_with_matching_one_by_one() {
        let mut seed = env::random_u64();
        println!("seed {seed}");
        let mut pick = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (seed >> 33) % below
        };
        let mut text = |words: &[&str]| {
            let levels = (0..=pick(3)).map(|_| words[pick(words.len() as u64) as usize]);
            levels.collect::<Vec<_>>().join("/")
        };
        let mut filters = Vec::new();
        let mut routes = Routes::default();
        while filters.len() < 200 {
            if let Ok(filter) = Filter::new(&text(&["a", "b", "$c", "", "+", "#"])) {
                let id = (filters.len() / 2) as u32;
                routes.insert(&filter, id);
                filters.push((filter, id));
            }
        }
        while !filters.is_empty() {
            for _ in 0..50 {
                let topic = text(&["a", "b", "$c", "", "d"]);
                let mut expected = filters
                    .iter()
                    .filter(|(filter, _)| filter.matches(&topic))
                    .map(|(_, id)| *id)
                    .collect::<Vec<_>>();
                expected.sort_unstable();
                expected.dedup();
                assert_eq!(collect(&routes, &topic), expected, "topic {topic:?}");
            }
            for (filter, id) in filters.split_off(filters.len() / 2) {
                // The same filter may have been drawn twice for one id.
                if !filters.contains(&(filter.clone(), id)) {
                    routes.remove(&filter, id);
                }
            }
        }
        assert!(routes.exact.is_empty() && routes.wild.is_empty());
    }
}
