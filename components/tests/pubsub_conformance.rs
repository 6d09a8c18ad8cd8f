//! The pub/sub suite over the components that keep their topics in this process.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/pubsub.rs"]
#[macro_use]
mod suite;

use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{PubSub, embedded, in_memory};
use pillion_components::storage::Storage;
use std::sync::Arc;
use suite::{ALL, Subject};

fn context(clock: &Clock, storage: Option<Storage>) -> Context {
    let open = move || {
        let none = || pillion_components::Error::new(pillion_components::Kind::Unavailable, "none");
        storage.clone().ok_or_else(none)
    };
    Context {
        name: "pubsub".to_owned(),
        app_id: "app".to_owned(),
        clock: clock.clone(),
        storage: Arc::new(open),
    }
}

fn subject(clock: Clock, open: impl Fn() -> Arc<dyn PubSub> + Send + Sync + 'static) -> Subject {
    Subject {
        pubsub: open(),
        offers: ALL,
        clock: Some(clock),
        reopen: Some(Box::new(open)),
        holds: Box::new(()),
    }
}

async fn over_memory() -> Subject {
    let clock = Clock::manual(1_700_000_000_000);
    let storage = Storage::memory(clock.clone(), 64 << 20);
    let context = context(&clock, Some(storage));
    subject(clock, move || embedded::open(&Options::default(), &context).unwrap())
}

async fn without_storage() -> Subject {
    let clock = Clock::manual(1_700_000_000_000);
    let context = context(&clock, None);
    let open = move || in_memory::open(&Options::default(), &context).unwrap();
    Subject { reopen: None, ..subject(clock, open) }
}

conformance!(embedded_over_memory, crate::over_memory);
conformance!(in_memory_without_storage, crate::without_storage);
