//! The pub/sub suite over `pubsub.mqtt3` and a real mosquitto.

mod mosquitto;
#[path = "suite/pubsub.rs"]
#[macro_use]
mod suite;

use mosquitto::Broker;
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{PubSub, mqtt3};
use pillion_components::{Error, Kind};
use std::sync::Arc;
use suite::{Offer, Reopened, Subject};

/// What MQTT 3.1.1 has words for.
const OFFERS: &[Offer] =
    &[Offer::RemembersAcks, Offer::NacksInOrder, Offer::Queues, Offer::FiltersFromNow];

async fn open(url: String) -> Arc<dyn PubSub> {
    let options: Options = [("url", url)].into_iter().collect();
    let context = Context {
        name: "mqtt".into(),
        app_id: "app".into(),
        clock: Clock::system(),
        storage: Arc::new(|| Err(Error::new(Kind::Unsupported, "no storage in this test"))),
    };
    let component = mqtt3::open(&options, &context).expect("it opens");
    let mut up = component.connectivity().expect("it can be unreachable");
    up.wait_for(|up| *up).await.expect("it connects");
    component
}

/// A broker without a window, because the suite holds more than brokers allow unanswered.
async fn over_mosquitto() -> Subject {
    let mut broker = Broker::with("allow_anonymous true\nmax_inflight_messages 0\n");
    broker.start();
    let url = broker.url();
    let again = url.clone();
    let pubsub = open(url).await;
    let up = pubsub.connectivity().expect("it can be unreachable");
    let reopen = move || {
        let (again, mut up) = (again.clone(), up.clone());
        let reopened = async move {
            // Two with one client id throw each other out: the first must have gone.
            up.wait_for(|up| !*up).await.expect("it says so");
            open(again).await
        };
        Box::pin(reopened) as Reopened
    };
    Subject {
        pubsub,
        offers: OFFERS,
        clock: None,
        reopen: Some(Box::new(reopen)),
        holds: Box::new(broker),
    }
}

conformance!(mosquitto_broker, crate::over_mosquitto);
