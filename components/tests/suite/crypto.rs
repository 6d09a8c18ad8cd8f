//! What every crypto provider must do, as functions that take any of them.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use pillion_components::Kind;
use pillion_components::crypto::{Algorithm, CryptoProvider};
use std::sync::Arc;

/// A provider under test.
pub(crate) struct Subject {
    pub(crate) provider: Arc<dyn CryptoProvider>,
    /// Keys that it has, with what they can be used for.
    pub(crate) has: Vec<(&'static str, Algorithm)>,
    /// Public keys of the same pairs: they wrap what another name unwraps.
    pub(crate) public: Vec<(&'static str, &'static str)>,
}

const KEY: [u8; 32] = *b"the key of a message, 32 bytes!!";

pub(crate) async fn a_wrapped_key_comes_back(subject: Subject) {
    for (name, algorithm) in subject.has {
        let wrapped = subject.provider.wrap_key(name, algorithm, &KEY).await.unwrap();
        assert!(!wrapped.windows(8).any(|part| KEY.windows(8).any(|key| key == part)), "{name}");
        let key = subject.provider.unwrap_key(name, algorithm, &wrapped).await.unwrap();
        assert_eq!(*key, KEY, "{name}");
    }
}

pub(crate) async fn a_changed_wrapped_key_is_an_error(subject: Subject) {
    for (name, algorithm) in subject.has {
        let wrapped = subject.provider.wrap_key(name, algorithm, &KEY).await.unwrap();
        let mut others: Vec<Vec<u8>> = vec![Vec::new(), vec![0; 7], vec![0; 100_000]];
        others.push(wrapped[..wrapped.len() - 1].to_vec());
        others.push([&wrapped[..], &[0; 8]].concat());
        for place in [0, wrapped.len() / 2, wrapped.len() - 1] {
            let mut flipped = wrapped.clone();
            flipped[place] ^= 1;
            others.push(flipped);
        }
        for other in others {
            let result = subject.provider.unwrap_key(name, algorithm, &other).await;
            assert_eq!(result.unwrap_err().kind(), Kind::Invalid, "{name}");
        }
    }
}

pub(crate) async fn a_missing_key_is_an_error(subject: Subject) {
    for name in ["not there", "no/folder", "a\0b", "né"] {
        let wrapped = subject.provider.wrap_key(name, Algorithm::A256Kw, &KEY).await;
        let error = wrapped.unwrap_err();
        let unwrapped = subject.provider.unwrap_key(name, Algorithm::A256Kw, &[0; 40]).await;
        assert_eq!(unwrapped.unwrap_err().kind(), error.kind());
        // The system has no file with a zero in its name.
        assert!(error.kind() == Kind::NotFound || name.contains('\0'), "{name:?}: {error:?}");
        assert!(error.message().starts_with("failed to retrieve the key encryption key: "));
    }
}

pub(crate) async fn an_algorithm_of_another_kind_is_an_error(subject: Subject) {
    for (name, algorithm) in subject.has {
        let other = match algorithm {
            Algorithm::A256Kw => Algorithm::RsaOaep256,
            _ => Algorithm::A256Kw,
        };
        for other in [other, Algorithm::A128CbcNoPad, Algorithm::A256CbcNoPad] {
            let wrapped = subject.provider.wrap_key(name, other, &KEY).await;
            assert_eq!(wrapped.unwrap_err().kind(), Kind::Invalid, "{name} {other:?}");
            let unwrapped = subject.provider.unwrap_key(name, other, &[0; 40]).await;
            assert_eq!(unwrapped.unwrap_err().kind(), Kind::Invalid, "{name} {other:?}");
        }
    }
}

pub(crate) async fn a_public_key_wraps_and_does_not_unwrap(subject: Subject) {
    for (public, private) in subject.public {
        let algorithm = Algorithm::RsaOaep256;
        let wrapped = subject.provider.wrap_key(public, algorithm, &KEY).await.unwrap();
        assert!(subject.provider.unwrap_key(public, algorithm, &wrapped).await.is_err());
        let key = subject.provider.unwrap_key(private, algorithm, &wrapped).await.unwrap();
        assert_eq!(*key, KEY, "{public}");
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                a_wrapped_key_comes_back
                a_changed_wrapped_key_is_an_error
                a_missing_key_is_an_error
                an_algorithm_of_another_kind_is_an_error
                a_public_key_wraps_and_does_not_unwrap
            );
        }
    };
    (@cases $make:path; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::suite::$case($make().await).await;
        })+
    };
}
