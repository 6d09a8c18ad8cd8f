//! A public key that may sign updates, as a Gateway names it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::PathBuf;

/// What stands before the 32 bytes of an ed25519 key in its DER form (RFC 8410).
const DER_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateKey {
    /// Its bytes.
    Bytes([u8; 32]),
    /// The PEM file that holds it; read when it is needed.
    File(PathBuf),
}

impl UpdateKey {
    /// How to write one.
    pub const FORM: &str =
        "the base64 line that `openssl pkey -in KEY -pubout` prints, or the whole name of its file";

    /// Reads the base64 of 32 bytes or of their DER form, or a whole file name.
    pub fn parse(text: &str) -> Option<Self> {
        let decoded = STANDARD.decode(text).ok();
        let bytes = decoded
            .as_deref()
            .and_then(|bytes| bytes.strip_prefix(&DER_PREFIX[..]).unwrap_or(bytes).try_into().ok());
        match bytes {
            Some(bytes) => Some(Self::Bytes(bytes)),
            None => text.starts_with('/').then(|| Self::File(text.into())),
        }
    }

    /// Reads the text of a PEM file.
    pub fn parse_pem(text: &str) -> Option<[u8; 32]> {
        let (_, body) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
        let (body, _) = body.split_once("-----END PUBLIC KEY-----")?;
        match Self::parse(&body.split_whitespace().collect::<String>())? {
            Self::Bytes(bytes) => Some(bytes),
            Self::File(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_each_of_its_forms() {
        let raw = STANDARD.encode([7; 32]);
        // As `openssl pkey -pubout` prints it.
        let der = STANDARD.encode([&DER_PREFIX[..], &[7; 32]].concat());
        assert!(der.starts_with("MCowBQYDK2VwAyEA"));
        for text in [&raw, &der] {
            assert_eq!(UpdateKey::parse(text), Some(UpdateKey::Bytes([7; 32])), "{text}");
        }
        assert_eq!(UpdateKey::parse("/a.pem"), Some(UpdateKey::File("/a.pem".into())));
        for text in ["", "AAAA", "key.pem", &raw[1..], &der[..59]] {
            assert_eq!(UpdateKey::parse(text), None, "{text}");
        }
        let pem = |body: &str, end: &str| {
            UpdateKey::parse_pem(&format!("-----BEGIN PUBLIC KEY-----\n{body}\n{end}"))
        };
        let end = "-----END PUBLIC KEY-----\n";
        assert_eq!(pem(&der, end), Some([7; 32]));
        for (body, end) in [("/a.pem", end), (&der, ""), ("AAAA", end)] {
            assert_eq!(pem(body, end), None, "{body}");
        }
    }
}
