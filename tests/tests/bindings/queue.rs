//! The queue on disk before an output binding.

use crate::{component, invoke, refused};
use pillion_tests::pillion::free_port;
use pillion_tests::{App, Desk, Pillion, json, until};
use serde_json::json as value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The value of a series, 0 where there is none.
async fn metric(pillion: &Pillion, series: &str) -> u64 {
    let text = pillion.metrics().await;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

const BACKLOG: &str = "pillion_queue_messages{component=\"web\",consumer=\"queue\"}";

/// Goal: what was answered 204 reaches a target that is away, in order, through kills.
#[tokio::test]
async fn a_queued_call_outlives_kills_and_a_target_that_is_away() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/in");
    let web = component("web", "bindings.http", &[("url", &url), ("queue", "true")], "");
    let desk = Desk::new().resource("web.yaml", &web);
    let mut pillion = desk.start().await;
    for number in 0..20 {
        if number % 7 == 6 {
            pillion.signal(libc::SIGKILL);
            pillion.ended().await;
            pillion = desk.start().await;
        }
        let asked = value!({"operation": "post", "data": {"n": number}});
        let answer = invoke(&pillion, "web", &asked).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    assert_eq!(metric(&pillion, BACKLOG).await, 20);
    let answer = invoke(&pillion, "web", &value!({"operation": "get"})).await;
    refused(&answer, "web", "127.0.0.1:");
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;

    // The target is back, fails at first, and the process is killed in the middle of the drain.
    let is_well = Arc::new(AtomicBool::new(false));
    let told = is_well.clone();
    let target = App::start_at(port, move |_| {
        json(if told.load(Ordering::Relaxed) { 200 } else { 503 }, "")
    })
    .await;
    let mut pillion = desk.start().await;
    until("a first try", || async { (!target.asked().is_empty()).then_some(()) }).await;
    is_well.store(true, Ordering::Relaxed);
    let taken = || target.asked().into_iter().filter(|one| one.answered == 200).collect::<Vec<_>>();
    until("the first ones", || async { (taken().len() >= 3).then_some(()) }).await;
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    let pillion = desk.start().await;
    let numbers = until("all of them", || async {
        let numbers: Vec<u64> = taken().iter().filter_map(|one| one.json()["n"].as_u64()).collect();
        (numbers.last() == Some(&19)).then_some(numbers)
    })
    .await;
    let mut ids = BTreeMap::new();
    for one in taken() {
        let number = one.json()["n"].as_u64();
        let id = one.header("idempotency-key").map(str::to_owned);
        let known = ids.entry(number).or_insert_with(|| id.clone());
        assert_eq!(*known, id, "a call that comes twice has one name");
    }
    assert_eq!(ids.len(), 20, "every call has come, and has a name of its own: {numbers:?}");
    let names: BTreeSet<_> = ids.values().collect();
    assert_eq!(names.len(), 20);
    // Once in order; a kill may repeat what went before it, in order again.
    let steps_back = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(steps_back <= 1, "{numbers:?}");
    until("an empty queue", || async { (metric(&pillion, BACKLOG).await == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn the_ends_of_a_queue_drop_or_refuse_and_say_so() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let settings = |overflow| {
        [("url", &*url), ("queue", "true"), ("queueBytesMax", "2Ki"), ("queueOverflow", overflow)]
    };
    let drops = component("web", "bindings.http", &settings("drop-oldest"), "");
    let refuses = component("full", "bindings.http", &settings("refuse"), "");
    let desk = Desk::new().resource("web.yaml", &drops).resource("full.yaml", &refuses);
    let pillion = desk.start().await;
    let asked = value!({"operation": "post", "data": "x".repeat(300)});
    let mut statuses = Vec::new();
    for _ in 0..10 {
        assert_eq!(invoke(&pillion, "web", &asked).await.status, 204);
        statuses.push(invoke(&pillion, "full", &asked).await.status);
    }
    assert_eq!((statuses[0], statuses[9]), (204, 429), "{statuses:?}");
    let answer = invoke(&pillion, "full", &asked).await;
    assert_eq!(answer.json()["errorCode"], "ERR_INVOKE_OUTPUT_BINDING", "{answer:?}");
    let dropped =
        "pillion_queue_dropped_total{component=\"web\",consumer=\"queue\",reason=\"limit\"}";
    until("dropped calls", || async { (metric(&pillion, dropped).await > 0).then_some(()) }).await;
    let metadata = pillion.get("/v1.0/metadata").await.json();
    let notice = metadata["extended"]["pillionDropped"].as_str().unwrap_or_default();
    assert!(notice.contains("web queue: "), "{metadata}");
    let kept =
        metric(&pillion, "pillion_queue_messages{component=\"full\",consumer=\"queue\"}").await;
    assert_eq!(kept, statuses.iter().filter(|status| **status == 204).count() as u64);
}

/// Goal: a stop in good order finishes the call under way, so that it comes once.
#[tokio::test]
async fn a_stop_waits_for_the_call_under_way() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = gate.clone();
    let target = App::start_blocking(move |_| {
        while !open.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        json(200, "")
    })
    .await;
    let url = format!("http://127.0.0.1:{}", target.port);
    let web = component("web", "bindings.http", &[("url", &url), ("queue", "true")], "");
    let desk = Desk::new().resource("web.yaml", &web);
    let mut pillion = desk.start().await;
    let call = |number: u32| value!({"operation": "post", "data": {"n": number}});
    assert_eq!(invoke(&pillion, "web", &call(1)).await.status, 204);
    assert_eq!(invoke(&pillion, "web", &call(2)).await.status, 204);
    until("the first call", || async { (!target.seen().is_empty()).then_some(()) }).await;
    pillion.signal(libc::SIGTERM);
    gate.store(true, Ordering::Relaxed);
    assert_eq!(pillion.ended().await.code(), Some(0), "{}", pillion.log());
    let _pillion = desk.start().await;
    let bodies = || {
        let asked = target.asked();
        asked.iter().map(|one| one.json()["n"].as_u64()).collect::<Vec<_>>()
    };
    until("the second call", || async { bodies().contains(&Some(2)).then_some(()) }).await;
    assert_eq!(bodies(), [Some(1), Some(2)]);
}
