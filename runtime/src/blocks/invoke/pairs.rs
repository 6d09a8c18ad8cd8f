//! What stays the same for every call from one app to another: the headers that say who calls
//! whom, and the series that count it.

use super::{CALLEE_ID, CALLER_ID, CALLER_NAMESPACE};
use crate::app::App;
use crate::observe::metrics::families::{
    INVOKE_ANSWER_LATENCY, INVOKE_ANSWERS_RECEIVED, INVOKE_ANSWERS_SENT, INVOKE_RECEIVED,
    INVOKE_SENT,
};
use crate::observe::metrics::{Counter, Histogram};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pairs remembered; reaching it forgets all, and those still in use are made again. More than
/// any gateway's apps make, so it is met only by ids that come and go with reloads.
const PAIRS_MAX: usize = 1024;

/// The pairs that have called so far.
#[derive(Default)]
pub(super) struct Pairs {
    by_caller: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_caller: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Pair>>>,
    count: usize,
}

/// One app calling another, or itself.
pub(super) struct Pair {
    headers: [(HeaderName, HeaderValue); 3],
    caller: Arc<str>,
    callee: Arc<str>,
    sent: Arc<Counter>,
    received: Arc<Counter>,
    answered: Mutex<Vec<Answered>>,
}

struct Answered {
    status: StatusCode,
    sent: Arc<Counter>,
    received: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Pairs {
    /// The pair of these two.
    pub(super) fn of(&self, caller: &App, callee: &App) -> Arc<Pair> {
        let mut known = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.by_caller.get(&*caller.id).and_then(|of| of.get(&*callee.id));
        if let Some(pair) = found {
            return pair.clone();
        }
        if known.count >= PAIRS_MAX {
            *known = Known::default();
        }
        let pair = Arc::new(Pair::new(caller, callee));
        known.count += 1;
        let of = known.by_caller.entry(caller.id.clone()).or_default();
        of.insert(callee.id.clone(), pair.clone());
        pair
    }
}

impl Pair {
    fn new(caller: &App, callee: &App) -> Self {
        // An id with bytes that no header can hold is checked out by the resources; here it is
        // left empty rather than taken from the caller.
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            headers: [
                (CALLER_ID, value(&caller.id)),
                (CALLER_NAMESPACE, value(&caller.namespace)),
                (CALLEE_ID, value(&callee.id)),
            ],
            sent: INVOKE_SENT.with(&[&caller.id, &callee.id, "unary"]),
            received: INVOKE_RECEIVED.with(&[&callee.id, &caller.id]),
            caller: caller.id.clone(),
            callee: callee.id.clone(),
            answered: Mutex::default(),
        }
    }

    /// Says on the request who calls whom, whatever was there before.
    pub(super) fn stamp(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    /// Counts a request.
    pub(super) fn sent(&self) {
        self.sent.inc();
        self.received.inc();
    }

    /// Counts an answer.
    pub(super) fn answered(&self, status: StatusCode, elapsed: Duration) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answered.iter().position(|one| one.status == status);
        let index = known.unwrap_or_else(|| {
            answered.push(self.new_answered(status));
            answered.len() - 1
        });
        if let Some(one) = answered.get(index) {
            one.sent.inc();
            one.received.inc();
            one.latency.observe(elapsed);
        }
    }

    fn new_answered(&self, status: StatusCode) -> Answered {
        let (caller, callee, text) = (&*self.caller, &*self.callee, status.as_str());
        Answered {
            status,
            sent: INVOKE_ANSWERS_SENT.with(&[callee, caller, text]),
            received: INVOKE_ANSWERS_RECEIVED.with(&[caller, callee, text, "unary"]),
            latency: INVOKE_ANSWER_LATENCY.with(&[caller, callee, text]),
        }
    }
}
