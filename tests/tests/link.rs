//! A link carries every reading to the cloud and every command back, in order, whatever breaks.
//!
//! Method: devices publish numbers to the MQTT door and the cloud publishes numbers to its broker,
//! a real mosquitto behind a proxy. Meanwhile, at random moments, the connection is cut at any
//! byte, mosquitto is stopped and started again, or the gateway is killed with SIGKILL. What was
//! acknowledged at one end must arrive at the other, first arrivals in order, and what comes twice
//! stays within the bound. `PILLION_SEED` repeats a run, `PILLION_LINK_ROUNDS` sets its length.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::mqtt::{self, Receiver, Sender};
use pillion_tests::pillion::free_port;
use pillion_tests::random::Random;
use pillion_tests::{Desk, PATIENCE, until};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two publishes of one publisher: less than the disk takes, so that what is repeated comes
/// from what broke and not from a backlog in the sockets.
const PAUSE: Duration = Duration::from_millis(3);
/// Unacknowledged publishes of one publisher.
const WINDOW: usize = 8;
/// Messages that a link has on the wire and unanswered; each break may repeat them.
const LINK_WINDOW: usize = 32;
/// What a kill may repeat besides: deliveries whose acknowledgement was not on disk yet.
const UNSYNCED_MAX: usize = 480;
/// What a stop of mosquitto may repeat besides: its own window to its subscribers.
const BROKER_WINDOW: usize = 200;

/// Numbers by topic.
#[derive(Debug, Default, Clone)]
struct Numbers(Arc<Mutex<BTreeMap<String, Vec<u32>>>>);

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, topic: &str, number: u32) {
        self.lock().entry(topic.to_owned()).or_default().push(number);
    }

    fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// What of `other` is not here, under names with `from` replaced by `to`.
    fn missing(&self, other: &Numbers, from: &str, to: &str) -> Option<String> {
        let (here, there) = (self.lock(), other.lock());
        there.iter().find_map(|(topic, numbers)| {
            let topic = topic.replacen(from, to, 1);
            // The last is looked for first: while that has not come, the rest need not be read.
            let last = numbers.last()?;
            if !here
                .get(&topic)
                .is_some_and(|found| found.iter().rev().take(1000).any(|n| n == last))
            {
                return Some(format!("{topic}: the last, {last}"));
            }
            let found: BTreeSet<_> = here.get(&topic).into_iter().flatten().collect();
            let missing: Vec<_> = numbers.iter().filter(|n| !found.contains(n)).collect();
            let first = missing.first()?;
            Some(format!("{topic}: {} of {}, from {first}", missing.len(), numbers.len()))
        })
    }

    /// Checks the order of first arrivals; how many came again.
    fn repeats(&self) -> usize {
        let mut repeats = 0;
        for (topic, numbers) in self.lock().iter() {
            let mut seen = BTreeSet::new();
            let first: Vec<u32> = numbers.iter().copied().filter(|n| seen.insert(*n)).collect();
            let wrong = first.windows(2).find(|pair| pair[0] > pair[1]);
            assert_eq!(wrong, None, "{topic}: out of order");
            repeats += numbers.len() - first.len();
        }
        repeats
    }
}

/// Publishes numbers to `topic` until told to stop; connects again whenever it must.
async fn publish(
    address: SocketAddr,
    topic: String,
    acknowledged: Numbers,
    stop: watch::Receiver<bool>,
) {
    let mut next = 0;
    while !*stop.borrow() {
        let client = format!("publisher-{}", topic.replace('/', "-"));
        if let Ok((sender, receiver)) = mqtt::connect(address, &client, true).await {
            let _ = publish_over(sender, receiver, &topic, &mut next, &acknowledged, &stop).await;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn publish_over(
    mut sender: Sender,
    mut receiver: Receiver,
    topic: &str,
    next: &mut u32,
    acknowledged: &Numbers,
    stop: &watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut waiting = BTreeMap::new();
    while !*stop.borrow() || !waiting.is_empty() {
        while waiting.len() < WINDOW && !*stop.borrow() {
            *next += 1;
            let id = u16::try_from(*next % 60_000 + 1).expect("below 65,536");
            waiting.insert(id, *next);
            sender.publish(topic, id, next.to_string().as_bytes()).await?;
            tokio::time::sleep(PAUSE).await;
        }
        let packet = receiver.next_of(4).await?;
        let number = waiting.remove(&packet.u16_at(0)).expect("an acknowledgement of a publish");
        acknowledged.add(topic, number);
    }
    Ok(())
}

/// Takes what matches for as long as the test runs, over a session that is kept.
async fn take(address: SocketAddr, client: &str, filter: &str, arrived: Numbers) {
    loop {
        if let Ok((sender, receiver)) = mqtt::connect(address, client, false).await {
            let _ = take_over(sender, receiver, filter, &arrived).await;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take_over(
    mut sender: Sender,
    mut receiver: Receiver,
    filter: &str,
    arrived: &Numbers,
) -> std::io::Result<()> {
    sender.subscribe(filter, 1).await?;
    loop {
        let packet = receiver.next_of(3).await?;
        let (topic, id, payload) = packet.publish();
        let number = std::str::from_utf8(payload).expect("text").parse().expect("a number");
        arrived.add(&topic, number);
        sender.puback(id).await?;
    }
}

/// The uplink: passes bytes on until it is cut.
struct Uplink {
    port: u16,
    cut: watch::Sender<u32>,
}

impl Uplink {
    async fn to(address: SocketAddr) -> Self {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
        let (cut, cuts) = watch::channel(0);
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(address).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, cut }
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

/// Waits until a number is another.
async fn until_changed(number: impl Fn() -> usize, before: usize) {
    while number() == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const LINK: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: cloud}
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {name: url, value: 'mqtt://127.0.0.1:PORT'}
  - {name: consumerID, value: gateway}
  - {name: reconnectMaxInterval, value: 500ms}
---
apiVersion: pillion/v1alpha1
kind: Link
metadata: {name: uplink}
spec:
  local: pubsub
  remote: cloud
  up:
  - {filter: 'sensors/#', mapTo: site/}
  - {filter: 'alarms/#', mapTo: site/, priority: 9}
  down:
  - {filter: 'commands/#', mapTo: site/}
";

#[tokio::test]
async fn everything_arrives_in_order_whatever_breaks() {
    let rounds = std::env::var("PILLION_LINK_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(15);
    let mut random = Random::new();
    let mut mosquitto = Mosquitto::new();
    mosquitto.start().await;
    let uplink = Uplink::to(mosquitto.address()).await;
    let desk = Desk::new().resource("link.yaml", &LINK.replace("PORT", &uplink.port.to_string()));
    let mut pillion = desk.start().await;
    pillion.has_queue("link/uplink/").await;

    let (at_cloud, at_device) = (Numbers::default(), Numbers::default());
    let (cloud, device) = (mosquitto.address(), desk.mqtt());
    let mut takers = JoinSet::new();
    takers.spawn(take(cloud, "the-cloud", "site/sensors/#", at_cloud.clone()));
    takers.spawn(take(cloud, "the-alarm-desk", "site/alarms/#", at_cloud.clone()));
    takers.spawn(take(device, "the-device", "commands/#", at_device.clone()));

    // The way down stands when the first command is through.
    let probes = Numbers::default();
    let (stop, stopped) = watch::channel(false);
    let probe = tokio::spawn(publish(cloud, "site/commands/probe".into(), probes, stopped));
    until("the first command", || async { (at_device.count() > 0).then_some(()) }).await;
    stop.send_replace(true);
    probe.await.expect("it ends");

    let (from_devices, from_cloud) = (Numbers::default(), Numbers::default());
    let (stop, stopped) = watch::channel(false);
    let mut publishers = JoinSet::new();
    for topic in ["sensors/a", "sensors/b", "alarms/fire"] {
        publishers.spawn(publish(device, topic.into(), from_devices.clone(), stopped.clone()));
    }
    for topic in ["site/commands/x", "site/commands/y"] {
        publishers.spawn(publish(cloud, topic.into(), from_cloud.clone(), stopped.clone()));
    }

    let (mut cuts, mut stops, mut kills) = (0, 0, 0);
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(50 + random.below(250))).await;
        match round % 3 {
            0 => {
                cuts += 1;
                uplink.cut();
            }
            1 => {
                stops += 1;
                mosquitto.stop();
                tokio::time::sleep(Duration::from_millis(random.below(300))).await;
                mosquitto.start().await;
            }
            _ => {
                kills += 1;
                pillion.signal(libc::SIGKILL);
                pillion.ended().await;
                pillion = desk.start().await;
            }
        }
    }
    stop.send_replace(true);
    while let Some(publisher) = publishers.join_next().await {
        publisher.expect("a publisher ends when it is told");
    }
    let missing = || {
        let up = at_cloud.missing(&from_devices, "", "site/");
        up.or_else(|| at_device.missing(&from_cloud, "site/", ""))
    };
    // As long as something comes, it goes on.
    while let Some(one) = missing() {
        let count = || at_cloud.count() + at_device.count();
        if tokio::time::timeout(PATIENCE, until_changed(count, count())).await.is_err() {
            panic!("missing {one}\n{}", pillion.log());
        }
    }

    let (up_twice, down_twice) = (at_cloud.repeats(), at_device.repeats());
    println!(
        "{cuts} cuts, {stops} stops, {kills} kills: up {} acknowledged, {up_twice} came twice; \
         down {} acknowledged, {down_twice} came twice",
        from_devices.count(),
        from_cloud.count(),
    );
    let bound =
        (cuts + stops + kills) * LINK_WINDOW + kills * UNSYNCED_MAX + stops * 2 * BROKER_WINDOW;
    assert!(up_twice <= bound, "{up_twice} of {bound}");
    // Down there are two windows: the broker's to us, and ours to the device.
    let bound = (cuts + stops + kills) * (BROKER_WINDOW + LINK_WINDOW) + kills * UNSYNCED_MAX;
    assert!(down_twice <= bound, "{down_twice} of {bound}");
}
