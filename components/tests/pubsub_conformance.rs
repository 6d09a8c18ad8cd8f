//! The pub/sub suite over the components that keep their topics in this process.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/home.rs"]
mod home;
#[path = "suite/pubsub.rs"]
#[macro_use]
mod suite;

use home::Home;
use pillion_components::options::Options;
use pillion_components::pubsub::{embedded, in_memory};
use suite::{ALL, Subject};

async fn embedded_in(home: Home) -> Subject {
    let context = home.context("pubsub");
    let pubsub = embedded::open(&Options::default(), &context).unwrap();
    let clock = Some(home.clock.clone());
    let again = home.clone();
    let reopen = move || {
        let (home, context) = (again.clone(), context.clone());
        let reopened = async move {
            home.restart().await;
            embedded::open(&Options::default(), &context).unwrap()
        };
        Box::pin(reopened) as suite::Reopened
    };
    Subject { pubsub, offers: ALL, clock, reopen: Some(Box::new(reopen)), holds: Box::new(home) }
}

async fn over_memory() -> Subject {
    embedded_in(Home::memory()).await
}

async fn without_storage() -> Subject {
    let context = home::context_without_storage("pubsub");
    let pubsub = in_memory::open(&Options::default(), &context).unwrap();
    let clock = Some(context.clock.clone());
    Subject { pubsub, offers: ALL, clock, reopen: None, holds: Box::new(()) }
}

conformance!(embedded_over_memory, crate::over_memory);
conformance!(in_memory_without_storage, crate::without_storage);
