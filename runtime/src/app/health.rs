//! Whether an app can be called: its port answers, and its health check passes if it has one.

use super::channel::Channel;
use crate::drain::Drain;
use crate::resources::HealthPlan;
use hyper::Uri;
use std::sync::Arc;
use std::time::Duration;

/// Time between two tries of a port that does not answer yet.
const PORT_POLL: Duration = Duration::from_millis(100);

/// Watches one app until the process drains: polls its port until it answers, then probes it if
/// its plan has a health check. What it finds is told to the channel
/// ([`Channel::set_healthy`]). Holds no place in the drain while it waits.
pub async fn watch(channel: Arc<Channel>, mut drain: Drain) {
    tokio::select! {
        () = drain.started() => {}
        () = follow(&channel) => {}
    }
}

async fn follow(channel: &Channel) {
    let app_id = &channel.plan().app_id;
    if !channel.port_accepts().await {
        tracing::info!(%app_id, "waiting for the app on port {}", channel.plan().port);
        while !channel.port_accepts().await {
            tokio::time::sleep(PORT_POLL).await;
        }
    }
    tracing::info!(%app_id, "the app answers on port {}", channel.plan().port);
    match &channel.plan().health {
        None => channel.set_healthy(true),
        Some(plan) => probe_forever(channel, plan).await,
    }
}

async fn probe_forever(channel: &Channel, plan: &HealthPlan) {
    let app_id = &channel.plan().app_id;
    let slash = if plan.path.starts_with('/') { "" } else { "/" };
    let Ok(path) = format!("{slash}{}", plan.path).parse::<Uri>() else {
        tracing::error!(%app_id, "the health check's path {:?} is no path", plan.path);
        return;
    };
    let mut failures: u32 = 0;
    loop {
        let failure = match channel.probe(&path, plan.timeout).await {
            Ok(status) if status.is_success() => None,
            Ok(status) => Some(format!("answered {}", status.as_u16())),
            Err(error) => Some(error.to_string()),
        };
        let healthy = *channel.healthy().borrow();
        match failure {
            None => {
                failures = 0;
                if !healthy {
                    tracing::info!(%app_id, "the app is healthy");
                    channel.set_healthy(true);
                }
            }
            Some(why) => {
                failures = failures.saturating_add(1);
                if healthy && failures >= plan.threshold {
                    tracing::warn!(%app_id, failures, "the app is not healthy: {why}");
                    channel.set_healthy(false);
                }
            }
        }
        tokio::time::sleep(plan.interval).await;
    }
}
