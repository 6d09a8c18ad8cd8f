//! Bytes to packets and back, for MQTT 3.1.1 and 5.
//!
//! A packet on the wire (numbers are big-endian, strings carry a two-byte length):
//!
//! ```text
//! +----------------+------------------+-----------------+--------------+---------+
//! | type 4 flags 4 | remaining 1..4 B | variable header | properties 5 | payload |
//! +----------------+------------------+-----------------+--------------+---------+
//! ```
//!
//! Decoding checks everything that the standards call malformed: reserved bits, lengths, UTF-8,
//! packet ids, which property may stand where and how often. What it hands out owns its bytes, so
//! that no packet keeps a read buffer alive. It never panics on what a peer sent.

mod decode;
mod encode;
mod properties;
#[cfg(test)]
mod tests;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, encoded_len};

use crate::broker::packet::Reason;

/// User properties in one packet, and filters in one SUBSCRIBE or UNSUBSCRIBE: what a few bytes on
/// the wire cost in memory is bounded.
const LIST_MAX: usize = 512;

/// Largest value of a variable byte integer.
const VARINT_MAX: u32 = 268_435_455;

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    /// What to tell an MQTT 5 client.
    pub(crate) reason: Reason,
    /// What to tell the log.
    pub(crate) why: &'static str,
}

impl Bad {
    /// Bytes that no version allows.
    const fn malformed(why: &'static str) -> Self {
        Self { reason: Reason::MALFORMED, why }
    }

    /// A packet that its sender must not send.
    const fn protocol(why: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL_ERROR, why }
    }
}

/// The rest of a packet, read from the front. Every read is checked.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Bad> {
        let (head, tail) =
            self.0.split_at_checked(length).ok_or(Bad::malformed("ends before its fields do"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (head, tail) =
            self.0.split_first_chunk().ok_or(Bad::malformed("ends before its fields do"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Bad> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Bad> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Bad> {
        self.array().map(u32::from_be_bytes)
    }

    fn packet_id(&mut self) -> Result<u16, Bad> {
        match self.u16()? {
            0 => Err(Bad::malformed("packet id 0")),
            id => Ok(id),
        }
    }

    fn varint(&mut self) -> Result<u32, Bad> {
        let (value, length) = varint(self.0)?.ok_or(Bad::malformed("ends within a length"))?;
        self.take(length)?;
        Ok(value)
    }

    fn binary(&mut self) -> Result<&'a [u8], Bad> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Result<&'a str, Bad> {
        let text = std::str::from_utf8(self.binary()?)
            .map_err(|_| Bad::malformed("a string is not UTF-8"))?;
        if text.contains('\0') {
            return Err(Bad::malformed("a string holds a NUL character"));
        }
        Ok(text)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A variable byte integer at the start of `bytes` and its length; `None` while it is incomplete.
fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Bad> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(Bad::malformed("a length is longer than it needs to be"));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        Err(Bad::malformed("a length of more than four bytes"))
    } else {
        Ok(None)
    }
}
