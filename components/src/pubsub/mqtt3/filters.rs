//! What the broker knows of our filters, and what it must still be told.

use rumqttc::{AsyncClient, QoS, SubscribeFilterInput, SubscribeReasonCode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Filters in one SUBSCRIBE or UNSUBSCRIBE; some cloud brokers take no more than eight.
const FILTERS_PER_PACKET: usize = 8;

/// See the head of this file.
#[derive(Default)]
pub(super) struct Filters {
    known: BTreeMap<Arc<str>, Standing>,
    /// Packets handed to the client that have no id yet, oldest first.
    subscribing: VecDeque<Vec<Arc<str>>>,
    unsubscribing: VecDeque<Vec<Arc<str>>>,
    /// Packets sent, by id, that have no answer yet.
    subscribe_sent: BTreeMap<u16, Vec<Arc<str>>>,
    unsubscribe_sent: BTreeMap<u16, Vec<Arc<str>>>,
}

/// How far a filter has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Asked,
    Granted,
    Refused,
    Leaving,
}

impl Filters {
    pub(super) fn standing(&self, filter: &str) -> Option<Standing> {
        self.known.get(filter).copied()
    }

    /// Filters that are being taken back: what still comes for them is nobody's.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        let leaving = self.known.iter().filter(|(_, standing)| **standing == Standing::Leaving);
        leaving.map(|(filter, _)| filter)
    }

    /// Forgets what was under way, and without a session everything.
    pub(super) fn reconnected(&mut self, session_present: bool) {
        let known = std::mem::take(self).known;
        if session_present {
            // A filter that was leaving may be there still: as granted it is taken back again.
            self.known = known
                .into_iter()
                .filter(|(_, standing)| matches!(standing, Standing::Granted | Standing::Leaving))
                .map(|(filter, _)| (filter, Standing::Granted))
                .collect();
        }
    }

    /// Asks the broker for what is wanted and not known, and takes back what is known and not
    /// wanted.
    pub(super) fn settle(&mut self, wanted: &BTreeSet<Arc<str>>, client: &AsyncClient, qos: QoS) {
        self.known
            .retain(|filter, standing| *standing != Standing::Refused || wanted.contains(filter));
        let new: Vec<Arc<str>> =
            wanted.iter().filter(|filter| !self.known.contains_key(*filter)).cloned().collect();
        for chunk in new.chunks(FILTERS_PER_PACKET) {
            let inputs = chunk.iter().map(|filter| SubscribeFilterInput::new(filter.as_ref(), qos));
            if client.try_subscribe_many(inputs).is_ok() {
                self.subscribing.push_back(chunk.to_vec());
                self.known.extend(chunk.iter().map(|filter| (filter.clone(), Standing::Asked)));
            }
        }
        let is_old = |(filter, standing): &(&Arc<str>, &Standing)| {
            **standing == Standing::Granted && !wanted.contains(*filter)
        };
        let old: Vec<Arc<str>> =
            self.known.iter().filter(is_old).map(|(filter, _)| filter.clone()).collect();
        for chunk in old.chunks(FILTERS_PER_PACKET) {
            let texts = chunk.iter().map(|filter| filter.to_string());
            if client.try_unsubscribe_many(texts).is_ok() {
                self.unsubscribing.push_back(chunk.to_vec());
                self.known.extend(chunk.iter().map(|filter| (filter.clone(), Standing::Leaving)));
            }
        }
    }

    pub(super) fn subscribe_sent(&mut self, id: u16) {
        if let Some(filters) = self.subscribing.pop_front() {
            self.subscribe_sent.insert(id, filters);
        }
    }

    pub(super) fn unsubscribe_sent(&mut self, id: u16) {
        if let Some(filters) = self.unsubscribing.pop_front() {
            self.unsubscribe_sent.insert(id, filters);
        }
    }

    /// The broker's answer; the filters it refuses.
    pub(super) fn subscribed(&mut self, id: u16, codes: &[SubscribeReasonCode]) -> Vec<Arc<str>> {
        let filters = self.subscribe_sent.remove(&id).unwrap_or_default();
        let mut refused = Vec::new();
        for (filter, code) in filters.into_iter().zip(codes) {
            let standing = match code {
                SubscribeReasonCode::Success(_) => Standing::Granted,
                SubscribeReasonCode::Failure => {
                    refused.push(filter.clone());
                    Standing::Refused
                }
            };
            self.known.insert(filter, standing);
        }
        refused
    }

    pub(super) fn unsubscribed(&mut self, id: u16) {
        for filter in self.unsubscribe_sent.remove(&id).unwrap_or_default() {
            self.known.remove(&filter);
        }
    }
}
