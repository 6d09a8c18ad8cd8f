//! Bindings: things outside that an app makes do something (output), and things outside that make
//! the app do something (input).
//!
//! Any output binding promises:
//! - `invoke` does one of its `operations` and answers when it is done: what was written to
//!   something durable is durable, what was sent elsewhere was acknowledged there;
//! - a failed call did nothing, or it is of a kind that says it may have (`Unavailable`,
//!   `Timeout`);
//! - the answer's metadata, and that of a failure, are the other side's words about it;
//! - two calls that are made one after the other arrive in that order.
//!
//! Any input binding promises:
//! - every reader has a source of its own, and each source yields every event from its opening on;
//! - a source yields events in their order; an event with a token is yielded again, later or by
//!   the next source of the same reader, until it is `done`; one without is not;
//! - an event that fell due while nobody took events is not made up for, unless it has a token;
//! - dropping a source stops it and loses nothing that has a token.
//!
//! What a binding cannot promise, its own file says. Settings that any binding takes:
//! - `direction` (whatever the type can): `input`, `output` or both; with `input` in it the app is
//!   not asked whether it wants the events;
//! - `route` (the component's name): the app's path for events;
//! - `queue`, `queueBytesMax`, `queueAgeMax`, `queueOverflow`, `queueRetriesMax`: see [`queued`].

#![cfg_attr(not(feature = "bindings"), allow(dead_code, reason = "no row names it"))]

pub mod cron;
pub mod http;
pub mod localstorage;
pub mod mqtt3;
pub mod queued;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::http::OpenHttp;
use crate::options::Options;
use crate::pubsub::QueueStatus;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Names and values.
pub type Pairs = Vec<(String, String)>;

/// What to do, with what.
#[derive(Debug, Clone)]
pub struct Request {
    /// One of [`OutputBinding::operations`].
    pub operation: &'static str,
    /// The bytes for it; JSON text where they come from a JSON API: a text has its quotes.
    pub data: Bytes,
    /// Settings of this call, the caller's `traceparent` among them.
    pub metadata: Pairs,
}

impl Request {
    /// The first value of this name, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.metadata.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// What the other side gave back; `None` where the operation gives nothing.
    pub data: Option<Bytes>,
    /// What it said about that.
    pub metadata: Pairs,
}

/// Why it was not done.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The error.
    pub error: Error,
    /// What the other side said, if it did.
    pub metadata: Pairs,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, metadata: Pairs::new() }
    }
}

/// Something outside that can be made to act. The laws stand at the head of this file.
#[async_trait]
pub trait OutputBinding: Send + Sync {
    /// What it can do, in the order in which a caller is told.
    fn operations(&self) -> &'static [&'static str];

    /// Does it.
    async fn invoke(&self, request: Request) -> Result<Answer, Failure>;

    /// The queue on disk before it, if it has one.
    fn queue(&self) -> Option<QueueStatus> {
        None
    }

    /// Finishes what it does by itself, and begins nothing more; calls are still taken.
    async fn rest(&self) {}
}

/// An event on its way to an app.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// Its name in [`Source::done`]; 0 wants no acknowledgement.
    pub token: u64,
    /// The bytes of it.
    pub data: Bytes,
    /// What goes with them.
    pub metadata: Pairs,
}

/// What becomes of an event with a token that an app failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redelivery {
    /// Time before it is delivered again.
    pub pause: Duration,
    /// Further deliveries before it is given up; `None` is never.
    pub retries_max: Option<u32>,
}

/// An open source of events.
#[async_trait]
pub trait Source: Send {
    /// The next event; waits while there is none. Cancel safe. After an error it may be called
    /// again, except after one of kind `Closed`.
    async fn next(&mut self) -> Result<Event>;

    /// The event of this token is done with. A token that is not known is ignored.
    fn done(&mut self, token: u64) {
        let _ = token;
    }
}

/// Something outside that has events. The laws stand at the head of this file.
#[async_trait]
pub trait InputBinding: Send + Sync {
    /// How events are delivered again; for those with a token.
    fn redelivery(&self) -> Redelivery {
        Redelivery { pause: Duration::ZERO, retries_max: Some(0) }
    }

    /// Opens the source of one reader; a second one under the same name takes the first one over.
    async fn read(&self, reader: &str) -> Result<Box<dyn Source>>;
}

/// Which ways a binding works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directions {
    /// Events to the app.
    pub input: bool,
    /// Calls by the app.
    pub output: bool,
}

impl Directions {
    const INPUT: Self = Self { input: true, output: false };
    const OUTPUT: Self = Self { input: false, output: true };
    const BOTH: Self = Self { input: true, output: true };

    /// What the setting `direction` leaves of these.
    fn wanted(self, options: &Options) -> Result<Self> {
        let Some(text) = options.text("direction") else { return Ok(self) };
        let has = |word| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        let wanted =
            Self { input: self.input && has("input"), output: self.output && has("output") };
        if wanted.input || wanted.output {
            return Ok(wanted);
        }
        let can = match self {
            Self::INPUT => "input",
            Self::OUTPUT => "output",
            _ => "input, output or both with a comma",
        };
        let message = format!("metadata 'direction' is '{text}': this type can do {can}");
        Err(Error::new(Kind::Invalid, message))
    }
}

/// An open binding.
pub struct Binding {
    /// Its events, if it works that way.
    pub input: Option<Arc<dyn InputBinding>>,
    /// What it can be made to do, if it works that way.
    pub output: Option<Arc<dyn OutputBinding>>,
    /// The setting `direction` says that the app takes events: it need not be asked.
    pub input_is_certain: bool,
    /// The app's path for events, without the slash at its beginning.
    pub route: String,
}

impl Binding {
    /// Capabilities as metadata shows them.
    pub fn capabilities(&self) -> Vec<&'static str> {
        let input = self.input.is_some().then_some("INPUT_BINDING");
        let output = self.output.is_some().then_some("OUTPUT_BINDING");
        input.into_iter().chain(output).collect()
    }
}

/// Both ends of a binding of one type.
type Ends = (Option<Arc<dyn InputBinding>>, Option<Arc<dyn OutputBinding>>);

/// What a type gets to open itself with.
pub struct Opening<'a> {
    /// The component's settings.
    pub options: &'a Options,
    /// What it may ask of the process.
    pub context: &'a Context,
    /// The process' HTTP client.
    pub http: &'a OpenHttp,
    /// The ends that are wanted, of those the row has.
    pub wanted: Directions,
}

/// A row of the catalogue: a type name, which ways it works, and how to open it.
pub struct Row {
    /// Name as resources write it, `bindings.…`.
    pub type_name: &'static str,
    /// Which ways the type works.
    pub directions: Directions,
    /// Opens the ends that are wanted. Called within the event loop; one that talks to something
    /// elsewhere returns at once and connects by itself.
    open: fn(&Opening<'_>) -> Result<Ends>,
}

/// The bindings there are. A type that needs a crate of its own has its row behind its feature.
#[cfg(feature = "bindings")]
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "bindings.cron", directions: Directions::INPUT, open: cron::open },
    Row { type_name: "bindings.http", directions: Directions::OUTPUT, open: http::open },
    Row {
        type_name: "bindings.localstorage",
        directions: Directions::OUTPUT,
        open: localstorage::open,
    },
    Row { type_name: "bindings.mqtt3", directions: Directions::BOTH, open: mqtt3::open },
    Row { type_name: "bindings.mqtt", directions: Directions::BOTH, open: mqtt3::open },
];

/// A build without the feature `bindings` has none.
#[cfg(not(feature = "bindings"))]
pub const CATALOGUE: &[Row] = &[];

impl Row {
    /// Opens a binding of this type with its settings, and the queue before it if it has one.
    pub async fn open(
        &self,
        options: &Options,
        context: &Context,
        http: &OpenHttp,
    ) -> Result<Binding> {
        let input_is_certain = options.text("direction").is_some_and(|text| text.contains("input"));
        let wanted = self.directions.wanted(options)?;
        let route = options.text("route").unwrap_or(&context.name);
        let route = route.trim_start_matches('/').to_owned();
        let (input, output) = (self.open)(&Opening { options, context, http, wanted })?;
        let output = match output {
            Some(output) => Some(queued::before(output, options, context).await?),
            None => None,
        };
        Ok(Binding { input, output, input_is_certain, route })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_leaves_what_it_names() {
        let wanted = |all: Directions, text: &str| {
            all.wanted(&[("direction", text)].into_iter().collect::<Options>())
        };
        assert_eq!(wanted(Directions::BOTH, "").unwrap(), Directions::BOTH);
        assert_eq!(wanted(Directions::BOTH, "Input").unwrap(), Directions::INPUT);
        assert_eq!(wanted(Directions::BOTH, "input, output").unwrap(), Directions::BOTH);
        assert_eq!(wanted(Directions::OUTPUT, "input,output").unwrap(), Directions::OUTPUT);
        for (all, text) in [(Directions::OUTPUT, "input"), (Directions::BOTH, "sideways")] {
            let error = wanted(all, text).unwrap_err();
            assert!(error.message().contains("direction"), "{error}");
        }
    }
}
