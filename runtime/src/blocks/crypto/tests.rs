//! The format without HTTP and components: what was changed anywhere does not come out.

#![allow(clippy::print_stderr, reason = "a seed is shown on failure")]

use super::header::{Cipher, FileKey, Header, Lines, Manifest};
use super::segments::{
    Direction, SEGMENT_BYTES, Segments, TAG_BYTES, decrypted_length, encrypted_length,
};
use bytes::Bytes;
use pillion_components::crypto::Algorithm;

/// Lengths of messages around the ends of segments.
const LENGTHS: [usize; 8] = [
    0,
    1,
    17,
    SEGMENT_BYTES - 1,
    SEGMENT_BYTES,
    SEGMENT_BYTES + 1,
    2 * SEGMENT_BYTES,
    3 * SEGMENT_BYTES + 5,
];

/// Marsaglia's xorshift: enough to shuffle with.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("PILLION_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
        let seed = seed.unwrap_or_else(now) | 1;
        eprintln!("PILLION_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

fn manifest(cipher: Cipher) -> (FileKey, Manifest) {
    let (key, nonce_prefix) = FileKey::random().unwrap();
    let manifest = Manifest {
        key_name: "key \"1\"/é".into(),
        algorithm: Algorithm::A256Kw,
        wrapped: vec![7; 40],
        cipher,
        nonce_prefix,
    };
    (key, manifest)
}

/// Runs a message through, in pieces of random size.
fn turn(mut segments: Segments, message: &[u8], random: &mut Random) -> Result<Vec<u8>, String> {
    let mut rest = Bytes::copy_from_slice(message);
    let mut turned = Vec::new();
    while !rest.is_empty() {
        let mut piece = rest.split_to((1 + random.below(100_000)).min(rest.len()));
        while !piece.is_empty() {
            turned.extend(segments.take(&mut piece)?.unwrap_or_default());
        }
    }
    turned.extend(segments.finish()?.unwrap_or_default());
    Ok(turned)
}

fn message(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[test]
fn messages_of_all_lengths_come_back() {
    let mut random = Random::new();
    for cipher in [Cipher::AesGcm, Cipher::ChaCha20Poly1305] {
        for length in LENGTHS {
            let (key, manifest) = manifest(cipher);
            let segments = |direction| key.segments(&manifest, direction).unwrap();
            let plain = message(length);
            let encrypted = turn(segments(Direction::Encrypt), &plain, &mut random).unwrap();
            assert_eq!(encrypted.len() as u64, encrypted_length(length as u64));
            assert_eq!(decrypted_length(encrypted.len() as u64), Some(length as u64));
            let decrypted = turn(segments(Direction::Decrypt), &encrypted, &mut random).unwrap();
            assert!(decrypted == plain, "{cipher:?}, {length} bytes");
        }
    }
}

/// Every change of a message of three segments, of many kinds and at random places.
#[test]
fn a_changed_message_is_refused() {
    let mut random = Random::new();
    let (key, manifest) = manifest(Cipher::AesGcm);
    let segments = |direction| key.segments(&manifest, direction).unwrap();
    let plain = message(3 * SEGMENT_BYTES);
    let encrypted = turn(segments(Direction::Encrypt), &plain, &mut random).unwrap();
    let whole = SEGMENT_BYTES + TAG_BYTES;
    let parts: Vec<&[u8]> = encrypted.chunks(whole).collect();
    let mut changed = vec![
        ("cut after one segment", encrypted[..whole].to_vec()),
        ("cut after two segments", encrypted[..2 * whole].to_vec()),
        ("one byte short", encrypted[..encrypted.len() - 1].to_vec()),
        ("one byte more", [&encrypted[..], &[0]].concat()),
        ("one segment more", [&encrypted[..], parts[2]].concat()),
        ("first one missing", encrypted[whole..].to_vec()),
        ("middle one missing", [parts[0], parts[2]].concat()),
        ("swapped", [parts[1], parts[0], parts[2]].concat()),
        ("repeated", [parts[0], parts[0], parts[2]].concat()),
        ("only a tag", encrypted[..TAG_BYTES].to_vec()),
    ];
    for _ in 0..40 {
        let mut flipped = encrypted.clone();
        let place = random.below(flipped.len());
        flipped[place] ^= 1 << random.below(8);
        changed.push(("a bit flipped", flipped));
        let end = 1 + random.below(encrypted.len() - 1);
        changed.push(("cut anywhere", encrypted[..end].to_vec()));
    }
    for (what, encrypted) in changed {
        let turned = turn(segments(Direction::Decrypt), &encrypted, &mut random);
        assert!(turned.is_err(), "{what} was not noticed ({} bytes)", encrypted.len());
    }
    let other = self::manifest(Cipher::AesGcm).0;
    let segments = other.segments(&manifest, Direction::Decrypt).unwrap();
    assert!(turn(segments, &encrypted, &mut random).is_err(), "another key opens it");
}

fn read(bytes: &[u8], random: &mut Random) -> crate::error::Result<(Header, Bytes)> {
    let mut lines = Lines::default();
    let mut rest = bytes;
    while !lines.complete()? && !rest.is_empty() {
        let (piece, more) = rest.split_at((1 + random.below(200)).min(rest.len()));
        lines.take(piece);
        rest = more;
    }
    let (header, mut behind) = lines.split()?;
    behind = [&behind, rest].concat().into();
    Ok((header, behind))
}

#[test]
fn a_header_is_read_and_what_follows_is_left() {
    let mut random = Random::new();
    let (key, manifest) = manifest(Cipher::ChaCha20Poly1305);
    let header = key.sign(&manifest).unwrap();
    let message = [&header[..], b"\n\nbehind\n"].concat();
    let (read, behind) = read(&message, &mut random).unwrap();
    assert_eq!(&behind[..], b"\n\nbehind\n");
    assert_eq!(read.length(), header.len());
    assert_eq!(read.manifest().unwrap(), manifest);
    key.verify(&read).unwrap();
}

#[test]
fn what_is_wrong_with_a_header_is_told_as_dapr_does() {
    let mut random = Random::new();
    let long = [b"dapr.io/enc/v1\n", &[b'x'; 70_000][..]].concat();
    for (bytes, told) in [
        (&b""[..], "scheme name not found"),
        (b"garbage", "scheme name not found"),
        (b"\n", "invalid format"),
        (b"garbage\n", "unsupported scheme"),
        (b"dapr.io/enc/v2\n{}\nx\n", "unsupported scheme"),
        (b"dapr.io/enc/v1\r\n{}\nx\n", "unsupported scheme"),
        (b"dapr.io/enc/v1\n", "manifest not found"),
        (b"dapr.io/enc/v1\n{}", "manifest not found"),
        (b"dapr.io/enc/v1\n\nx\n", "invalid format"),
        (b"dapr.io/enc/v1\n{}\n", "message authentication code not found"),
        (b"dapr.io/enc/v1\n{}\n\n", "invalid format"),
        (&long, "manifest not found"),
        (b"dapr.io/enc/v1\n{}\nx\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n{\"kw\":9,\"wfk\":\"AA==\",\"cph\":1,\"np\":\"AAAAAAAAAA==\"}\nx\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n{\"kw\":1,\"wfk\":\"\",\"cph\":1,\"np\":\"AAAAAAAAAA==\"}\nx\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n{\"kw\":1,\"wfk\":\"AA==\",\"cph\":3,\"np\":\"AAAAAAAAAA==\"}\nx\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n{\"kw\":1,\"wfk\":\"AA==\",\"cph\":1,\"np\":\"AAAA\"}\nx\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n{\"kw\":\"1\",\"wfk\":\"AA==\",\"cph\":1,\"np\":\"AAAAAAAAAA==\"}\nx\n", "invalid manifest"),
    ] {
        let result = read(bytes, &mut random);
        let result = result.and_then(|(header, _)| header.manifest().map_err(super::failed));
        let error = result.unwrap_err();
        let expected = format!("failed to perform operation: invalid header: {told}");
        assert_eq!(error.message(), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

/// Nothing but the header itself is taken for it, whatever is done to it, and nothing panics.
#[test]
fn a_changed_header_is_refused() {
    let mut random = Random::new();
    let (key, manifest) = manifest(Cipher::AesGcm);
    let good = key.sign(&manifest).unwrap();
    for round in 0..20_000 {
        let mut bad = good.to_vec();
        for _ in 0..=random.below(3) {
            let place = random.below(bad.len());
            match random.below(5) {
                0 => bad[place] ^= 1 << random.below(8),
                1 => bad[place] = random.below(256) as u8,
                2 if bad.len() > 1 => drop(bad.remove(place)),
                3 => bad.insert(place, b"\n\"\\{}[]:,0\0=\xff"[random.below(13)]),
                _ => bad.truncate(place.max(1)),
            }
        }
        let Ok((header, rest)) = read(&bad, &mut random) else { continue };
        let accepted = header.manifest().is_ok() && key.verify(&header).is_ok();
        let same = bad.starts_with(&good) && bad.len() == good.len() + rest.len();
        assert!(!accepted || same, "round {round}: {}", String::from_utf8_lossy(&bad));
    }
}

#[test]
fn a_header_has_a_largest_size() {
    let (key, mut manifest) = manifest(Cipher::AesGcm);
    manifest.key_name = "k".repeat(70_000);
    assert_eq!(key.sign(&manifest).unwrap_err(), "header is too long");
}
