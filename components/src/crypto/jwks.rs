//! `crypto.dapr.jwks`: keys of a JSON Web Key Set; the name of a key is its `kid`.
//!
//! Options:
//! - `jwks` (required): the set itself as JSON, plain or in base64; or the path of a file with it; or
//!   an `http://` or `https://` URL to get it from. At most [`SET_BYTES_MAX`].
//! - `requestTimeout` (30s): for getting it from a URL.
//! - `minRefreshInterval` (10m): the set is got from its URL at most this often.
//!
//! A file is read anew for every use, so that a replaced one counts at once. A set from a URL is got
//! when the component opens, and again when a key is used after the interval: a key that is known is
//! used meanwhile, for one that is not the call waits. If the URL cannot be reached then, the set
//! that is known stays in use. A process in which nobody encrypts sends nothing.

use super::jwk::{Set, parse_set};
use super::keys::Key;
use super::local::{Source, blocking, provider};
use super::{Fetch, Opening};
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use async_trait::async_trait;
use base64::alphabet::STANDARD;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Largest set in bytes, as text.
pub const SET_BYTES_MAX: usize = 256 << 10;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);

/// Opens it.
pub fn open(options: &Options, fetch: Arc<dyn Fetch>) -> Opening<'_> {
    Box::pin(async move {
        let location = options.required("jwks")?;
        let timeout = options.duration("requestTimeout", REQUEST_TIMEOUT)?;
        let interval = options.duration("minRefreshInterval", REFRESH_INTERVAL)?;
        if location.starts_with("http://") || location.starts_with("https://") {
            // Dapr takes shorter ones for not given.
            let given = |time, least, default| if time < least { default } else { time };
            let timeout = given(timeout, Duration::from_millis(1), REQUEST_TIMEOUT);
            let interval = given(interval, Duration::from_secs(1), REFRESH_INTERVAL);
            let source = Url { url: location.to_owned(), timeout, fetch };
            return Ok(provider(Remote::open(source, interval).await?));
        }
        if Path::new(location).is_file() {
            let file = File { path: PathBuf::from(location) };
            // What is wrong with it is told now.
            file.set().await?;
            return Ok(provider(file));
        }
        Ok(provider(Inline { set: inline(location)? }))
    })
}

fn inline(text: &str) -> Result<Set> {
    if text.len() > SET_BYTES_MAX {
        return Err(too_large());
    }
    let decoded = super::keys::decode(&STANDARD, text.trim().trim_end_matches('=').as_bytes());
    let set = decoded.as_deref().unwrap_or(text.as_bytes());
    parse_set(set).map_err(|error| {
        error.context("metadata 'jwks' is no URL, no path of a file and no set of keys")
    })
}

fn find(set: &Set, name: &str) -> Result<Arc<Key>> {
    set.get(name).cloned().ok_or_else(missing)
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "key not found")
}

fn too_large() -> Error {
    let text = format!("the set of keys is larger than {SET_BYTES_MAX} bytes");
    Error::new(Kind::TooLarge, text)
}

struct Inline {
    set: Set,
}

#[async_trait]
impl Source for Inline {
    async fn key(&self, name: &str) -> Result<Arc<Key>> {
        find(&self.set, name)
    }
}

struct File {
    path: PathBuf,
}

impl File {
    async fn set(&self) -> Result<Set> {
        let path = self.path.clone();
        blocking(move || {
            let named = |error: Error| error.context(format_args!("jwks {}", path.display()));
            let mut text = Vec::new();
            let file = std::fs::File::open(&path).map_err(|error| named(error.into()))?;
            let mut limited = file.take(SET_BYTES_MAX as u64 + 1);
            limited.read_to_end(&mut text).map_err(|error| named(error.into()))?;
            if text.len() > SET_BYTES_MAX {
                return Err(named(too_large()));
            }
            parse_set(&text).map_err(named)
        })
        .await
    }
}

#[async_trait]
impl Source for File {
    async fn key(&self, name: &str) -> Result<Arc<Key>> {
        find(&self.set().await?, name)
    }
}

#[derive(Clone)]
struct Url {
    url: String,
    timeout: Duration,
    fetch: Arc<dyn Fetch>,
}

impl Url {
    async fn set(&self) -> Result<Set> {
        let got =
            tokio::time::timeout(self.timeout, self.fetch.get(&self.url, SET_BYTES_MAX)).await;
        let text = got.unwrap_or_else(|_| {
            Err(Error::new(Kind::Timeout, format!("no answer within {:?}", self.timeout)))
        });
        let text = text.map_err(|error| error.context(format_args!("jwks {}", self.url)))?;
        // A set of many RSA keys takes a while to check.
        blocking(move || parse_set(&text)).await.map_err(|error| error.context(&self.url))
    }
}

/// A set that is got again and again.
struct Remote {
    source: Url,
    interval: Duration,
    state: Arc<Mutex<State>>,
}

struct State {
    set: Arc<Set>,
    /// When the set was last asked for, with or without success.
    asked: Instant,
    /// One at a time; whoever needs its result waits for `done`.
    refresh: Option<JoinHandle<()>>,
    done: tokio::sync::watch::Sender<u64>,
}

impl Remote {
    async fn open(source: Url, interval: Duration) -> Result<Self> {
        if source.url.starts_with("http://") {
            tracing::warn!(
                "keys come from {} without TLS: anybody on the way can change them",
                source.url
            );
        }
        let set = Arc::new(source.set().await?);
        let (done, _) = tokio::sync::watch::channel(0);
        let state = State { set, asked: Instant::now(), refresh: None, done };
        Ok(Self { source, interval, state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is known of a name, and, where the set is being got again, the end of that.
    fn look(&self, name: &str) -> (Option<Arc<Key>>, Option<tokio::sync::watch::Receiver<u64>>) {
        let mut state = self.state();
        let known = state.set.get(name).cloned();
        let running = state.refresh.as_ref().is_some_and(|task| !task.is_finished());
        if !running && state.asked.elapsed() < self.interval {
            return (known, None);
        }
        let mut receiver = state.done.subscribe();
        receiver.mark_unchanged();
        if !running {
            state.asked = Instant::now();
            state.refresh = Some(tokio::spawn(refresh(self.source.clone(), self.state.clone())));
        }
        (known, Some(receiver))
    }
}

async fn refresh(source: Url, state: Arc<Mutex<State>>) {
    let got = source.set().await;
    let mut state = lock(&state);
    match got {
        Ok(set) => state.set = Arc::new(set),
        Err(error) => tracing::warn!("the known keys stay in use: {error}"),
    }
    state.done.send_modify(|count| *count += 1);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(task) = self.state().refresh.take() {
            task.abort();
        }
    }
}

#[async_trait]
impl Source for Remote {
    async fn key(&self, name: &str) -> Result<Arc<Key>> {
        match self.look(name) {
            (Some(key), _) => Ok(key),
            (None, None) => Err(missing()),
            (None, Some(mut end)) => {
                // The sender lives as long as we do.
                let _ = end.changed().await;
                find(&self.state().set, name)
            }
        }
    }
}
