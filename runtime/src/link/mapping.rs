//! Topics and filters on the two sides of a flow: a prefix on the remote's.

use pillion_components::Result;
use pillion_components::topic::Filter;
use std::sync::Arc;

/// What a flow's `mapTo` does.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    prefix: Option<Arc<str>>,
}

impl Mapping {
    pub(super) fn new(map_to: Option<&str>) -> Self {
        Self { prefix: map_to.filter(|prefix| !prefix.is_empty()).map(Into::into) }
    }

    /// The remote's name of a local topic.
    pub(super) fn to_remote(&self, topic: &Arc<str>) -> Arc<str> {
        match &self.prefix {
            Some(prefix) => format!("{prefix}{topic}").into(),
            None => topic.clone(),
        }
    }

    /// Our name of a remote topic; `None` for one outside the prefix.
    pub(super) fn to_local(&self, topic: &Arc<str>) -> Option<Arc<str>> {
        match &self.prefix {
            Some(prefix) => topic.strip_prefix(&**prefix).map(Into::into),
            None => Some(topic.clone()),
        }
    }

    /// The remote's form of a local filter; a share stays in front.
    pub(super) fn filter_to_remote(&self, filter: &Filter) -> Result<Filter> {
        let Some(prefix) = &self.prefix else { return Ok(filter.clone()) };
        let text = filter.as_str();
        let shared = text.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        match shared {
            Some((group, rest)) => Filter::new(&format!("$share/{group}/{prefix}{rest}")),
            None => Filter::new(&format!("{prefix}{text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_on_the_remote_side_only() {
        let mapping = Mapping::new(Some("site1/"));
        assert_eq!(&*mapping.to_remote(&"a/b".into()), "site1/a/b");
        assert_eq!(mapping.to_local(&"site1/a/b".into()).as_deref(), Some("a/b"));
        assert_eq!(mapping.to_local(&"site2/a".into()), None);
        for (local, remote) in [("a/#", "site1/a/#"), ("$share/g/a", "$share/g/site1/a")] {
            let filter = Filter::new(local).expect("a filter");
            assert_eq!(mapping.filter_to_remote(&filter).expect("a filter").as_str(), remote);
        }
        let plain = Mapping::new(None);
        assert_eq!(&*plain.to_remote(&"a".into()), "a");
        assert_eq!(plain.to_local(&"a".into()).as_deref(), Some("a"));
    }
}
