//! Order without standing still: which held message may be delivered next. No I/O, no clock.
//!
//! Messages of one topic share a lane and go one at a time; lanes go side by side. A message that
//! must be tried again blocks its lane until its time comes, and no other lane.

use pillion_components::pubsub::{Delivery, IN_FLIGHT_MAX};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

/// Most messages of one subscription that are with the app at a time.
pub(super) const RUNNING_MAX: usize = 16;

/// Bytes of held messages at which no more are taken from the component; one is always taken.
pub(super) const HELD_BYTES_MAX: usize = 1 << 20;

/// A lane: a topic, and for subscriptions that want no order also the message's token.
pub(super) type Key = (Arc<str>, u64);

/// A message that was taken and is not done with.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// What the component yielded.
    pub(super) delivery: Delivery,
    /// Deliveries to the app that failed so far.
    pub(super) failures: u32,
    /// When it has no use any more.
    pub(super) expires: Option<Instant>,
}

impl Held {
    fn bytes(&self) -> usize {
        self.delivery.message.payload.len() + self.delivery.message.topic.len()
    }
}

/// The lanes of one subscription.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_key: HashMap<Key, Lane>,
    ready: VecDeque<Key>,
    asleep: BTreeSet<(Instant, Key)>,
    running: usize,
    held: usize,
    held_bytes: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Held>,
}

impl Lanes {
    /// Whether one more message may be taken from the component.
    pub(super) fn has_room(&self) -> bool {
        self.held == 0 || (self.held < IN_FLIGHT_MAX && self.held_bytes < HELD_BYTES_MAX)
    }

    /// Holds a message at the end of its lane.
    pub(super) fn push(&mut self, key: Key, held: Held) {
        self.held += 1;
        self.held_bytes += held.bytes();
        if let Some(lane) = self.by_key.get_mut(&key) {
            lane.waiting.push_back(held);
            return;
        }
        self.by_key.insert(key.clone(), Lane { waiting: VecDeque::from([held]) });
        self.ready.push_back(key);
    }

    /// The next message to deliver; its lane is busy until [`done`](Lanes::done) or
    /// [`again`](Lanes::again).
    pub(super) fn start(&mut self) -> Option<(Key, Held)> {
        if self.running >= RUNNING_MAX {
            return None;
        }
        while let Some(key) = self.ready.pop_front() {
            let next = self.by_key.get_mut(&key).and_then(|lane| lane.waiting.pop_front());
            if let Some(held) = next {
                self.running += 1;
                return Some((key, held));
            }
        }
        None
    }

    /// The started message of this lane is done with.
    pub(super) fn done(&mut self, key: Key, held: &Held) {
        self.running = self.running.saturating_sub(1);
        self.held = self.held.saturating_sub(1);
        self.held_bytes = self.held_bytes.saturating_sub(held.bytes());
        match self.by_key.get(&key) {
            Some(lane) if !lane.waiting.is_empty() => self.ready.push_back(key),
            _ => {
                self.by_key.remove(&key);
            }
        }
    }

    /// The started message of this lane is delivered again at `at`, before the rest of its lane.
    pub(super) fn again(&mut self, key: Key, held: Held, at: Instant) {
        self.running = self.running.saturating_sub(1);
        self.by_key.entry(key.clone()).or_default().waiting.push_front(held);
        self.asleep.insert((at, key));
    }

    /// When [`wake`](Lanes::wake) has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.asleep.first().map(|(at, _)| *at)
    }

    /// Makes lanes ready whose time has come.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.next_wake().is_some_and(|at| at <= now) {
            if let Some((_, key)) = self.asleep.pop_first() {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_components::pubsub::Message;
    use std::time::Duration;

    fn held(token: u64, topic: &str) -> (Key, Held) {
        let message = Message { topic: topic.into(), ..Message::default() };
        let delivery = Delivery {
            token,
            id: token.to_string().into(),
            published_ms: 0,
            again: false,
            message: Arc::new(message),
        };
        ((topic.into(), 0), Held { delivery, failures: 0, expires: None })
    }

    fn push(lanes: &mut Lanes, token: u64, topic: &str) {
        let (key, held) = held(token, topic);
        lanes.push(key, held);
    }

    fn started(lanes: &mut Lanes) -> Option<(Key, Held, u64)> {
        let (key, held) = lanes.start()?;
        let token = held.delivery.token;
        Some((key, held, token))
    }

    #[test]
    fn one_message_of_a_topic_at_a_time_and_topics_side_by_side() {
        let mut lanes = Lanes::default();
        for (token, topic) in [(1, "a"), (2, "a"), (3, "b")] {
            push(&mut lanes, token, topic);
        }
        let (key, first, token) = started(&mut lanes).expect("a message");
        assert_eq!(token, 1);
        assert_eq!(started(&mut lanes).expect("a message").2, 3);
        assert!(started(&mut lanes).is_none());
        lanes.done(key, &first);
        assert_eq!(started(&mut lanes).expect("a message").2, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_topic_keeps_its_order_and_lets_others_go_on() {
        let mut lanes = Lanes::default();
        push(&mut lanes, 1, "a");
        let (key, first, _) = started(&mut lanes).expect("a message");
        let at = Instant::now() + Duration::from_secs(1);
        lanes.again(key, first, at);
        push(&mut lanes, 2, "a");
        push(&mut lanes, 3, "b");
        assert_eq!(started(&mut lanes).expect("a message").2, 3);
        assert!(started(&mut lanes).is_none());
        assert_eq!(lanes.next_wake(), Some(at));
        lanes.wake(at);
        let (key, first, token) = started(&mut lanes).expect("a message");
        assert_eq!(token, 1);
        lanes.done(key, &first);
        assert_eq!(started(&mut lanes).expect("a message").2, 2);
    }

    #[test]
    fn what_is_held_is_bounded_and_forgotten() {
        let mut lanes = Lanes::default();
        let mut token = 0;
        while lanes.has_room() {
            push(&mut lanes, token, &format!("t{token}"));
            token += 1;
        }
        assert_eq!(lanes.held, IN_FLIGHT_MAX);
        let mut running = Vec::new();
        loop {
            running.extend(lanes.start());
            assert!(running.len() <= RUNNING_MAX);
            if running.len() == RUNNING_MAX || lanes.ready.is_empty() {
                for (key, held) in running.drain(..) {
                    lanes.done(key, &held);
                }
            }
            if lanes.ready.is_empty() {
                break;
            }
        }
        assert!(lanes.by_key.is_empty());
        assert_eq!((lanes.held, lanes.held_bytes, lanes.running), (0, 0, 0));
    }
}
