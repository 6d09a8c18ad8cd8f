//! What a link sends next, what it repeats, and what it may forget. No I/O, clock or task.
//!
//! Events go in with the time they happened, actions come out. A flow is a filter with its queue
//! at the source; the engine sees the messages in the order the queue gives them.
//!
//! Laws:
//! - a message is done with at the source only after the target acknowledged it, or refused it
//!   for good, or it expired;
//! - the first sendings of the messages of a topic are in order; when one fails, it and everything
//!   of its topic behind it is sent again, in order, before anything new of that topic;
//! - at most [`WINDOW`] messages are sent and not answered, so a cut repeats at most so many;
//! - the flow with the highest priority goes first, equals take turns;
//! - with the target away nothing happens until an event says that it is back.

use pillion_components::Kind;
use pillion_components::backoff::Backoff;
use pillion_components::pubsub::Message;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Most messages sent and not answered. Enough for 600 a second at 50 ms round trip.
pub(super) const WINDOW: usize = 32;
/// Messages of one flow taken from the source ahead of sending.
const WAITING_MAX: usize = 64;
/// Their bytes; one larger message is taken alone.
const WAITING_BYTES_MAX: usize = 512 << 10;
/// The wait after the first failure.
const RETRY_MIN_MS: u64 = 200;
/// The longest wait between two tries while the target says that it can be reached.
const RETRY_MAX_MS: u64 = 30_000;

/// What the engine needs to know of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowRules {
    /// Higher goes first.
    pub(super) priority: u8,
    /// Most messages a second.
    pub(super) rate: Option<u32>,
}

/// Names a message that was sent, in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Index of the flow.
    pub(super) flow: usize,
    /// Counts messages of the flow.
    number: u64,
}

/// What the driver must do, in this order.
#[derive(Debug)]
pub(super) enum Action {
    /// Send this message to the target; the answer goes to [`Engine::answered`].
    Send(Ticket, Arc<Message>),
    /// The source's message of this token is done with.
    Done {
        /// Index of the flow.
        flow: usize,
        /// The token that the source gave.
        token: u64,
        /// Why.
        end: End,
    },
}

/// Why a message is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The target acknowledged it.
    Delivered,
    /// The target refuses it for good: too large, an impossible topic.
    Refused,
    /// Its time to live ran out.
    Expired,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Engine {
    flows: Vec<Flow>,
    reachable: bool,
    /// A sending failed: nothing is sent until every answer is in.
    failed: bool,
    /// Nothing is sent before.
    not_before_ms: Option<u64>,
    backoff: Backoff,
    /// Without an answer.
    sent: usize,
    /// The flow that was served last.
    last: usize,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Flow {
    rules: FlowRules,
    bucket: Option<Bucket>,
    waiting: VecDeque<Entry>,
    waiting_bytes: usize,
    /// Sent, in order of sending.
    sent: VecDeque<(Entry, Answer)>,
    numbers: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    token: u64,
    expires_ms: Option<u64>,
    message: Arc<Message>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }

    fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Delivered,
    Refused,
    Failed,
}

/// Tokens for one second at most, so that a link that comes back does not burst for minutes.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// In thousandths of a message.
    level: u64,
    filled_ms: u64,
}

impl Bucket {
    fn new(per_second: u32, now_ms: u64) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self { per_second, level: per_second * 1000, filled_ms: now_ms }
    }

    /// When there is a token; `None` is now.
    fn wait_until_ms(&mut self, now_ms: u64) -> Option<u64> {
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms);
        let gained = elapsed_ms.saturating_mul(self.per_second);
        self.level = self.level.saturating_add(gained).min(self.per_second * 1000);
        self.filled_ms = now_ms;
        let missing = 1000_u64.saturating_sub(self.level);
        (missing > 0).then(|| now_ms + missing.div_ceil(self.per_second))
    }

    fn take(&mut self) {
        self.level = self.level.saturating_sub(1000);
    }
}

impl Engine {
    /// An engine for these flows. The same `seed` gives the same jitter.
    pub(super) fn new(flows: &[FlowRules], reachable: bool, now_ms: u64, seed: u64) -> Self {
        let flow = |rules: &FlowRules| Flow {
            rules: *rules,
            bucket: rules.rate.map(|rate| Bucket::new(rate, now_ms)),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent: VecDeque::new(),
            numbers: 0,
        };
        Self {
            flows: flows.iter().map(flow).collect(),
            reachable,
            failed: false,
            not_before_ms: None,
            backoff: Backoff::new(RETRY_MIN_MS, RETRY_MAX_MS, seed),
            sent: 0,
            last: 0,
            actions: VecDeque::new(),
        }
    }

    /// Whether the flow should be fed. What comes all the same is taken.
    pub(super) fn wants(&self, flow: usize) -> bool {
        self.reachable
            && self.flows.get(flow).is_some_and(|flow| {
                flow.waiting.len() < WAITING_MAX && flow.waiting_bytes < WAITING_BYTES_MAX
            })
    }

    /// The source gave a message.
    pub(super) fn arrived(&mut self, flow: usize, token: u64, message: Arc<Message>, now_ms: u64) {
        let Some(flow) = self.flows.get_mut(flow) else { return };
        flow.numbers += 1;
        let expires_ms = message.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
        let entry = Entry { number: flow.numbers, token, expires_ms, message };
        flow.waiting_bytes += entry.bytes();
        flow.waiting.push_back(entry);
    }

    /// The source ended and will begin anew: it gives again what was not done with. What is sent
    /// is forgotten, its answers are ignored.
    pub(super) fn source_restarted(&mut self, flow: usize, now_ms: u64) {
        let Some(flow) = self.flows.get_mut(flow) else { return };
        flow.waiting.clear();
        flow.waiting_bytes = 0;
        self.sent -= flow.sent.iter().filter(|(_, answer)| *answer == Answer::Awaited).count();
        flow.sent.clear();
        if self.failed && self.sent == 0 {
            self.rewind(now_ms);
        }
    }

    /// Whether the target can be reached has changed.
    pub(super) fn reachable(&mut self, reachable: bool) {
        if reachable && !self.reachable {
            self.backoff.reset();
            self.not_before_ms = None;
        }
        self.reachable = reachable;
    }

    /// The target answered.
    pub(super) fn answered(&mut self, ticket: Ticket, result: Result<(), Kind>, now_ms: u64) {
        let Some(flow) = self.flows.get_mut(ticket.flow) else { return };
        let mut sent = flow.sent.iter_mut();
        let Some((_, answer)) = sent
            .find(|(entry, answer)| entry.number == ticket.number && *answer == Answer::Awaited)
        else {
            return;
        };
        *answer = match result {
            Ok(()) => Answer::Delivered,
            Err(Kind::Invalid | Kind::TooLarge | Kind::Unsupported) => Answer::Refused,
            Err(_) => Answer::Failed,
        };
        self.sent -= 1;
        match *answer {
            Answer::Failed => self.failed = true,
            _ if !self.failed => self.backoff.reset(),
            _ => {}
        }
        self.settle(ticket.flow);
        if self.failed && self.sent == 0 {
            self.rewind(now_ms);
        }
    }

    /// What is to be done now, and when to ask again if nothing happens before.
    pub(super) fn poll(&mut self, now_ms: u64) -> (Vec<Action>, Option<u64>) {
        let mut wake_ms = None;
        if self.reachable && !self.failed {
            wake_ms = match self.not_before_ms {
                Some(not_before_ms) if not_before_ms > now_ms => Some(not_before_ms),
                _ => {
                    self.not_before_ms = None;
                    self.send_all(now_ms)
                }
            };
        }
        (self.actions.drain(..).collect(), wake_ms)
    }

    /// Fills the window; when the next token comes if only tokens are missing.
    fn send_all(&mut self, now_ms: u64) -> Option<u64> {
        loop {
            let (next, wake_ms) = self.next_flow(now_ms);
            let Some(index) = next.filter(|_| self.open() < WINDOW) else { return wake_ms };
            self.last = index;
            let Some(flow) = self.flows.get_mut(index) else { return wake_ms };
            let Some(entry) = flow.waiting.pop_front() else { return wake_ms };
            flow.waiting_bytes -= entry.bytes();
            if entry.has_expired(now_ms) {
                let done = Action::Done { flow: index, token: entry.token, end: End::Expired };
                self.actions.push_back(done);
                continue;
            }
            if let Some(bucket) = &mut flow.bucket {
                bucket.take();
            }
            let ticket = Ticket { flow: index, number: entry.number };
            self.actions.push_back(Action::Send(ticket, entry.message.clone()));
            flow.sent.push_back((entry, Answer::Awaited));
            self.sent += 1;
        }
    }

    /// Messages sent and not done with: those without an answer, and those whose answer is held back
    /// by one before them. All of them would come again after a cut.
    fn open(&self) -> usize {
        self.flows.iter().map(|flow| flow.sent.len()).sum()
    }

    /// The flow whose turn it is: of those with something to send and a token the one with the
    /// highest priority, among equals the one that follows the last.
    fn next_flow(&mut self, now_ms: u64) -> (Option<usize>, Option<u64>) {
        let (count, last) = (self.flows.len(), self.last);
        let mut best: Option<(u8, usize)> = None;
        let mut wake_ms: Option<u64> = None;
        for offset in 1..=count {
            let index = (last + offset) % count;
            let Some(flow) = self.flows.get_mut(index) else { continue };
            if flow.waiting.is_empty() {
                continue;
            }
            if let Some(at_ms) = flow.bucket.as_mut().and_then(|b| b.wait_until_ms(now_ms)) {
                wake_ms = Some(wake_ms.map_or(at_ms, |known| known.min(at_ms)));
            } else if best.is_none_or(|(priority, _)| flow.rules.priority > priority) {
                best = Some((flow.rules.priority, index));
            }
        }
        (best.map(|(_, index)| index), wake_ms)
    }

    /// Lets go of what is answered and has nothing unanswered or failed of its topic before it.
    fn settle(&mut self, index: usize) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let mut held_topics: BTreeSet<Arc<str>> = BTreeSet::new();
        let actions = &mut self.actions;
        flow.sent.retain(|(entry, answer)| {
            let end = match answer {
                Answer::Delivered => Some(End::Delivered),
                Answer::Refused => Some(End::Refused),
                Answer::Awaited | Answer::Failed => None,
            };
            match end {
                Some(end) if !held_topics.contains(&entry.message.topic) => {
                    actions.push_back(Action::Done { flow: index, token: entry.token, end });
                    false
                }
                _ => {
                    held_topics.insert(entry.message.topic.clone());
                    true
                }
            }
        });
    }

    /// Every answer is in and one was a failure: what is left goes back to the front, in order.
    fn rewind(&mut self, now_ms: u64) {
        for flow in &mut self.flows {
            while let Some((entry, _)) = flow.sent.pop_back() {
                flow.waiting_bytes += entry.bytes();
                flow.waiting.push_front(entry);
            }
        }
        self.failed = false;
        self.not_before_ms = Some(now_ms.saturating_add(self.backoff.next_ms()));
    }
}

#[cfg(test)]
mod simulation;
