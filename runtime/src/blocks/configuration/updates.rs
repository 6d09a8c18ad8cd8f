//! The task of one subscription: tells the app of changes, one call per key, in order.
//!
//! An app that answers anything but 200 has seen the change and is not told again, as with Dapr.
//! One that cannot be reached is told when it is back: by then of the last value of each key.

use crate::app::channel::{CallError, Channel};
use crate::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use pillion_components::Kind;
use pillion_components::backoff::Backoff;
use pillion_components::configuration::{Change, Changes, Item};
use pillion_components::env;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Time for the app's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer that is read; nobody looks at it, but the connection is kept.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Waits between two looks whether an app is back, and whether a store can be read again.
const RETRY_MIN_MS: u64 = 500;
const RETRY_MAX_MS: u64 = 30_000;

/// What a subscription tells whom.
pub(super) struct Updates {
    pub(super) app_id: Arc<str>,
    pub(super) store: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) channel: Arc<Channel>,
}

/// The body of an update.
#[derive(Serialize)]
struct Update<'a> {
    id: &'a str,
    items: BTreeMap<&'a str, &'a Item>,
}

impl Updates {
    /// Tells the app until the store ends the subscription.
    pub(super) async fn run(self, mut changes: Box<dyn Changes>) {
        let mut backoff = Backoff::new(RETRY_MIN_MS, RETRY_MAX_MS, env::random_u64());
        loop {
            match changes.next().await {
                Ok(change) => {
                    backoff.reset();
                    self.tell(&change).await;
                }
                Err(error) if error.kind() == Kind::Closed => return,
                Err(error) => {
                    let (app_id, store) = (&*self.app_id, &*self.store);
                    tracing::warn!(app_id, store, %error, "a changed item cannot be read now");
                    sleep(Duration::from_millis(backoff.next_ms())).await;
                }
            }
        }
    }

    async fn tell(&self, change: &Change) {
        let Some(body) = self.body(change) else { return };
        let uri = uri(&self.store, &change.key);
        let (app_id, store, key) = (&*self.app_id, &*self.store, &*change.key);
        let mut backoff = Backoff::new(RETRY_MIN_MS, RETRY_MAX_MS, env::random_u64());
        loop {
            match self.post(uri.clone(), body.clone()).await {
                Ok(StatusCode::OK) => return,
                Ok(status) => {
                    tracing::error!(
                        app_id,
                        store,
                        key,
                        "error sending configuration item to the app: error sending configuration \
                         item to application, status {}",
                        status.as_u16()
                    );
                    return;
                }
                Err(error @ (CallError::Unhealthy | CallError::Unreachable(_))) => {
                    tracing::debug!(app_id, store, key, %error, "a change waits for the app");
                    self.wait(Duration::from_millis(backoff.next_ms())).await;
                }
                Err(error) => {
                    tracing::error!(
                        app_id,
                        store,
                        key,
                        "error sending configuration item to the app: {error}"
                    );
                    return;
                }
            }
        }
    }

    fn body(&self, change: &Change) -> Option<Vec<u8>> {
        let deleted = Item::default();
        let item = change.item.as_ref().unwrap_or(&deleted);
        let update = Update { id: &self.id, items: BTreeMap::from([(&*change.key, item)]) };
        match serde_json::to_vec(&update) {
            Ok(body) => Some(body),
            Err(error) => {
                tracing::error!(key = &*change.key, %error, "an update cannot be encoded");
                None
            }
        }
    }

    async fn post(&self, uri: Uri, body: Vec<u8>) -> Result<StatusCode, CallError> {
        let mut request = Request::new(Body::from(bytes::Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.channel.call_whole(request, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await?;
        Ok(answer.status())
    }

    /// Waits so long, or until the app's health has changed.
    async fn wait(&self, pause: Duration) {
        let mut healthy = self.channel.healthy();
        healthy.mark_unchanged();
        tokio::select! {
            () = sleep(pause) => {}
            // An error means that the channel is gone, which it is not while we hold it.
            _ = healthy.changed() => {}
        }
    }
}

/// `/configuration/{store}/{key}`; what cannot stand in a path is escaped, slashes of a key stay.
fn uri(store: &str, key: &str) -> Uri {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    let mut path = String::with_capacity(store.len() + key.len() + 16);
    path.push_str("/configuration/");
    for byte in store.bytes().chain([b'/']).chain(key.bytes()) {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    // Only what a path may hold is in it; its length is bounded by that of a key.
    path.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_the_path_as_they_may() {
        for (key, expected) in [
            ("a", "/configuration/cfg/a"),
            ("a/b", "/configuration/cfg/a/b"),
            ("a b?c#d%", "/configuration/cfg/a%20b%3Fc%23d%25"),
            ("é\u{0}", "/configuration/cfg/%C3%A9%00"),
        ] {
            assert_eq!(uri("cfg", key).to_string(), expected);
        }
    }
}
