//! What every binding must do, as functions that take any of them; which cases run is told by the
//! directions of its row.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use pillion_components::bindings::{Binding, Event, OutputBinding, Pairs, Request, Source};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How long a case waits for something that should happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks whether the target holds what was sent to it.
pub(crate) type Held = Box<dyn Fn(&'static str) -> Pin<Box<dyn Future<Output = bool> + Send>>>;

/// A binding under test.
pub(crate) struct Subject {
    pub(crate) binding: Binding,
    /// An operation that leaves its data at the target, and the metadata for it.
    pub(crate) leaves: Option<(&'static str, Pairs)>,
    /// Whether the target holds these bytes.
    pub(crate) holds: Option<Held>,
    /// Makes an event outside with these bytes; `None` where they come by themselves.
    pub(crate) happens: Option<Held>,
    /// Lives as long as the subject.
    pub(crate) keeps: Box<dyn Send>,
}

impl Subject {
    fn output(&self) -> Arc<dyn OutputBinding> {
        self.binding.output.clone().expect("it is an output binding")
    }

    async fn source(&self, reader: &str) -> Box<dyn Source> {
        let input = self.binding.input.clone().expect("it is an input binding");
        input.read(reader).await.unwrap()
    }

    async fn happens(&self, data: &'static str) {
        if let Some(happens) = &self.happens {
            assert!(happens(data).await);
        }
    }
}

pub(crate) fn request(
    output: &dyn OutputBinding,
    operation: &str,
    metadata: Pairs,
    data: &'static str,
) -> Request {
    let operations = output.operations();
    let operation = operations.iter().find(|known| **known == operation).expect("an operation");
    Request { operation, data: data.into(), metadata }
}

async fn next(source: &mut Box<dyn Source>) -> Event {
    tokio::time::timeout(PATIENCE, source.next()).await.expect("an event").unwrap()
}

pub(crate) async fn operations_are_named_once_and_one_is_known(subject: Subject) {
    let operations = subject.output().operations();
    let mut names = operations.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), operations.len(), "{operations:?}");
    assert!(operations.iter().all(|name| *name == name.to_ascii_lowercase()));
    assert!(operations.contains(&"create"), "every output binding here can create");
}

pub(crate) async fn what_was_answered_is_at_the_target(subject: Subject) {
    let (output, (operation, metadata)) = (subject.output(), subject.leaves.clone().unwrap());
    for data in ["\"one\"", "{\"n\":2}"] {
        let request = request(&*output, operation, metadata.clone(), data);
        output.invoke(request).await.unwrap();
        let holds = subject.holds.as_ref().unwrap();
        assert!(holds(data).await, "{data}");
    }
}

pub(crate) async fn metadata_that_nobody_knows_is_no_error(subject: Subject) {
    let (output, (operation, mut metadata)) = (subject.output(), subject.leaves.clone().unwrap());
    metadata.push(("unknownToAll".into(), "x".into()));
    metadata.push(("traceparent".into(), "00-0-0-00".into()));
    let request = request(&*output, operation, metadata, "1");
    output.invoke(request).await.unwrap();
}

pub(crate) async fn events_come_in_their_order(subject: Subject) {
    let mut source = subject.source("app1").await;
    for data in ["one", "two", "three"] {
        subject.happens(data).await;
        let event = next(&mut source).await;
        if subject.happens.is_some() {
            assert_eq!(event.data, data);
        }
        source.done(event.token);
    }
}

pub(crate) async fn every_reader_has_every_event(subject: Subject) {
    let mut sources = [subject.source("app1").await, subject.source("app2").await];
    subject.happens("both").await;
    for source in &mut sources {
        let event = next(source).await;
        source.done(event.token);
    }
}

pub(crate) async fn an_event_with_a_token_comes_again_until_it_is_done(subject: Subject) {
    let mut source = subject.source("app1").await;
    subject.happens("first").await;
    let event = next(&mut source).await;
    if event.token == 0 {
        return;
    }
    drop(source);
    let mut source = subject.source("app1").await;
    let again = next(&mut source).await;
    assert_eq!(again.data, event.data);
    source.done(again.token);
    // Of no meaning any more.
    source.done(event.token);
    drop(source);
    let mut source = subject.source("app1").await;
    subject.happens("second").await;
    assert_eq!(next(&mut source).await.data, "second");
}

pub(crate) async fn a_wait_that_is_given_up_loses_nothing(subject: Subject) {
    let mut source = subject.source("app1").await;
    let waited = tokio::time::timeout(Duration::from_millis(1), source.next()).await;
    assert!(waited.is_err(), "nothing has happened yet");
    subject.happens("late").await;
    next(&mut source).await;
}

/// One test per case for a provider.
macro_rules! conformance {
    (output $provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                operations_are_named_once_and_one_is_known
                what_was_answered_is_at_the_target
                metadata_that_nobody_knows_is_no_error
            );
        }
    };
    (input $provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                events_come_in_their_order
                every_reader_has_every_event
                an_event_with_a_token_comes_again_until_it_is_done
                a_wait_that_is_given_up_loses_nothing
            );
        }
    };
    (@cases $make:path; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::suite::$case($make().await).await;
        })+
    };
}
