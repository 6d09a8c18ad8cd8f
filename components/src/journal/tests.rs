//! What only a look inside can show: housekeeping, memory, what was stored at all.

use super::*;
use crate::pubsub::{Assurance, QueueLimits, Subscription};
use crate::topic::Filter;
use bytes::Bytes;

fn journal(clock: &Clock) -> Journal {
    let storage = Storage::memory(clock.clone(), 64 << 20);
    Journal::open(storage, "test", "test-".to_owned(), clock.clone()).unwrap()
}

fn subscribe(consumer: &str, filter: &str, durable: bool) -> Subscribe {
    Subscribe {
        consumer: consumer.to_owned(),
        filters: vec![Filter::new(filter).unwrap()],
        durable,
        limits: QueueLimits { forget_after_ms: Some(3_600_000), ..QueueLimits::default() },
        except_origin: None,
        metadata: Vec::new(),
    }
}

fn message(topic: &str, bytes: usize, assurance: Assurance) -> Arc<Message> {
    let payload = Bytes::from(vec![b'x'; bytes]);
    Arc::new(Message { topic: topic.into(), payload, assurance, ..Message::default() })
}

async fn publish(journal: &Journal, message: Arc<Message>) -> bool {
    match journal.send(&[message], None, Durability::Durable).unwrap() {
        Some(in_transit) => in_transit.stored().await.map(|()| true).unwrap(),
        None => false,
    }
}

fn names(journal: &Journal) -> Vec<String> {
    journal.queues().into_iter().map(|queue| queue.consumer).collect()
}

#[tokio::test]
async fn a_consumer_that_stays_away_is_forgotten_and_one_that_stays_is_not() {
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let mut here = journal.subscribe(subscribe("here", "a", true)).await.unwrap();
    drop(journal.subscribe(subscribe("away", "a", true)).await.unwrap());
    for _ in 0..10 {
        clock.advance_ms(1_200_000);
        journal.0.keep_house();
        assert!(names(&journal).contains(&"here".to_owned()));
    }
    assert_eq!(names(&journal), ["here"]);
    assert!(journal.0.stored("away").is_none());
    assert!(journal.0.stored("here").unwrap().seen_ms > clock.now_ms() - 3_600_000);
    publish(&journal, message("a", 1, Assurance::AtLeastOnce)).await;
    here.next().await.unwrap();
}

#[tokio::test]
async fn only_what_a_durable_consumer_wants_is_stored() {
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let mut live = journal.subscribe(subscribe("live", "#", false)).await.unwrap();
    assert!(!publish(&journal, message("a", 1, Assurance::AtLeastOnce)).await);
    let durable = journal.subscribe(subscribe("durable", "a", true)).await.unwrap();
    assert!(!publish(&journal, message("b", 1, Assurance::AtLeastOnce)).await);
    assert!(publish(&journal, message("a", 1, Assurance::AtLeastOnce)).await);
    for _ in 0..3 {
        live.next().await.unwrap();
    }
    assert!(!publish(&journal, message("a", 1, Assurance::AtMostOnce)).await);
    drop(durable);
    assert!(publish(&journal, message("a", 1, Assurance::AtMostOnce)).await);
    journal.forget("durable").await.unwrap();
    live.next().await.unwrap();
    live.next().await.unwrap();
    assert!(!publish(&journal, message("a", 1, Assurance::AtLeastOnce)).await);
}

/// Many slow listeners, each with topics of its own: together they keep no more than the budget
/// and a little for each; when they are gone, nothing is kept.
#[tokio::test]
async fn slow_listeners_share_one_budget() {
    const LISTENERS: usize = 40;
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let mut open = Vec::new();
    for listener in 0..LISTENERS {
        let name = format!("slow/{listener}");
        open.push(journal.subscribe(subscribe(&name, &name, false)).await.unwrap());
    }
    for round in 0..LISTENERS * 1_000 {
        let topic = format!("slow/{}", round % LISTENERS);
        publish(&journal, message(&topic, 1_024, Assurance::AtLeastOnce)).await;
    }
    let kept = journal.queues().iter().map(|queue| queue.backlog_bytes as usize).sum::<usize>();
    assert!(kept <= LIVE_BYTES_OF_ALL_MAX + LISTENERS * LIVE_BYTES_MIN, "{kept}");
    assert!(kept >= LIVE_BYTES_OF_ALL_MAX / 2, "{kept}");
    let budget = Arc::clone(&journal.0.state().budget);
    assert!(format!("{budget:?}").contains(&kept.to_string()), "{budget:?} {kept}");
    drop(open);
    assert_eq!(format!("{budget:?}"), format!("{:?}", Budget::default()));
}

/// What a consumer leaves out for its origin does not pile up behind its cursor.
#[tokio::test(start_paused = true)]
async fn a_cursor_passes_what_is_left_out() {
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let own = Some(Arc::<str>::from("link:cloud"));
    let asked = Subscribe { except_origin: own.clone(), ..subscribe("up", "#", true) };
    let _reader = journal.subscribe(asked).await.unwrap();
    let _keeper = journal.subscribe(subscribe("keeper", "#", true)).await.unwrap();
    for _ in 0..10 {
        let own = Message {
            origin: own.clone(),
            ..Message::clone(&message("a", 9, Assurance::AtLeastOnce))
        };
        assert!(publish(&journal, Arc::new(own)).await);
    }
    tokio::time::sleep(std::time::Duration::from_millis(2 * SAVE_LINGER_MS)).await;
    let queues = journal.queues();
    let waiting = |name: &str| {
        let queue = queues.iter().find(|queue| queue.consumer == name);
        queue.map(|queue| queue.backlog_messages)
    };
    assert_eq!((waiting("up"), waiting("keeper")), (Some(0), Some(10)));
}

/// A durable listener that holds much is given no more until it acknowledges.
#[tokio::test]
async fn what_is_held_is_bounded_in_bytes() {
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let mut reader = journal.subscribe(subscribe("held", "a", true)).await.unwrap();
    for _ in 0..8 {
        publish(&journal, message("a", 300_000, Assurance::AtLeastOnce)).await;
    }
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(reader.next().await.unwrap().token);
    }
    tokio::select! {
        biased;
        _ = reader.next() => panic!("more than the bound"),
        () = tokio::task::yield_now() => {}
    }
    for token in tokens {
        reader.ack(token);
    }
    reader.next().await.unwrap();
}

/// Messages so large that a few fill the queue: the reader goes between memory and storage all the
/// time, and must neither lose, double nor reorder.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "a failing test shows its seed")]
async fn a_reader_goes_between_memory_and_storage() {
    const COUNT: usize = 300;
    let mut seed = env::random_u64();
    println!("seed {seed}");
    let mut pick = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let clock = Clock::manual(1_000_000);
    let journal = journal(&clock);
    let mut reader = journal.subscribe(subscribe("large", "a", true)).await.unwrap();
    let (mut sent, mut read, mut reads) = (0, 0, 0);
    let mut held = Vec::new();
    while read < COUNT {
        let waits = sent - read;
        match pick(4) {
            0 | 1 if sent < COUNT && waits < 20 => {
                let bytes = 100_000 + pick(300_000);
                let mut payload = vec![0; bytes];
                payload[..8].copy_from_slice(&(sent as u64).to_le_bytes());
                let large =
                    Message { payload: payload.into(), topic: "a".into(), ..Message::default() };
                publish(&journal, Arc::new(large)).await;
                sent += 1;
                if pick(2) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            2 if waits > 0 && held.len() < 2 => {
                reads += usize::from(reader.is_behind());
                let delivery = reader.next().await.unwrap();
                let number = u64::from_le_bytes(delivery.message.payload[..8].try_into().unwrap());
                assert_eq!((number, delivery.again), (read as u64, false));
                held.push(delivery.token);
                read += 1;
            }
            3 if !held.is_empty() => reader.ack(held.swap_remove(pick(held.len()))),
            _ => {}
        }
    }
    assert!(reads > 10, "it was read from storage {reads} times only");
}

/// Not a test of speed, which depends on the machine: run it by name to see the numbers.
#[tokio::test]
#[ignore = "prints how long a publish takes"]
#[allow(clippy::print_stderr, reason = "that is what it is for")]
async fn speed_of_a_publish() {
    for (listeners, what) in [(0, "other topics only"), (1, "one listener"), (10, "ten listeners")]
    {
        let clock = Clock::system();
        let journal = journal(&clock);
        let mut others = Vec::new();
        for other in 0..1_000 {
            let filter = if other % 2 == 0 { format!("o/{other}") } else { format!("o/{other}/+") };
            others.push(journal.subscribe(subscribe(&filter, &filter, false)).await.unwrap());
        }
        let mut open = Vec::new();
        for listener in 0..listeners {
            let name = format!("l{listener}");
            open.push(journal.subscribe(subscribe(&name, "sensors/+/t", false)).await.unwrap());
        }
        const ROUNDS: u32 = 100_000;
        let started = std::time::Instant::now();
        for _ in 0..ROUNDS {
            publish(&journal, message("sensors/7/t", 256, Assurance::AtLeastOnce)).await;
            for listener in &mut open {
                let token = listener.next().await.unwrap().token;
                listener.ack(token);
            }
        }
        eprintln!("{what}: {:?} a message", started.elapsed() / ROUNDS);
    }
}
