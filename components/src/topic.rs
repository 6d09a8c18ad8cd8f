//! Topic names and topic filters, as MQTT 5 section 4.7 defines them.
//!
//! Every pub/sub component of ours speaks of topics in these terms, so that a topic is one thing
//! whichever door it came through. A filter may hold `+` (one level) and `#` (the rest).

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::sync::Arc;

/// Longest topic name or filter in bytes. MQTT allows 65,535; a gateway has no use for it.
pub const TOPIC_BYTES_MAX: usize = 1024;

/// Most levels (`/` + 1) of a topic name or filter; bounds the work of a match.
pub const TOPIC_LEVELS_MAX: usize = 128;

/// Checks a topic name to publish to: not empty, bounded, no wildcard, no NUL.
pub fn check_name(name: &str) -> Result<()> {
    check_text(name, "topic")?;
    if name.contains(['+', '#']) {
        return Err(Error::new(
            Kind::Invalid,
            format!("topic '{name}' has a wildcard: publish to one topic, without + or #"),
        ));
    }
    Ok(())
}

fn check_text(text: &str, what: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("{what} is empty")));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(Error::new(
            Kind::TooLarge,
            format!("{what} of {} bytes: at most {TOPIC_BYTES_MAX} are allowed", text.len()),
        ));
    }
    if text.split('/').count() > TOPIC_LEVELS_MAX {
        return Err(Error::new(
            Kind::TooLarge,
            format!("{what} has more than {TOPIC_LEVELS_MAX} levels"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::new(Kind::Invalid, format!("{what} holds a NUL character")));
    }
    Ok(())
}

/// A checked topic filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Arc<str>);

impl Filter {
    /// Checks `text`: `+` must fill a level, `#` must be the whole last level.
    pub fn new(text: &str) -> Result<Self> {
        check_text(text, "topic filter")?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let wild = level.contains(['+', '#']);
            let whole = level == "+" || (level == "#" && levels.peek().is_none());
            if wild && !whole {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("topic filter '{text}': + fills one level, # stands alone at the end"),
                ));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the filter names exactly one topic.
    pub fn is_exact(&self) -> bool {
        !self.0.contains(['+', '#'])
    }

    /// Whether `topic` matches. Topics that begin with `$` are not matched by a leading wildcard.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.split('/');
        for level in self.0.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether some topic matches both filters.
    pub fn overlaps(&self, other: &Filter) -> bool {
        let (mut left, mut right) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (left.next(), right.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(l), Some(r)) if l == r || l == "+" || r == "+" => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::new(text).expect("a valid filter")
    }

    #[test]
    fn matching_follows_the_standard() {
        for (text, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(filter(text).matches(topic), expected, "{text} on {topic}");
        }
    }

    #[test]
    fn misplaced_wildcards_are_refused() {
        for text in ["", "a/b#", "#/a", "a+/b", "a/+b", "a\0b"] {
            assert!(Filter::new(text).is_err(), "{text:?}");
        }
        assert!(check_name("a/+").is_err());
        assert!(check_name("a/b").is_ok());
    }

    #[test]
    fn overlapping_filters_are_seen() {
        for (left, right, expected) in [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/b", "a/c", false),
            ("#", "x/y", true),
            ("a/+/c", "a/b/d", false),
        ] {
            assert_eq!(filter(left).overlaps(&filter(right)), expected, "{left} {right}");
        }
    }
}
