//! The segments of a message, turned one by one: bytes in, bytes out.
//!
//! ```text
//! plain      64 KiB | 64 KiB | … | 1 byte to 64 KiB          an empty message has no segment
//! encrypted  each with 16 bytes of tag behind it
//! nonce      prefix (7) | index (4, big endian) | 1 for the last one, else 0
//! ```
//!
//! As the nonce has the place and the end in it, a segment that was moved, repeated or left out does
//! not open, nor does the one before a cut.

use super::header::NONCE_PREFIX_BYTES;
use bytes::{Buf, Bytes};
use ring::aead::{Aad, LessSafeKey, Nonce};

/// Plain bytes of a segment.
pub(super) const SEGMENT_BYTES: usize = 64 << 10;
/// Bytes by which encryption makes a segment longer.
pub(super) const TAG_BYTES: usize = 16;
/// First size of the buffer: most messages are small.
const BUFFER_BYTES_MIN: usize = 1 << 10;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

/// Turns a message.
pub(super) struct Segments {
    key: LessSafeKey,
    nonce_prefix: [u8; NONCE_PREFIX_BYTES],
    direction: Direction,
    /// Of the segment that is being collected; `None` after the last there can be.
    index: Option<u32>,
    buffer: Vec<u8>,
}

impl Segments {
    pub(super) fn new(
        key: LessSafeKey,
        nonce_prefix: [u8; NONCE_PREFIX_BYTES],
        direction: Direction,
    ) -> Self {
        Self { key, nonce_prefix, direction, index: Some(0), buffer: Vec::new() }
    }

    /// Takes bytes until there is a segment to give; call again while any are left. A full segment is
    /// given once there is more behind it: until then it may be the last. After an error nothing more
    /// may be asked.
    pub(super) fn take(&mut self, bytes: &mut Bytes) -> Result<Option<Bytes>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let whole = self.whole();
        if self.buffer.len() == whole {
            return self.turn(false).map(Some);
        }
        let count = bytes.len().min(whole - self.buffer.len());
        self.make_room(count);
        if let Some(taken) = bytes.get(..count) {
            self.buffer.extend_from_slice(taken);
        }
        bytes.advance(count);
        Ok(None)
    }

    /// The last segment; none if the message is empty.
    pub(super) fn finish(mut self) -> Result<Option<Bytes>, String> {
        if self.buffer.is_empty() { Ok(None) } else { self.turn(true).map(Some) }
    }

    fn whole(&self) -> usize {
        match self.direction {
            Direction::Encrypt => SEGMENT_BYTES,
            Direction::Decrypt => SEGMENT_BYTES + TAG_BYTES,
        }
    }

    /// Grows in a few steps to what a segment takes, never over it.
    fn make_room(&mut self, count: usize) {
        let needed = self.buffer.len() + count;
        if needed + TAG_BYTES > self.buffer.capacity() {
            let size =
                needed.next_power_of_two().clamp(BUFFER_BYTES_MIN, SEGMENT_BYTES) + TAG_BYTES;
            self.buffer.reserve_exact(size.max(needed) - self.buffer.len());
        }
    }

    fn turn(&mut self, last: bool) -> Result<Bytes, String> {
        let Some(index) = self.index else { return Err("input stream is too large".to_owned()) };
        let mut nonce = [0; 12];
        let parts = self.nonce_prefix.into_iter().chain(index.to_be_bytes()).chain([last.into()]);
        for (place, byte) in nonce.iter_mut().zip(parts) {
            *place = byte;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.direction {
            Direction::Encrypt => self
                .key
                .seal_in_place_append_tag(nonce, Aad::empty(), &mut buffer)
                .map_err(|_| format!("segment {index}: failed to encrypt segment"))?,
            Direction::Decrypt => {
                let plain = self
                    .key
                    .open_in_place(nonce, Aad::empty(), &mut buffer)
                    .map_err(|_| format!("segment {index}: failed to decrypt segment"))?
                    .len();
                buffer.truncate(plain);
            }
        }
        self.index = index.checked_add(1);
        Ok(buffer.into())
    }
}

/// Bytes of the segments of a plain message.
pub(super) const fn encrypted_length(plain: u64) -> u64 {
    plain.saturating_add(plain.div_ceil(SEGMENT_BYTES as u64).saturating_mul(TAG_BYTES as u64))
}

/// Bytes of the message in segments of this length; `None` if no message has such.
pub(super) const fn decrypted_length(encrypted: u64) -> Option<u64> {
    let tags = encrypted.div_ceil((SEGMENT_BYTES + TAG_BYTES) as u64) * TAG_BYTES as u64;
    let last = encrypted % (SEGMENT_BYTES + TAG_BYTES) as u64;
    if last > 0 && last < TAG_BYTES as u64 { None } else { encrypted.checked_sub(tags) }
}
