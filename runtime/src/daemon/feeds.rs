//! Configuration stores that topics feed.

use super::Topics;
use super::components::Components;
use crate::feed::Feed;

/// A feed of every store that names a topic. The error says which component is not there.
pub(super) fn of(components: &Components, topics: &Topics) -> Result<Vec<Feed>, String> {
    let mut feeds = Vec::new();
    for store in components.configuration.all() {
        let Some(source) = store.component.source() else { continue };
        let (name, pubsub) = (&store.name, &source.pubsub);
        let pubsub = topics.get(pubsub.as_str()).cloned().ok_or_else(|| {
            format!("component {name}: pubsubName: there is no pub/sub component {pubsub}")
        })?;
        let feed = Feed::new(name.clone(), store.component.clone(), source.clone(), pubsub);
        feeds.push(feed.map_err(|error| format!("component {name}: {error}"))?);
    }
    Ok(feeds)
}
