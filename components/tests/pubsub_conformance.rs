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

async fn on_disk() -> Subject {
    embedded_in(Home::disk()).await
}

async fn without_storage() -> Subject {
    let context = home::context_without_storage("pubsub");
    let pubsub = in_memory::open(&Options::default(), &context).unwrap();
    let clock = Some(context.clock.clone());
    Subject { pubsub, offers: ALL, clock, reopen: None, holds: Box::new(()) }
}

conformance!(embedded_over_memory, crate::over_memory);
conformance!(embedded_on_disk, crate::on_disk);
conformance!(in_memory_without_storage, crate::without_storage);

/// One subscriber that stays away fills its own queue, not the component: others go on.
#[tokio::test]
async fn an_absent_subscriber_does_not_stop_publishers() {
    let context = home::context_without_storage("pubsub");
    let options: Options = [("bytesMax", "1Mi")].into_iter().collect();
    let pubsub = in_memory::open(&options, &context).unwrap();
    drop(pubsub.subscribe(suite::durable("absent", &["#"])).await.unwrap());
    for number in 0..5_000 {
        let payload = format!("{number}{}", "x".repeat(1_000));
        pubsub.publish(suite::message("a", payload)).await.unwrap();
    }
    let queue = pubsub.queues().remove(0);
    assert!(queue.dropped_messages > 4_000 && queue.backlog_bytes > 200_000, "{queue:?}");
}

/// Not a test of speed, which depends on the machine: run it by name to see the numbers.
#[tokio::test]
#[ignore = "prints how long a durable publish takes"]
#[allow(clippy::print_stderr, reason = "that is what it is for")]
async fn speed_of_a_durable_publish() {
    const ROUNDS: usize = 20_000;
    for publishers in [1, 64] {
        let Subject { pubsub, holds: _holds, .. } = on_disk().await;
        let mut reader = pubsub.subscribe(suite::durable("reader", &["#"])).await.unwrap();
        let rounds = if publishers == 1 { ROUNDS / 10 } else { ROUNDS };
        let started = std::time::Instant::now();
        let tasks = (0..publishers).map(|publisher| {
            let pubsub = std::sync::Arc::clone(&pubsub);
            tokio::spawn(async move {
                let payload = "x".repeat(256);
                for _ in 0..rounds / publishers {
                    let message = suite::message(&format!("s/{publisher}"), &payload);
                    pubsub.publish(message).await.unwrap();
                }
            })
        });
        let tasks = tasks.collect::<Vec<_>>();
        for _ in 0..rounds / publishers * publishers {
            let delivery = reader.next().await.unwrap();
            reader.ack(delivery.token);
        }
        for task in tasks {
            task.await.unwrap();
        }
        let each = started.elapsed() / u32::try_from(rounds).unwrap();
        eprintln!("{publishers} at a time: {each:?} a message published, delivered, acknowledged");
    }
}
