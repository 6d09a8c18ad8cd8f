//! Ends sessions whose clients stay away, and publishes wills that were told to wait.

use super::{Door, Holder, Seat};
use crate::broker::registry::Due;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Longest sleep: the clock for deadlines may be moved forward under it.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// Pause after a session could not be forgotten.
const RETRY_MS: u64 = 60_000;

/// Runs for ever. There is one per door: a second waits for the first to go.
pub(super) async fn run(door: &Arc<Door>) {
    let _only = door.janitor.lock().await;
    loop {
        let now_ms = door.clock.now_ms();
        let (due, next_ms) = {
            let mut sessions = door.sessions();
            let (gone_sender, gone) = watch::channel(());
            let leave = Arc::new(Notify::new());
            let holder = Holder { leave: leave.clone(), gone };
            let due = sessions.due(now_ms, || holder);
            let due = due.map(|due| (due, gone_sender, leave));
            (due, sessions.next_deadline_ms())
        };
        match due {
            Some((Due::Will(message), ..)) => door.publish_will(message).await,
            Some((Due::Expired(client), gone, leave)) => {
                let seat = Seat { door: door.clone(), client, away: None, leave, _gone: gone };
                end_session(door, seat).await;
            }
            None => wait(door, now_ms, next_ms).await,
        }
    }
}

async fn end_session(door: &Door, mut seat: Seat) {
    match door.forget(&seat.client).await {
        Ok(()) => tracing::info!(client = %seat.client, "MQTT session expired"),
        Err(error) => {
            tracing::warn!(client = %seat.client, %error, "an expired MQTT session stays for now");
            let again_ms = door.clock.now_ms().saturating_add(RETRY_MS);
            let away = seat.away.get_or_insert_default();
            away.expires_ms = Some(again_ms);
        }
    }
}

async fn wait(door: &Door, now_ms: u64, next_ms: Option<u64>) {
    let sleep = next_ms.map_or(SLEEP_MAX, |at_ms| {
        Duration::from_millis(at_ms.saturating_sub(now_ms)).min(SLEEP_MAX)
    });
    tokio::select! {
        () = door.deadlines.notified() => {}
        () = tokio::time::sleep(sleep) => {}
    }
}
