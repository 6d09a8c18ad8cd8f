//! Cryptography: streams that are encrypted and decrypted with the keys of crypto providers.
//!
//! The format is `dapr.io/enc/v1`: [`header`] has its first lines and the key of a message,
//! [`segments`] turns what follows, [`pump`] lets a body of any size flow through that in bounded
//! memory. A provider is asked once per message, to wrap or unwrap the message's key.

mod header;
mod pump;
mod segments;
#[cfg(test)]
mod tests;

use super::record::{Families, Recorder};
use super::{CryptoProviders, Registered};
use crate::app::App;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use crate::observe::metrics::families::{CRYPTO_COUNT, CRYPTO_LATENCY};
use header::{Cipher, FileKey, Header, Manifest};
use hyper::body::Body as _;
use pillion_components::crypto::{Algorithm, CryptoProvider};
use pump::{Pump, Queued};
use segments::Direction;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

const NOT_CONFIGURED: Code =
    Code::plain("ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", 500, Grpc::Internal);
const NOT_FOUND: Code = Code::plain("ERR_CRYPTO_PROVIDER_NOT_FOUND", 400, Grpc::InvalidArgument);
const FAILED: Code = Code::plain("ERR_CRYPTO", 500, Grpc::Internal);

/// The operation's name in metrics: Dapr has one for all.
const OPERATION: &str = "crypto_op";

/// The block.
pub struct Crypto {
    providers: CryptoProviders,
    recorders: BTreeMap<Arc<str>, Recorder>,
    queued: Queued,
}

/// What an app chooses for a message.
#[derive(Debug, Default, Clone)]
pub struct Encryption {
    /// The provider's key that wraps the message's.
    pub key_name: String,
    /// How it wraps it: a name of [`Algorithm`] or an alias, case does not matter.
    pub algorithm: String,
    /// What encrypts the message; `None` for AES-GCM.
    pub cipher: Option<String>,
    /// Leaves the name of the key out of the message.
    pub omit_key_name: bool,
    /// The name that goes into the message instead of `key_name`.
    pub decryption_key_name: Option<String>,
}

/// A provider as one app sees it.
pub struct Provider<'a> {
    app: &'a App,
    registered: &'a Registered<dyn CryptoProvider>,
    recorder: &'a Recorder,
    queued: &'a Queued,
}

impl Crypto {
    /// Cryptography with these providers.
    pub fn new(providers: CryptoProviders) -> Self {
        let recorder = |registered: &Registered<dyn CryptoProvider>| {
            let families = Families { count: &CRYPTO_COUNT, latency: &CRYPTO_LATENCY };
            (registered.name.clone(), Recorder::new(families, registered.name.clone()))
        };
        let recorders = providers.all().map(recorder).collect();
        Self { providers, recorders, queued: Queued::default() }
    }

    /// The provider of this name, if the app may see it.
    pub fn provider<'a>(&'a self, app: &'a App, name: &str) -> Result<Provider<'a>> {
        if let Some((registered, recorder)) =
            self.providers.get(app, name).zip(self.recorders.get(name))
        {
            return Ok(Provider { app, registered, recorder, queued: &self.queued });
        }
        if self.providers.visible_to(app).next().is_none() {
            return Err(Error::new(NOT_CONFIGURED, "crypto providers not configured"));
        }
        Err(Error::new(NOT_FOUND, format!("crypto provider {name} not found")))
    }
}

impl Provider<'_> {
    /// Encrypts a message of any length. What goes wrong once the result flows ends it with an
    /// error: a key or an algorithm that is no good is told here.
    pub async fn encrypt(&self, chosen: Encryption, plain: Body) -> Result<Body> {
        let name = chosen.algorithm.to_ascii_uppercase();
        let Some(algorithm) = Algorithm::from_name(&name) else {
            let what = "option Algorithm is not valid";
            return Err(failed(format_args!("{what}: algorithm {name} is not supported")));
        };
        let cipher = chosen.cipher.map_or(Ok(Cipher::AesGcm), |cipher| {
            let name = cipher.to_ascii_uppercase();
            Cipher::from_name(&name).ok_or_else(|| {
                failed(format_args!("option Cipher is not valid: cipher {name} is not supported"))
            })
        })?;

        let (key, nonce_prefix) = FileKey::random().map_err(failed)?;
        let wrapped =
            self.record(self.component().wrap_key(&chosen.key_name, algorithm, key.bytes()));
        let wrapped = wrapped
            .await
            .map_err(|error| failed(format_args!("failed to wrap the file key: {error}")))?;
        let key_name = match chosen.decryption_key_name.filter(|name| !name.is_empty()) {
            _ if chosen.omit_key_name => String::new(),
            Some(name) => name,
            None => chosen.key_name,
        };
        let manifest = Manifest { key_name, algorithm, wrapped, cipher, nonce_prefix };
        let header = key
            .sign(&manifest)
            .map_err(|error| failed(format_args!("failed to sign header: {error}")))?;
        let segments = key.segments(&manifest, Direction::Encrypt).map_err(failed)?;

        let length = plain.size_hint().exact().map(segments::encrypted_length);
        let length = length.map(|length| length.saturating_add(header.len() as u64));
        let mut pump = Pump::new(segments, self.queued);
        pump.before(header);
        Ok(pump.start(plain, length, self.registered.name.clone()))
    }

    /// Decrypts a message of any length, with the key that it names or that `key_name` names
    /// instead. Every segment is authentic before any of it comes out; one that is not, is missing or
    /// is out of place ends the result with an error. What cannot be told: a message that was cut right
    /// behind its header is an empty message, in this format.
    pub async fn decrypt(&self, key_name: Option<String>, mut encrypted: Body) -> Result<Body> {
        let length = encrypted.size_hint().exact();
        let (header, rest) = Header::read(&mut encrypted).await?;
        let manifest = header.manifest().map_err(failed)?;
        let key_name = key_name.filter(|name| !name.is_empty());
        let key_name = key_name.unwrap_or_else(|| manifest.key_name.clone());
        if key_name.is_empty() {
            return Err(failed(
                "document's manifest does not contain a key name, and no key name was provided",
            ));
        }
        let unwrapped = self.record(self.component().unwrap_key(
            &key_name,
            manifest.algorithm,
            &manifest.wrapped,
        ));
        // Which of a missing key, a wrong one and a changed message it was is not told: the answer
        // must not help anybody who tries keys. The log does.
        let key = unwrapped.await.map_err(|error| error.to_string());
        let key = key.and_then(|key| FileKey::new(&key).ok_or_else(|| "no file key".to_owned()));
        let key = key.unwrap_or_else(|error| {
            let name = &self.registered.name;
            tracing::debug!("crypto {name}: the key of a message cannot be had: {error}");
            FileKey::nobodys()
        });
        key.verify(&header).map_err(failed)?;
        let segments = key.segments(&manifest, Direction::Decrypt).map_err(failed)?;

        let length = length.and_then(|length| {
            segments::decrypted_length(length.checked_sub(header.length() as u64)?)
        });
        let mut pump = Pump::new(segments, self.queued);
        pump.first(rest);
        Ok(pump.start(encrypted, length, self.registered.name.clone()))
    }

    fn component(&self) -> &dyn CryptoProvider {
        &*self.registered.component
    }

    async fn record<T>(
        &self,
        call: impl Future<Output = pillion_components::Result<T>>,
    ) -> pillion_components::Result<T> {
        let started = Instant::now();
        let result = call.await;
        self.recorder.record(self.app, OPERATION, result.is_ok(), started.elapsed());
        result
    }
}

fn failed(error: impl fmt::Display) -> Error {
    Error::new(FAILED, format!("failed to perform operation: {error}"))
}
