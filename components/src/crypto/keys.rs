//! One key: read from a file's text, asked for what it may do, wrapping other keys.

use super::{Algorithm, Zeroizing, jwk, pem};
use crate::error::{Error, Kind, Result};
use aes_kw::{KeyInit, KwAes256};
use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rsa::sha2::Sha256;
use rsa::{BoxedUint, PrivateKey, PublicKey};

/// Bytes by which AES key wrap makes a key longer.
const KEY_WRAP_BYTES: usize = 8;
/// Largest number of an RSA key in bytes: 4096 bits.
const RSA_BYTES_MAX: usize = 512;
/// Largest key that is unwrapped, in bytes: far more than any that is wrapped here.
const WRAPPED_BYTES_MAX: usize = 4096;

/// What is asked of a key, by the words of RFC 7517.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    WrapKey,
    UnwrapKey,
}

impl Operation {
    const fn word(self) -> &'static str {
        match self {
            Self::WrapKey => "wrapKey",
            Self::UnwrapKey => "unwrapKey",
        }
    }
}

/// The numbers themselves.
pub(super) enum Material {
    Symmetric(Zeroizing<Vec<u8>>),
    RsaPublic(PublicKey),
    RsaPrivate(Box<PrivateKey>),
    /// Of a kind that wraps nothing here: elliptic curves.
    Other,
}

/// Limits that a key carries itself; empty ones allow everything.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) usage: Option<String>,
    pub(super) operations: Vec<String>,
    pub(super) algorithm: Option<String>,
}

/// A key with its limits.
pub(super) struct Key {
    pub(super) material: Material,
    pub(super) limits: Limits,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How the bytes of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Jwk,
    Pem,
    /// A JWK begins with `{`, a PEM with `-----`; anything else is a symmetric key, in base64 or raw.
    Guess,
}

impl Key {
    /// Reads a key.
    pub(super) fn parse(bytes: &[u8], form: Form) -> Result<Self> {
        if bytes.is_empty() {
            return Err(invalid("key is empty"));
        }
        // A raw key may begin with any byte, but has one of three lengths.
        let is_raw_length = matches!(bytes.len(), 16 | 24 | 32);
        match form {
            Form::Jwk => jwk::parse_key(bytes),
            Form::Pem => pem::parse(bytes),
            Form::Guess if bytes.starts_with(b"{") && !is_raw_length => jwk::parse_key(bytes),
            Form::Guess if bytes.len() > 10 && bytes.starts_with(b"-----") => pem::parse(bytes),
            Form::Guess => Ok(parse_symmetric(bytes).into()),
        }
    }

    /// Whether the arithmetic takes long enough to be done elsewhere than on the event loop.
    pub(super) const fn is_slow(&self) -> bool {
        matches!(self.material, Material::RsaPublic(_) | Material::RsaPrivate(_))
    }

    /// Whether the key says itself that it may be used so.
    pub(super) fn check(&self, operation: Operation, algorithm: Algorithm) -> Result<()> {
        let Limits { usage, operations, algorithm: only } = &self.limits;
        let word = operation.word();
        let named = operations.is_empty() || operations.iter().any(|one| one == word);
        if !named || usage.as_deref().is_some_and(|usage| usage != "enc") {
            let text = format!("key cannot perform the '{word}' operation");
            return Err(Error::new(Kind::Denied, text));
        }
        if only.as_deref().is_some_and(|only| only != algorithm.name()) {
            let text = format!("key cannot be used with algorithm '{}'", algorithm.name());
            return Err(Error::new(Kind::Denied, text));
        }
        Ok(())
    }

    /// Wraps `key`.
    pub(super) fn wrap(&self, algorithm: Algorithm, key: &[u8]) -> Result<Vec<u8>> {
        let wrapped = match algorithm {
            Algorithm::A256Kw => self.key_wrap().and_then(|kw| kw.wrap(key)),
            Algorithm::RsaOaep256 => self.public().and_then(|public| {
                public.oaep_encrypt::<Sha256>(key).map_err(|error| invalid(error.to_string()))
            }),
            _ => Err(self.no_nonce(algorithm)),
        };
        wrapped.map_err(|error| error.context("failed to encrypt data"))
    }

    /// Unwraps a key.
    pub(super) fn unwrap(
        &self,
        algorithm: Algorithm,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let key = match algorithm {
            _ if wrapped.len() > WRAPPED_BYTES_MAX => Err(invalid("it is too long")),
            Algorithm::A256Kw => self.key_wrap().and_then(|kw| kw.unwrap(wrapped)),
            // Blinded with fresh randomness each time.
            Algorithm::RsaOaep256 => self.private().and_then(|private| {
                let key = private.oaep_decrypt::<Sha256>(wrapped);
                key.map(Zeroizing::new).map_err(|_| invalid("decryption error"))
            }),
            _ => Err(self.no_nonce(algorithm)),
        };
        key.map_err(|error| error.context("failed to decrypt data"))
    }

    fn public(&self) -> Result<&PublicKey> {
        match &self.material {
            Material::RsaPublic(public) => Ok(public),
            Material::RsaPrivate(private) => Ok(private.as_public_key()),
            _ => Err(mismatch()),
        }
    }

    fn private(&self) -> Result<&PrivateKey> {
        match &self.material {
            Material::RsaPrivate(private) => Ok(private),
            _ => Err(mismatch()),
        }
    }

    fn key_wrap(&self) -> Result<KeyWrap> {
        let Material::Symmetric(key) = &self.material else { return Err(mismatch()) };
        KwAes256::new_from_slice(key).map(KeyWrap).map_err(|_| mismatch())
    }

    /// AES-CBC needs a nonce, and the scheme has no place for one: nobody can wrap with it, Dapr
    /// cannot either. A nonce that is always the same would be one that nobody else knows of.
    fn no_nonce(&self, algorithm: Algorithm) -> Error {
        let bytes = match algorithm {
            Algorithm::A128CbcNoPad => 16,
            Algorithm::A192CbcNoPad => 24,
            _ => 32,
        };
        match &self.material {
            Material::Symmetric(key) if key.len() == bytes => invalid("invalid nonce"),
            _ => invalid("key type mismatch"),
        }
    }
}

/// RFC 3394.
struct KeyWrap(KwAes256);

impl KeyWrap {
    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>> {
        let mut wrapped = vec![0; key.len() + KEY_WRAP_BYTES];
        match self.0.wrap_key(key, &mut wrapped) {
            Ok(_) => Ok(wrapped),
            Err(error) => Err(invalid(error.to_string())),
        }
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Some(length) = wrapped.len().checked_sub(KEY_WRAP_BYTES) else {
            return Err(invalid("it is too short"));
        };
        let mut key = Zeroizing::new(vec![0; length]);
        match self.0.unwrap_key(wrapped, &mut key) {
            Ok(_) => Ok(key),
            Err(error) => Err(invalid(error.to_string())),
        }
    }
}

impl From<Material> for Key {
    fn from(material: Material) -> Self {
        Self { material, limits: Limits::default() }
    }
}

pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Invalid, message)
}

fn mismatch() -> Error {
    invalid("key type mismatch")
}

/// The numbers of an RSA key, big-endian.
pub(super) struct Numbers<'a> {
    pub(super) n: &'a [u8],
    pub(super) e: &'a [u8],
    /// The private exponent and the primes; without those they are found from the other numbers.
    pub(super) private: Option<(&'a [u8], &'a [&'a [u8]])>,
}

impl Numbers<'_> {
    /// The key, if it is one of 2048 to 4096 bits whose numbers fit each other.
    pub(super) fn material(&self) -> Option<Material> {
        let bits = |bytes: &[u8]| u32::try_from(bytes.len().checked_mul(8)?).ok();
        if self.n.len() > RSA_BYTES_MAX || self.e.len() > RSA_BYTES_MAX {
            return None;
        }
        let n = BoxedUint::from_be_slice(self.n, bits(self.n)?).ok()?;
        let e = BoxedUint::from_be_slice(self.e, bits(self.e)?).ok()?;
        let Some((d, primes)) = self.private else {
            return PublicKey::new(n, e).ok().map(Material::RsaPublic);
        };
        let like_n = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, bits(self.n)?).ok();
        let primes = primes.iter().map(|prime| like_n(prime)).collect::<Option<_>>()?;
        let key = PrivateKey::from_components(n, e, like_n(d)?, primes).ok()?;
        Some(Material::RsaPrivate(Box::new(key)))
    }
}

/// Base64 of either alphabet, with or without padding and a line end; else the bytes themselves.
fn parse_symmetric(bytes: &[u8]) -> Material {
    let end = bytes.iter().rposition(|byte| !b"\r\n=".contains(byte)).map_or(0, |last| last + 1);
    let trimmed = bytes.get(..end).unwrap_or_default();
    let decoded = [&STANDARD, &URL_SAFE].into_iter().find_map(|alphabet| decode(alphabet, trimmed));
    Material::Symmetric(Zeroizing::new(decoded.unwrap_or_else(|| bytes.to_vec())))
}

/// Decodes base64 without padding, as leniently as Go does.
pub(super) fn decode(alphabet: &Alphabet, text: &[u8]) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symmetric(bytes: &[u8]) -> Vec<u8> {
        match Key::parse(bytes, Form::Guess).unwrap().material {
            Material::Symmetric(key) => key.to_vec(),
            _ => panic!("not symmetric"),
        }
    }

    #[test]
    fn a_symmetric_key_is_base64_or_raw() {
        let key: Vec<u8> = (200..232).collect();
        let encoded = base64::engine::general_purpose::STANDARD.encode(&key);
        let safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&key);
        assert_eq!(symmetric(encoded.as_bytes()), key);
        assert_eq!(symmetric(format!("{encoded}\n").as_bytes()), key);
        assert_eq!(symmetric(safe.as_bytes()), key);
        assert_eq!(symmetric(&key), key);
        let odd = b"{---------------";
        assert_eq!(symmetric(odd), odd, "16 bytes are a key whatever they begin with");
        assert!(Key::parse(b"", Form::Guess).is_err());
    }

    /// Section 4.6 of RFC 3394.
    #[test]
    fn key_wrap_is_that_of_the_standard() {
        let hex = |text: &str| -> Vec<u8> {
            let pairs = text.as_bytes().chunks(2);
            pairs
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        let kek = hex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
        let data = hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
        let wrapped = hex(concat!(
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326",
            "CBC7F0E71A99F43BFB988B9B7A02DD21"
        ));
        let key = Key::from(Material::Symmetric(Zeroizing::new(kek)));
        assert_eq!(key.wrap(Algorithm::A256Kw, &data).unwrap(), wrapped);
        assert_eq!(*key.unwrap(Algorithm::A256Kw, &wrapped).unwrap(), data);
    }

    #[test]
    fn cbc_has_no_nonce_and_sizes_must_fit() {
        let key = |bytes: usize| Key::from(Material::Symmetric(Zeroizing::new(vec![1; bytes])));
        let told = |bytes, algorithm| key(bytes).wrap(algorithm, &[0; 32]).unwrap_err();
        for (bytes, algorithm) in [
            (16, Algorithm::A128CbcNoPad),
            (24, Algorithm::A192CbcNoPad),
            (32, Algorithm::A256CbcNoPad),
        ] {
            let expected = "failed to encrypt data: invalid nonce";
            assert_eq!(told(bytes, algorithm).message(), expected);
            assert!(told(bytes + 1, algorithm).message().contains("key type mismatch"));
        }
        for (bytes, algorithm) in [(16, Algorithm::A256Kw), (32, Algorithm::RsaOaep256)] {
            assert!(told(bytes, algorithm).message().contains("key type mismatch"));
        }
    }

    #[test]
    fn debug_output_has_no_key() {
        let key = Key::from(Material::Symmetric(Zeroizing::new(b"hunter2".to_vec())));
        assert!(!format!("{key:?}").contains("104, 117"), "{key:?}");
    }
}
