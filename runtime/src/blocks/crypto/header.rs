//! The first lines of a message, and the key that comes of them.
//!
//! ```text
//! dapr.io/enc/v1                         name of the scheme
//! {"k":…,"kw":…,"wfk":…,"cph":…,"np":…}  manifest: key name, wrapping, wrapped file key, cipher, nonce
//! base64                                 HMAC-SHA-256 of the two lines above, line ends included
//! ```
//!
//! Every line ends with a line feed; all three have at most [`HEADER_BYTES_MAX`]. The file key is 32
//! random bytes. From it come two keys by HKDF-SHA-256: that of the HMAC (no salt, info `header`) and
//! that of the segments (salt is the nonce's prefix, info `payload`).

use super::segments::{Direction, Segments};
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use pillion_components::crypto::{Algorithm, Zeroizing};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{aead, hkdf, hmac};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The first line.
const SCHEME: &[u8] = b"dapr.io/enc/v1";
/// Longest header in bytes, by the scheme.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Longest time until the header has come.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
const FILE_KEY_BYTES: usize = 32;
/// Bytes of a nonce that all segments of a message share.
pub(super) const NONCE_PREFIX_BYTES: usize = 7;

/// As for any body that cannot be read.
const BODY_READ: Code = Code::plain("ERR_BODY_READ", 400, Grpc::InvalidArgument);

/// What encrypts the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    AesGcm = 1,
    ChaCha20Poly1305 = 2,
}

impl Cipher {
    const ALL: [Self; 2] = [Self::AesGcm, Self::ChaCha20Poly1305];

    /// By its name in capitals.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "AES-GCM" => Some(Self::AesGcm),
            "CHACHA20-POLY1305" => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::AesGcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// The second line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Empty when the message does not name its key.
    pub(super) key_name: String,
    pub(super) algorithm: Algorithm,
    pub(super) wrapped: Vec<u8>,
    pub(super) cipher: Cipher,
    pub(super) nonce_prefix: [u8; NONCE_PREFIX_BYTES],
}

/// The second line as JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<String>,
    kw: u64,
    wfk: String,
    cph: u64,
    np: String,
}

impl Manifest {
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Written {
            k: Some(self.key_name.clone()).filter(|name| !name.is_empty()),
            kw: self.algorithm.number().into(),
            wfk: STANDARD.encode(&self.wrapped),
            cph: self.cipher as u64,
            np: STANDARD.encode(self.nonce_prefix),
        })
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(line).ok()?;
        let wrapped = STANDARD.decode(written.wfk).ok().filter(|key| !key.is_empty())?;
        Some(Self {
            key_name: written.k.unwrap_or_default(),
            algorithm: Algorithm::from_number(written.kw)?,
            wrapped,
            cipher: Cipher::ALL.into_iter().find(|one| *one as u64 == written.cph)?,
            nonce_prefix: STANDARD.decode(written.np).ok()?.try_into().ok()?,
        })
    }
}

/// The three lines, as they came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The first two, with their line ends: what the third is the code of.
    signed: Bytes,
    manifest: Bytes,
    code: Bytes,
}

impl Header {
    /// Reads the header off a body and leaves what follows; what was read too much is given back.
    pub(super) async fn read(body: &mut Body) -> Result<(Self, Bytes)> {
        let read = tokio::time::timeout(HEADER_TIMEOUT, Self::read_lines(body)).await;
        read.unwrap_or_else(|_| {
            let seconds = HEADER_TIMEOUT.as_secs();
            Err(body_error(format_args!("no end of the header in {seconds} s")))
        })
    }

    async fn read_lines(body: &mut Body) -> Result<(Self, Bytes)> {
        let mut lines = Lines::default();
        while !lines.complete()? {
            let Some(frame) = body.frame().await else { return Err(lines.incomplete()) };
            match frame {
                Ok(frame) => lines.take(&frame.into_data().unwrap_or_default()),
                Err(error) => return Err(body_error(error)),
            }
        }
        lines.split()
    }

    /// Bytes of all three lines.
    pub(super) fn length(&self) -> usize {
        self.signed.len() + self.code.len() + 1
    }

    /// What the second line says.
    pub(super) fn manifest(&self) -> Result<Manifest, &'static str> {
        // What is wrong with it is not told: it may be somebody's guess.
        Manifest::parse(&self.manifest).ok_or("invalid header: invalid manifest")
    }
}

fn body_error(error: impl std::fmt::Display) -> Error {
    Error::new(BODY_READ, format!("failed to read request body: {error}"))
}

/// The header as far as it has come.
#[derive(Default)]
pub(super) struct Lines {
    read: BytesMut,
    /// Where the lines found so far end, behind their line feeds.
    ends: Vec<usize>,
    /// Bytes that were looked at.
    seen: usize,
}

impl Lines {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
    }

    /// Looks at what is new; whether all three lines are there.
    pub(super) fn complete(&mut self) -> Result<bool> {
        let limit = self.read.len().min(HEADER_BYTES_MAX);
        while self.ends.len() < 3 && self.seen < limit {
            let new = self.read.get(self.seen..limit).unwrap_or_default();
            let Some(feed) = new.iter().position(|byte| *byte == b'\n') else {
                self.seen = limit;
                break;
            };
            let begin = self.ends.last().copied().unwrap_or_default();
            let end = self.seen + feed;
            let line = self.read.get(begin..end).unwrap_or_default();
            if line.is_empty() {
                return Err(super::failed("invalid header: invalid format"));
            }
            if self.ends.is_empty() && line != SCHEME {
                return Err(super::failed("invalid header: unsupported scheme"));
            }
            self.seen = end + 1;
            self.ends.push(self.seen);
        }
        if self.ends.len() < 3 && self.read.len() >= HEADER_BYTES_MAX {
            return Err(self.incomplete());
        }
        Ok(self.ends.len() == 3)
    }

    fn incomplete(&self) -> Error {
        let missing = ["scheme name", "manifest"].get(self.ends.len());
        let missing = missing.unwrap_or(&"message authentication code");
        super::failed(format_args!("invalid header: {missing} not found"))
    }

    /// The header and what came behind it.
    pub(super) fn split(self) -> Result<(Header, Bytes)> {
        let (Some(&scheme), Some(&manifest), Some(&code)) =
            (self.ends.first(), self.ends.get(1), self.ends.get(2))
        else {
            return Err(self.incomplete());
        };
        let mut read = self.read.freeze();
        let rest = read.split_off(code);
        let header = Header {
            signed: read.slice(..manifest),
            manifest: read.slice(scheme..manifest - 1),
            code: read.slice(manifest..code - 1),
        };
        Ok((header, rest))
    }
}

/// The key of one message.
pub(super) struct FileKey(Zeroizing<[u8; FILE_KEY_BYTES]>);

impl FileKey {
    /// A new one, with the prefix of its nonces.
    pub(super) fn random() -> Result<(Self, [u8; NONCE_PREFIX_BYTES]), &'static str> {
        let mut key = Zeroizing::new([0; FILE_KEY_BYTES]);
        let mut prefix = [0; NONCE_PREFIX_BYTES];
        let random = SystemRandom::new();
        random
            .fill(&mut *key)
            .and_then(|()| random.fill(&mut prefix))
            .map_err(|_| "failed to generate file key: the system has no random bytes")?;
        Ok((Self(key), prefix))
    }

    /// One that was unwrapped; `None` if it has another length.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// One that no message has, so that what cannot be unwrapped takes the same way as what can.
    pub(super) fn nobodys() -> Self {
        Self(Zeroizing::new([0; FILE_KEY_BYTES]))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    /// The three lines of a message with this manifest.
    pub(super) fn sign(&self, manifest: &Manifest) -> Result<Bytes, String> {
        let json = manifest.to_json().map_err(|error| error.to_string())?;
        let mut header = [SCHEME, b"\n", &json, b"\n"].concat();
        let code = hmac::sign(&self.header_key()?, &header);
        header.extend_from_slice(STANDARD.encode(code).as_bytes());
        header.push(b'\n');
        if header.len() > HEADER_BYTES_MAX {
            return Err("header is too long".to_owned());
        }
        Ok(header.into())
    }

    /// Whether the header was made with this key and not changed since.
    pub(super) fn verify(&self, header: &Header) -> Result<(), String> {
        let code = STANDARD.decode(&header.code).map_err(|error| {
            // The decoder's words would show a byte of the line.
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) => format!(" at input byte {at}"),
                _ => String::new(),
            };
            format!("failed to decode header's signature: illegal base64 data{at}")
        })?;
        hmac::verify(&self.header_key()?, &header.signed, &code)
            .map_err(|_| "failed to validate the document's signature".to_owned())
    }

    /// What turns the segments of a message with this manifest.
    pub(super) fn segments(
        &self,
        manifest: &Manifest,
        direction: Direction,
    ) -> Result<Segments, String> {
        let algorithm = manifest.cipher.algorithm();
        let key = self.derive(&manifest.nonce_prefix, b"payload")?;
        let key = aead::UnboundKey::new(algorithm, &*key).map_err(|_| "no key".to_owned())?;
        Ok(Segments::new(aead::LessSafeKey::new(key), manifest.nonce_prefix, direction))
    }

    fn header_key(&self) -> Result<hmac::Key, String> {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &*self.derive(&[], b"header")?))
    }

    fn derive(&self, salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
        let mut key = Zeroizing::new([0; 32]);
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&*self.0);
        extracted
            .expand(&[info], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut *key))
            .map_err(|_| "failed to derive a key".to_owned())?;
        Ok(key)
    }
}
