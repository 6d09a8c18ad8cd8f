//! Input bindings: from the event outside to the app's answer.
//!
//! [`run`] asks the app, once it is healthy, which of the bindings it wants (`OPTIONS` of their
//! routes), and has a pump for each of those: it opens the binding's source and delivers one event
//! after the other. While the app is not healthy no source is open; when it is back it is asked
//! again, as it may be a newer version of itself.

use super::attempt::{ANSWER_TIMEOUT, add_metadata};
use super::becomes;
use crate::app::App;
use crate::app::channel::{CallError, Channel};
use crate::blocks::Blocks;
use crate::blocks::bindings::Input;
use crate::body::Body;
use crate::drain::Drain;
use crate::observe::metrics::families::{
    INPUT_BINDING_COUNT, INPUT_BINDING_LATENCY, QUEUE_DROPPED,
};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use pillion_components::backoff::Backoff;
use pillion_components::bindings::{Event, Redelivery, Source};
use pillion_components::{Kind, env};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

/// Largest answer to a probe or an event that is read, so that the connection can be kept. Nobody
/// wants what it says: over HTTP an app's status is its whole answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Waits before a source is opened again, or an event goes to an app that was not there.
const AGAIN_MIN_MS: u64 = 250;
const AGAIN_MAX_MS: u64 = 30_000;

/// Delivers events to one app until the process drains. `probe_timeout` is the app's time to say
/// whether it wants those of a binding.
pub async fn run(app: Arc<App>, blocks: Arc<Blocks>, probe_timeout: Duration, mut drain: Drain) {
    let Some(channel) = app.channel.clone() else { return };
    let inputs = blocks.bindings.inputs(&app);
    if inputs.is_empty() {
        return;
    }
    let mut healthy = channel.healthy();
    while becomes(&mut healthy, true, &mut drain).await {
        let (stop, stopped) = watch::channel(());
        let mut pumps = JoinSet::new();
        for input in &inputs {
            let Some(uri) = uri(&app, input) else { continue };
            let is_wanted = tokio::select! {
                wanted = is_wanted(&app, &channel, input, &uri, probe_timeout) => wanted,
                () = drain.started() => break,
            };
            if is_wanted {
                info!(app_id = &*app.id, binding = &*input.name, "events are delivered");
                let (app, channel, input) = (app.clone(), channel.clone(), input.clone());
                let feed = Feed { app, channel, input, uri };
                pumps.spawn(pump(feed, stopped.clone()));
            }
        }
        let goes_on = becomes(&mut healthy, false, &mut drain).await;
        if goes_on {
            info!(app_id = &*app.id, "the app is not healthy: events of bindings pause");
        }
        // What was given to the app is finished.
        drop(stop);
        while pumps.join_next().await.is_some() {}
        if !goes_on {
            return;
        }
    }
}

fn uri(app: &App, input: &Input) -> Option<Uri> {
    let uri = format!("/{}", input.route).parse();
    uri.map_err(|error| {
        let (app_id, binding, route) = (&*app.id, &*input.name, &*input.route);
        error!(app_id, binding, route, %error, "the route is no path: no events are delivered");
    })
    .ok()
}

/// Asks the app. An app that answers with `405` has the route and no word about methods.
async fn is_wanted(
    app: &App,
    channel: &Channel,
    input: &Input,
    uri: &Uri,
    timeout: Duration,
) -> bool {
    if input.is_certain {
        return true;
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = uri.clone();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    let (app_id, binding) = (&*app.id, &*input.name);
    let answer = channel.call_whole(request, timeout, ANSWER_BYTES_MAX).await;
    let status = match answer {
        Err(CallError::TooLarge(status, _)) => Ok(status),
        other => other.map(|answer| answer.status()),
    };
    match status {
        Ok(status) => {
            let wanted = status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED;
            if !wanted {
                let status = status.as_u16();
                info!(app_id, binding, status, "the app does not want the events of a binding");
            }
            wanted
        }
        Err(error) => {
            warn!(app_id, binding, %error, "the app did not say whether it wants events");
            false
        }
    }
}

/// One binding and one app.
struct Feed {
    app: Arc<App>,
    channel: Arc<Channel>,
    input: Input,
    uri: Uri,
}

/// What became of a delivery.
enum Taken {
    Yes,
    /// The app failed with it.
    No(String),
    /// The app was not there: it has not seen the event.
    Away(String),
}

/// Delivers until `stop` is gone. A source that ends in an error is opened again.
async fn pump(feed: Feed, mut stop: watch::Receiver<()>) {
    let mut backoff = backoff();
    loop {
        let opened = tokio::select! {
            opened = feed.input.binding.read(&feed.app.id) => opened,
            _ = stop.changed() => return,
        };
        let (app_id, binding) = (&*feed.app.id, &*feed.input.name);
        match opened {
            Ok(source) => {
                if feed.take_from(source, &mut stop, &mut backoff).await {
                    return;
                }
            }
            Err(error) => warn!(app_id, binding, %error, "a binding's source cannot be opened"),
        }
        if pause(backoff.next_ms(), &mut stop).await {
            return;
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(AGAIN_MIN_MS, AGAIN_MAX_MS, env::random_u64())
}

/// Waits. Whether there is no need to go on.
async fn pause(ms: u64, stop: &mut watch::Receiver<()>) -> bool {
    tokio::select! {
        () = sleep(Duration::from_millis(ms)) => false,
        _ = stop.changed() => true,
    }
}

impl Feed {
    /// Whether it was told to stop; otherwise the source has ended.
    async fn take_from(
        &self,
        mut source: Box<dyn Source>,
        stop: &mut watch::Receiver<()>,
        backoff: &mut Backoff,
    ) -> bool {
        loop {
            let event = tokio::select! {
                event = source.next() => event,
                _ = stop.changed() => return true,
            };
            match event {
                Ok(event) => {
                    backoff.reset();
                    if !self.deliver(&event, stop).await {
                        return true;
                    }
                    source.done(event.token);
                }
                Err(error) => {
                    let (app_id, binding) = (&*self.app.id, &*self.input.name);
                    warn!(app_id, binding, %error, "a binding's source ended");
                    if error.kind() == Kind::Closed || pause(backoff.next_ms(), stop).await {
                        return stop.has_changed().is_err();
                    }
                }
            }
        }
    }

    /// Delivers one event until it is done with. `false` when it must stay with its source.
    async fn deliver(&self, event: &Event, stop: &mut watch::Receiver<()>) -> bool {
        let (app_id, binding) = (&*self.app.id, &*self.input.name);
        let Redelivery { pause: between, retries_max } = self.input.binding.redelivery();
        let (mut failures, mut away) = (0_u32, backoff());
        loop {
            let started = Instant::now();
            let taken = self.attempt(event).await;
            if !matches!(taken, Taken::Away(_)) {
                self.record(matches!(taken, Taken::Yes), started.elapsed());
            }
            let wait_ms = match taken {
                Taken::Yes => return true,
                Taken::No(why) if event.token == 0 => {
                    warn!(app_id, binding, why, "the app did not take an event");
                    return true;
                }
                Taken::Away(why) if event.token == 0 => {
                    debug!(app_id, binding, why, "the app is away: an event is left out");
                    return true;
                }
                Taken::No(why) if retries_max.is_some_and(|max| failures >= max) => {
                    error!(app_id, binding, why, "an event is given up");
                    QUEUE_DROPPED.with(&[binding, app_id, "refused"]).inc();
                    return true;
                }
                Taken::No(why) => {
                    failures = failures.saturating_add(1);
                    warn!(app_id, binding, why, failures, "the app did not take an event");
                    u64::try_from(between.as_millis()).unwrap_or(u64::MAX)
                }
                Taken::Away(why) => {
                    debug!(app_id, binding, why, "the app is away");
                    away.next_ms()
                }
            };
            if pause(wait_ms, stop).await {
                return false;
            }
        }
    }

    async fn attempt(&self, event: &Event) -> Taken {
        let request = self.request(event);
        let answer = self.channel.call_whole(request, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await;
        let status = match answer {
            Ok(answer) => answer.status(),
            // Nobody wants to know what it says.
            Err(CallError::TooLarge(status, _)) => status,
            Err(error @ (CallError::Unhealthy | CallError::Unreachable(_))) => {
                return Taken::Away(error.to_string());
            }
            // It may be this event that the app breaks on.
            Err(error) => return Taken::No(error.to_string()),
        };
        match status.is_success() {
            true => Taken::Yes,
            false => Taken::No(format!("it answered {}", status.as_u16())),
        }
    }

    fn request(&self, event: &Event) -> Request<Body> {
        let body = Bytes::clone(&event.data);
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        add_metadata(headers, &event.metadata);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(parent) = HeaderValue::from_str(&TraceContext::new().traceparent()) {
            headers.insert("traceparent", parent);
        }
        request
    }

    fn record(&self, success: bool, took: Duration) {
        let outcome = if success { "true" } else { "false" };
        let labels = [&*self.app.id, &*self.input.name, &*self.app.namespace, outcome];
        INPUT_BINDING_COUNT.with(&labels).inc();
        INPUT_BINDING_LATENCY.with(&labels).observe(took);
    }
}
