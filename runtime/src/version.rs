//! The version of this build, and the order of versions.
//!
//! The version stands in clear text inside the binary, as `pillion-facts version=1.2.3;`, so that
//! tools read it without running it. A packager sets another one with `PILLION_VERSION` at build
//! time.

use std::cmp::Ordering;
use std::fmt;

/// Most bytes of a version.
const BYTES_MAX: usize = 64;

/// Bytes before the version in [`BLOCK`]. What stands there is written once, inside the function
/// that makes the block: as a constant it would come into the binary a second time.
const BEFORE: usize = 22;
const BLOCK_BYTES: usize = BEFORE + BYTES_MAX + 2;

static BLOCK: [u8; BLOCK_BYTES] = block(match option_env!("PILLION_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
});

const fn block(version: &str) -> [u8; BLOCK_BYTES] {
    let (prefix, version) = (b"pillion-facts version=", version.as_bytes());
    assert!(prefix.len() == BEFORE, "the version stands where it is read");
    assert!(version.len() <= BYTES_MAX, "a version has at most 64 bytes");
    let mut block = [b' '; BLOCK_BYTES];
    let mut at = 0;
    while at < prefix.len() {
        block[at] = prefix[at];
        at += 1;
    }
    while at < prefix.len() + version.len() {
        block[at] = version[at - prefix.len()];
        at += 1;
    }
    block[at] = b';';
    block[BLOCK_BYTES - 1] = b'\n';
    block
}

/// The version of this build.
pub fn version() -> &'static str {
    // Opaque to the compiler, so that the text in the binary is the only truth.
    let block: &'static [u8; BLOCK_BYTES] = std::hint::black_box(&BLOCK);
    let text = block.get(BEFORE..).unwrap_or_default();
    let text = text.split(|byte| *byte == b';').next().unwrap_or_default();
    std::str::from_utf8(text).unwrap_or_default()
}

/// A version by the rules of semver.org: `1.2.3`, `1.2.3-rc.1`, `1.2.3+build`. Compared by
/// precedence: what comes after a plus sign does not count.
///
/// The text is held in place: a version is copied like a number.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    text: [u8; BYTES_MAX],
    len: usize,
    numbers: [u64; 3],
}

impl Version {
    /// Reads a version; `None` if it is none, or longer than 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let (rest, build) = split(text, '+');
        let (core, pre) = split(rest, '-');
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let has_no_zero = |word: &str| !is_number(word) || word == "0" || !word.starts_with('0');
        let fine = build.is_none_or(|build| build.split('.').all(is_word))
            && pre.is_none_or(|pre| pre.split('.').all(|word| is_word(word) && has_no_zero(word)));
        let mut parts = core.split('.');
        let mut number = || {
            let part = parts.next().filter(|part| is_number(part) && has_no_zero(part))?;
            part.parse::<u64>().ok()
        };
        let numbers = [number()?, number()?, number()?];
        (fine && parts.next().is_none()).then(|| Self::of(text, numbers))
    }

    fn of(text: &str, numbers: [u64; 3]) -> Self {
        let mut version = Self { text: [0; BYTES_MAX], len: 0, numbers };
        for (place, byte) in version.text.iter_mut().zip(text.bytes()) {
            *place = byte;
            version.len += 1;
        }
        version
    }

    /// The version of this build; one that a packager wrote in no known form is the oldest.
    pub fn here() -> Self {
        Self::parse(version()).unwrap_or(Self::of(version(), [0; 3]))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.text.get(..self.len).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
    }

    fn pre(&self) -> Option<&str> {
        split(split(self.as_str(), '+').0, '-').1
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre(), other.pre()) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => by_words(one, other),
        })
    }
}

/// Numbers by value and before words, words by their bytes, the shorter list first.
fn by_words(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let order = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (is_number(one), is_number(other)) {
                // Without leading zeros the longer number is the larger one.
                (true, true) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => one.cmp(other),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_build_has_a_version() {
        assert!(Version::parse(version()).is_some(), "{}", version());
        assert_eq!(Version::here().as_str(), version());
    }

    #[test]
    fn versions_are_in_order() {
        let ascending = [
            "0.0.0-0",
            "0.0.1",
            "0.1.0-alpha",
            "0.1.0-alpha.1",
            "0.1.0-alpha.beta",
            "0.1.0-beta",
            "0.1.0-beta.2",
            "0.1.0-beta.11",
            "0.1.0-rc.1",
            "0.1.0",
            "0.1.1",
            "0.2.0",
            "0.10.0",
            "1.0.0--",
            "1.0.0",
            "18446744073709551615.0.0",
        ];
        let versions: Vec<_> = ascending.iter().map(|text| Version::parse(text)).collect();
        for (at, one) in versions.iter().enumerate() {
            let one = one.as_ref().expect(ascending[at]);
            for (other_at, other) in versions.iter().enumerate() {
                let other = other.as_ref().expect(ascending[other_at]);
                assert_eq!(one.cmp(other), at.cmp(&other_at), "{one} and {other}");
            }
        }
        assert_eq!(Version::parse("1.2.3+a"), Version::parse("1.2.3+b.c-d"));
    }

    #[test]
    fn other_texts_are_no_versions() {
        let long = format!("1.2.3-{}", "a".repeat(BYTES_MAX));
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "01.2.3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2.3+",
            "v1.2.3",
            "1.2.3 ",
            "1.2.3-\u{e9}",
            "-1.2.3",
            "18446744073709551616.0.0",
            "1.2.3\n",
            &long,
        ] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
    }
}
