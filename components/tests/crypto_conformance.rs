//! The crypto suite over every row of the catalogue, and what single providers promise besides.

#![cfg(feature = "crypto")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/crypto.rs"]
#[macro_use]
mod suite;

use async_trait::async_trait;
use pillion_components::crypto::{Algorithm, CATALOGUE, CryptoProvider, Fetch};
use pillion_components::error::{Error, Kind, Result};
use pillion_components::options::Options;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use suite::Subject;

/// The same RSA key in every form that there is; made with openssl from the one of the recordings.
const KEYS: [(&str, &str); 5] = [
    ("rsa.pem", include_str!("keys/rsa.pem")),
    ("rsa1.pem", include_str!("keys/rsa1.pem")),
    ("rsa.json", include_str!("keys/rsa.json")),
    ("public.pem", include_str!("keys/public.pem")),
    ("public1.pem", include_str!("keys/public1.pem")),
];
const SYMMETRIC: &str = "YDABHJ6jrqBbkijA73Iz77RakRtmslSUg+WmPWkoShk=";

/// Answers what it was given, or nothing.
#[derive(Default)]
struct Desk {
    set: Mutex<String>,
    asked: AtomicUsize,
    is_down: AtomicBool,
}

#[async_trait]
impl Fetch for Desk {
    async fn get(&self, url: &str, _bytes_max: usize) -> Result<Vec<u8>> {
        assert_eq!(url, "https://keys.example/set");
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unavailable, "down"));
        }
        Ok(self.set.lock().unwrap().clone().into_bytes())
    }
}

async fn open(
    type_name: &str,
    options: &[(&str, &str)],
    fetch: Arc<dyn Fetch>,
) -> Result<Arc<dyn CryptoProvider>> {
    let row = CATALOGUE.iter().find(|row| row.type_name == type_name).unwrap();
    let options: Options = options.iter().copied().collect();
    (row.open)(&options, fetch).await
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("pillion-crypto-{}", pillion_components::env::uuid());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn folder() -> Subject {
    // Kept until the process ends: keys are read when they are used.
    let folder = Box::leak(Box::new(Folder::new()));
    for (name, text) in KEYS {
        folder.write(name, text);
    }
    folder.write("guessed/rsa", KEYS[0].1);
    folder.write("guessed/jwk", KEYS[2].1);
    folder.write("base64", SYMMETRIC);
    folder.write("raw", [200; 32]);
    let jwk = json!({"kty": "oct", "k": "YDABHJ6jrqBbkijA73Iz77RakRtmslSUg-WmPWkoShk"});
    folder.write("oct.JSON", jwk.to_string());
    let options = [("path", folder.text())];
    let provider = open("crypto.dapr.localstorage", &options, Arc::<Desk>::default()).await;
    Subject {
        provider: provider.unwrap(),
        has: vec![
            ("rsa.pem", Algorithm::RsaOaep256),
            ("rsa1.pem", Algorithm::RsaOaep256),
            ("rsa.json", Algorithm::RsaOaep256),
            ("guessed/rsa", Algorithm::RsaOaep256),
            ("/guessed/jwk", Algorithm::RsaOaep256),
            ("base64", Algorithm::A256Kw),
            ("raw", Algorithm::A256Kw),
            ("oct.JSON", Algorithm::A256Kw),
        ],
        public: vec![("public.pem", "rsa.pem"), ("public1.pem", "rsa.json")],
    }
}

fn set() -> Value {
    let mut rsa: Value = serde_json::from_str(KEYS[2].1).unwrap();
    let mut public = rsa.clone();
    for secret in ["d", "p", "q", "dp", "dq", "qi"] {
        public.as_object_mut().unwrap().remove(secret);
    }
    public["kid"] = "public".into();
    // Its primes are found from the other numbers.
    let mut bare = rsa.clone();
    for prime in ["p", "q"] {
        bare.as_object_mut().unwrap().remove(prime);
    }
    bare["kid"] = "bare".into();
    rsa["kid"] = "rsa/1".into();
    let oct =
        json!({"kty": "oct", "kid": "oct", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"});
    json!({"keys": [rsa, public, bare, oct]})
}

fn of_set(provider: Arc<dyn CryptoProvider>) -> Subject {
    let has = vec![
        ("rsa/1", Algorithm::RsaOaep256),
        ("bare", Algorithm::RsaOaep256),
        ("oct", Algorithm::A256Kw),
    ];
    Subject { provider, has, public: vec![("public", "rsa/1")] }
}

async fn inline() -> Subject {
    let text = set().to_string();
    let provider = open("crypto.dapr.jwks", &[("jwks", &text)], Arc::<Desk>::default()).await;
    of_set(provider.unwrap())
}

async fn file() -> Subject {
    let folder = Box::leak(Box::new(Folder::new()));
    let path = folder.write("set.json", set().to_string());
    let provider = open("crypto.dapr.jwks", &[("jwks", &path)], Arc::<Desk>::default()).await;
    of_set(provider.unwrap())
}

async fn url() -> Subject {
    let desk = Desk { set: Mutex::new(set().to_string()), ..Desk::default() };
    let options = [("jwks", "https://keys.example/set")];
    of_set(open("crypto.dapr.jwks", &options, Arc::new(desk)).await.unwrap())
}

conformance!(local_storage, crate::folder);
conformance!(jwks_inline, crate::inline);
conformance!(jwks_file, crate::file);
conformance!(jwks_url, crate::url);

async fn wraps(provider: &Arc<dyn CryptoProvider>, name: &str) -> Result<Vec<u8>> {
    provider.wrap_key(name, Algorithm::A256Kw, &[1; 32]).await
}

fn oct(kid: &str, byte: u8) -> String {
    let key = if byte == 0 { "A".repeat(43) } else { format!("{}A", "B".repeat(42)) };
    json!({"keys": [{"kty": "oct", "kid": kid, "k": key}]}).to_string()
}

#[tokio::test]
async fn names_stay_in_their_folder_and_only_files_are_read() {
    let outside = Folder::new();
    let path = outside.write("secret", SYMMETRIC);
    outside.write("keys/in", SYMMETRIC);
    let folder = outside.0.join("keys");
    let options = [("path", folder.to_str().unwrap())];
    let provider =
        open("crypto.dapr.localstorage", &options, Arc::<Desk>::default()).await.unwrap();
    wraps(&provider, "in").await.unwrap();
    for name in ["../secret", "x/../../secret", "..", "in..", &path, ".", "", "/"] {
        let error = wraps(&provider, name).await.unwrap_err();
        let dots = error.message().ends_with("invalid key path: cannot contain '..'");
        assert_eq!(dots, name.contains(".."), "{name}: {error}");
    }
    // A pipe that nobody writes to does not hold anybody up.
    let pipe = std::ffi::CString::new(folder.join("pipe").to_str().unwrap()).unwrap();
    // SAFETY: the path is a text that ends with a zero and lives on.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    assert!(wraps(&provider, "pipe").await.unwrap_err().message().ends_with("is not a file"));
    outside.write("keys/large", vec![b'A'; 70_000]);
    assert_eq!(wraps(&provider, "large").await.unwrap_err().kind(), Kind::TooLarge);
}

#[tokio::test]
async fn a_replaced_file_counts_at_once() {
    let folder = Folder::new();
    let path = folder.write("set.json", oct("a", 0));
    folder.write("key", SYMMETRIC);
    let keys = [("path", folder.text())];
    let keys = open("crypto.dapr.localstorage", &keys, Arc::<Desk>::default()).await.unwrap();
    let set = open("crypto.dapr.jwks", &[("jwks", &path)], Arc::<Desk>::default()).await.unwrap();
    let before = (wraps(&keys, "key").await.unwrap(), wraps(&set, "a").await.unwrap());
    assert_eq!(before.0, wraps(&keys, "key").await.unwrap(), "key wrap has no randomness");
    folder.write("key", [7; 32]);
    folder.write("set.json", oct("a", 1));
    assert_ne!(before.0, wraps(&keys, "key").await.unwrap());
    assert_ne!(before.1, wraps(&set, "a").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_set_from_a_url_is_got_again_after_the_interval() {
    let desk = Arc::new(Desk { set: Mutex::new(oct("a", 0)), ..Desk::default() });
    let options = [("jwks", "https://keys.example/set"), ("minRefreshInterval", "1s")];
    let provider = open("crypto.dapr.jwks", &options, desk.clone()).await.unwrap();
    let asked = || desk.asked.load(Ordering::SeqCst);
    let first = wraps(&provider, "a").await.unwrap();
    assert!(wraps(&provider, "b").await.is_err(), "not got again before the interval");
    assert_eq!(asked(), 1);

    // Known keys stay in use while the address is down, and nobody waits for it.
    desk.is_down.store(true, Ordering::SeqCst);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(wraps(&provider, "a").await.unwrap(), first);
    until(|| asked() == 2).await;
    assert_eq!(wraps(&provider, "a").await.unwrap(), first);

    // A key that is not known yet is waited for.
    desk.is_down.store(false, Ordering::SeqCst);
    *desk.set.lock().unwrap() = oct("b", 1);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_ne!(wraps(&provider, "b").await.unwrap(), first);
    assert_eq!(asked(), 3);
    assert_eq!(wraps(&provider, "a").await.unwrap_err().kind(), Kind::NotFound, "it is gone");
}

async fn until(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < end, "in vain");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    for (type_name, options, told) in [
        ("crypto.dapr.localstorage", vec![], "path"),
        ("crypto.dapr.localstorage", vec![("path", "/nowhere")], "/nowhere"),
        ("crypto.dapr.jwks", vec![], "jwks"),
        ("crypto.dapr.jwks", vec![("jwks", "/nowhere.json")], "no URL"),
        ("crypto.dapr.jwks", vec![("jwks", "{\"keys\": 1}")], "line 1"),
        ("crypto.dapr.jwks", vec![("jwks", "{}"), ("requestTimeout", "x")], "requestTimeout"),
    ] {
        let error = open(type_name, &options, Arc::<Desk>::default()).await.err().unwrap();
        assert!(error.message().contains(told), "{type_name} {options:?}: {error}");
    }
    let down = Desk { is_down: AtomicBool::new(true), ..Desk::default() };
    let options = [("jwks", "https://keys.example/set")];
    let error = open("crypto.dapr.jwks", &options, Arc::new(down)).await.err().unwrap();
    assert_eq!(error.message(), "jwks https://keys.example/set: down");
}
