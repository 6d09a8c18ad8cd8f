//! An update image: one file, made by `cross/image`, whose head says what is in it and is signed.
//!
//! ```text
//! pillion-image/1                 the magic with the version of this form
//! version 0.2.0                   of the release
//! target aarch64                  as `pillion version` names it
//! profile default                 for people
//! storage 1-2                     formats of a data directory that it keeps
//! length 5928584                  of the binary, in bytes
//! sha256 4f0c…                    of the binary, in hex
//! signature VxQ7…                 ed25519 over every byte above this line, in base64
//! ELF…                            the binary, up to the end of the file
//! ```
//!
//! Lines end with a newline. Keys that this release does not know are passed over: they are
//! signed, and a later form may add some. No line of the head is believed before the signature is.

use super::{hex, text};
use crate::version::Version;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_components::storage::Formats;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// Largest head in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 4 << 10;

/// Largest binary in bytes: far above any build, far below what fills a gateway's flash.
const BINARY_BYTES_MAX: u64 = 64 << 20;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of an ELF header that say for which machine it is.
const ELF_BYTES: usize = 20;

const MAGIC: &str = "pillion-image/";
const FORM: &str = "1";

/// A SHA-256.
pub(super) type Sha256 = [u8; SHA256_OUTPUT_LEN];

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    pub(super) version: Version,
    pub(super) formats: Formats,
    pub(super) length: u64,
    pub(super) sha256: Sha256,
}

/// An image whose signature holds.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    pub(super) head: Head,
    /// Where the binary begins.
    at: u64,
}

impl Image {
    /// Reads the head, checks its signature against any of `keys`, then that the file is whole:
    /// its length, its hash, and that it is for this machine. The error says what is wrong and
    /// what to do.
    pub(super) fn open(file: File, keys: &[[u8; 32]]) -> Result<Self, String> {
        let bytes = file.metadata().map_err(|error| text::unreadable(&error))?.len();
        let mut start =
            vec![0; usize::try_from(bytes).unwrap_or(HEAD_BYTES_MAX).min(HEAD_BYTES_MAX)];
        file.read_exact_at(&mut start, 0).map_err(|error| text::unreadable(&error))?;
        let signed = Signed::split(&start)?;
        if !signed.is_by_any(keys) {
            return Err(
                "is signed by none of the keys in spec.update.keys of the Gateway, or was \
                        changed since: get it again, or add the key of who made it"
                    .into(),
            );
        }
        let head = signed.head()?;
        let at = signed.end as u64;
        let there = bytes.saturating_sub(at);
        if there != head.length {
            let length = head.length;
            return Err(format!(
                "holds {there} bytes of a binary of {length}: it is truncated or has something \
                 appended; get it again"
            ));
        }
        let image = Self { file, head, at };
        image.check_target()?;
        Ok(image)
    }

    fn check_target(&self) -> Result<(), String> {
        let mut elf = [0; ELF_BYTES];
        self.file.read_exact_at(&mut elf, self.at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "holds no program: get it again".to_owned(),
            _ => text::unreadable(&error),
        })?;
        let mut own = [0; ELF_BYTES];
        let exe = File::open("/proc/self/exe").and_then(|exe| exe.read_exact_at(&mut own, 0));
        exe.map_err(|error| format!("cannot be compared with the running binary: {error}"))?;
        // The head may name the right target and hold another binary.
        match machine(&elf) {
            None => Err("holds no program: get it again".into()),
            theirs if theirs == machine(&own) => Ok(()),
            Some((class, order, number)) => {
                let (bits, order) =
                    (32 * u16::from(class), if order == 1 { "" } else { ", big endian" });
                Err(for_another(&format!(
                    "another processor (ELF machine {number}, {bits} bits{order})"
                )))
            }
        }
    }

    /// Hands the binary over in pieces, and checks its hash at the end.
    pub(super) fn read(
        &self,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let mut hash = Context::new(&SHA256);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut done = 0;
        while done < self.head.length {
            let wanted = (self.head.length - done).min(CHUNK_BYTES as u64);
            let part = chunk.get_mut(..usize::try_from(wanted).unwrap_or(0)).unwrap_or_default();
            self.file.read_exact_at(part, self.at + done).map_err(ReadError::Image)?;
            hash.update(part);
            take(part).map_err(ReadError::Target)?;
            done += wanted;
        }
        match hash.finish().as_ref() == self.head.sha256 {
            true => Ok(()),
            false => Err(ReadError::Damaged),
        }
    }
}

/// Why a binary was not handed over.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The image could not be read.
    Image(io::Error),
    /// It was not taken.
    Target(io::Error),
    /// It is not what the head says.
    Damaged,
}

/// Class, byte order and machine of an ELF header.
fn machine(elf: &[u8; ELF_BYTES]) -> Option<(u8, u8, u16)> {
    let [0x7f, b'E', b'L', b'F', class, order, .., low, high] = *elf else { return None };
    let bytes = [low, high];
    let number = if order == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    Some((class, order, number))
}

/// The parts of a head, not yet believed.
struct Signed<'a> {
    lines: &'a [u8],
    signature: Vec<u8>,
    /// Where the binary begins.
    end: usize,
}

impl<'a> Signed<'a> {
    /// Finds the parts in the first bytes of a file.
    fn split(bytes: &'a [u8]) -> Result<Self, String> {
        let form = bytes.strip_prefix(MAGIC.as_bytes());
        let form = form.ok_or("is no update image: make one with cross/image")?;
        let form = form.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if form != FORM.as_bytes() {
            let form = String::from_utf8_lossy(form.get(..8).unwrap_or(form));
            return Err(format!(
                "is an image of form {}, and this release reads form {FORM}: make one for this \
                 release, or update in smaller steps",
                text::shown(&form)
            ));
        }
        let mut end = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let begin = end;
            end += line.len();
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if let Some(signature) = text.strip_prefix(b"signature ") {
                let signature = STANDARD.decode(signature).unwrap_or_default();
                return Ok(Self { lines: bytes.get(..begin).unwrap_or_default(), signature, end });
            }
        }
        Err("ends within its head: it is truncated; get it again".into())
    }

    fn is_by_any(&self, keys: &[[u8; 32]]) -> bool {
        let is_by = |key| UnparsedPublicKey::new(&ED25519, key).verify(self.lines, &self.signature);
        keys.iter().any(|key| is_by(key).is_ok())
    }

    /// What the lines say. What is wrong here was signed so.
    fn head(&self) -> Result<Head, String> {
        let text = std::str::from_utf8(self.lines).unwrap_or_default();
        let value = |key| value_of(text, key);
        let wrong = |key: &str| {
            format!(
                "has no line '{key}' that this release understands: make it again with cross/image"
            )
        };
        let version = value("version").and_then(Version::parse);
        let formats = value("storage").and_then(Formats::parse);
        let length = value("length").and_then(|text| text.parse().ok());
        let target = value("target").ok_or_else(|| wrong("target"))?;
        if target != std::env::consts::ARCH {
            return Err(for_another(target));
        }
        Ok(Head {
            version: version.ok_or_else(|| wrong("version"))?,
            formats: formats.ok_or_else(|| wrong("storage"))?,
            length: length.filter(|n| *n <= BINARY_BYTES_MAX).ok_or_else(|| wrong("length"))?,
            sha256: value("sha256").and_then(hex::parse).ok_or_else(|| wrong("sha256"))?,
        })
    }
}

/// An image for another machine than this one.
fn for_another(theirs: &str) -> String {
    let ours = std::env::consts::ARCH;
    format!("is for {theirs}, and this machine runs {ours}: get the image for {ours}")
}

/// The value of a key that stands on one line.
fn value_of<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    let of_key = |line: &'a str| line.strip_prefix(key)?.strip_prefix(' ');
    let mut values = lines.lines().filter_map(of_key);
    values.next().filter(|value| is_plain(value) && values.next().is_none())
}

/// Short, and nothing that could play tricks on a terminal.
fn is_plain(value: &str) -> bool {
    (1..=128).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The SHA-256 of a file.
pub(super) fn sha256_of(file: &mut File) -> io::Result<Sha256> {
    let mut hash = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match file.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            let digest = hash.finish();
            let mut sha256 = [0; SHA256_OUTPUT_LEN];
            sha256.copy_from_slice(digest.as_ref());
            return Ok(sha256);
        }
        hash.update(chunk.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
