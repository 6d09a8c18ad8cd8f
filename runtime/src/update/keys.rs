//! The public keys that may sign updates, from where the Gateway says they are.

use super::text;
use crate::resources::UpdateKey;
use std::fs::File;

/// Largest key file.
const FILE_BYTES_MAX: usize = 4 << 10;

/// The bytes of a key.
pub(super) fn read(key: &UpdateKey) -> Result<[u8; 32], String> {
    let path = match key {
        UpdateKey::Bytes(bytes) => return Ok(*bytes),
        UpdateKey::File(path) => path,
    };
    let shown = format!("spec.update.keys of the Gateway: {}", path.display());
    let read = File::open(path).and_then(|mut file| text::read(&mut file, FILE_BYTES_MAX));
    let pem = read.map_err(|error| format!("{shown}: {error}"))?;
    UpdateKey::parse_pem(&pem).ok_or_else(|| {
        format!("{shown} holds no ed25519 public key: write what `openssl pkey -pubout` prints")
    })
}
