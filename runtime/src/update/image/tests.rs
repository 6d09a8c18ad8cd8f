//! Images as they should be, and as they should not: every way to be wrong has its refusal, and no
//! change of a byte goes unnoticed.

use super::*;
use ring::digest::digest;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pillion-image-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = File::create(&path).expect("a writable directory");
        file.write_all(bytes).expect("a writable file");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed of 32 bytes")
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().expect("32 bytes")
}

/// What this machine takes for a program: the header of one, and some bytes.
fn binary() -> Vec<u8> {
    let mut binary = vec![0; 20];
    let exe = File::open("/proc/self/exe").expect("a running test");
    exe.read_exact_at(&mut binary, 0).expect("an ELF file");
    binary.extend((0..200_000u32).map(|number| (number % 251) as u8));
    binary
}

fn lines(binary: &[u8]) -> String {
    let (target, length) = (std::env::consts::ARCH, binary.len());
    let sha256 = hex::write(digest(&SHA256, binary).as_ref());
    format!(
        "pillion-image/1\nversion 0.2.0\ntarget {target}\nprofile default\nstorage 1-2\n\
         length {length}\nsha256 {sha256}\n"
    )
}

fn sealed(lines: &str, binary: &[u8]) -> Vec<u8> {
    let signature = STANDARD.encode(key(1).sign(lines.as_bytes()));
    [format!("{lines}signature {signature}\n").as_bytes(), binary].concat()
}

fn whole() -> Vec<u8> {
    sealed(&lines(&binary()), &binary())
}

fn open(bytes: &[u8]) -> Result<Image, String> {
    let scratch = Scratch::new(bytes);
    Image::open(File::open(&scratch.0).expect("a file"), &[public(&key(2)), public(&key(1))])
}

/// Opened and read to its end.
fn take(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let image = open(bytes)?;
    let mut taken = Vec::new();
    image.read(|part| taken.write_all(part)).map_err(|error| format!("{error:?}"))?;
    Ok(taken)
}

fn refusal(bytes: &[u8]) -> String {
    take(bytes).expect_err("a refusal")
}

#[test]
fn an_image_is_read() {
    let image = open(&whole()).expect("a whole image");
    let head = &image.head;
    assert_eq!(head.version.as_str(), "0.2.0");
    assert_eq!(head.formats, Formats { min: 1, max: 2 });
    assert_eq!(take(&whole()).as_deref(), Ok(&*binary()));
    let later = lines(&binary()).replace("storage", "colour green\nstorage");
    assert_eq!(take(&sealed(&later, &binary())), Ok(binary()), "a later form may say more");
    let error = image.read(|_| Err(io::Error::other("full"))).expect_err("it was not taken");
    assert!(matches!(error, ReadError::Target(_)), "{error:?}");
}

#[test]
fn every_refusal_says_what_is_wrong() {
    let (binary, good) = (binary(), lines(&binary()));
    let signed = |from: &str, to: &str| {
        assert!(good.contains(from));
        refusal(&sealed(&good.replace(from, to), &binary))
    };
    assert!(refusal(b"").contains("no update image"));
    assert!(refusal(&binary).contains("no update image"));
    assert!(signed("pillion-image/1", "pillion-image/2").contains("form 2"));
    assert!(signed("pillion-image/1", "pillion-image/\u{1b}[2J").contains("form ?[2J"));
    let foreign = if std::env::consts::ARCH == "arm" { "x86_64" } else { "arm" };
    let target = format!("target {}", std::env::consts::ARCH);
    assert!(signed(&target, &format!("target {foreign}")).contains(&format!("for {foreign}, and")));
    for (from, to, word) in [
        ("version 0.2.0", "version two", "'version'"),
        ("version 0.2.0\n", "", "'version'"),
        ("version 0.2.0", "version 0.2.0\nversion 0.3.0", "'version'"),
        ("storage 1-2", "storage 2-1", "'storage'"),
        ("length 2", "length x2", "'length'"),
        ("length 2", "length 99999999999992", "'length'"),
        ("sha256 ", "sha256 0", "'sha256'"),
        (&target, "target arm v7", "'target'"),
    ] {
        let text = signed(from, to);
        assert!(text.contains(word), "{to}: {text}");
    }
    assert!(refusal(&sealed(&good, &binary[1..])).contains("truncated"));
    assert!(refusal(&[&whole()[..], b"x"].concat()).contains("appended"));

    let mut other = binary.clone();
    other[18] ^= 0x55;
    assert!(refusal(&sealed(&lines(&other), &other)).contains("another processor"));
    other[0] = 0;
    assert!(refusal(&sealed(&lines(&other), &other)).contains("no program"));
    assert!(refusal(&sealed(&lines(b""), b"")).contains("no program"));

    let scratch = Scratch::new(&whole());
    let file = || File::open(&scratch.0).expect("a file");
    for keys in [&[][..], &[public(&key(2))]] {
        let text = Image::open(file(), keys).expect_err("another key");
        assert!(text.contains("none of the keys"), "{text}");
    }
}

#[test]
fn a_truncated_image_is_refused_at_every_length() {
    let whole = whole();
    let head = whole.len() - binary().len();
    let cuts = (0..head + 64).chain((head..whole.len()).step_by(9973)).chain([whole.len() - 1]);
    for cut in cuts {
        let text = refusal(&whole[..cut]);
        let is_told = ["truncated", "no update image", "form ", "none of the keys"]
            .iter()
            .any(|word| text.contains(word));
        assert!(is_told, "{cut}: {text}");
    }
}

/// Random changes, of a printed seed: none is taken, and none ends the test.
#[test]
#[allow(clippy::print_stdout, reason = "the test's own output is where the seed is looked for")]
fn no_change_goes_unnoticed() {
    let seed = std::env::var("PILLION_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(pillion_components::env::random_u64) | 1;
    println!("PILLION_SEED={seed}");
    let mut random = seed;
    let mut below = |bound: usize| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    let whole = whole();
    let head = whole.len() - binary().len();
    for round in 0..600 {
        let mut bytes = whole.clone();
        // Most changes are where something is parsed.
        let reach = if round % 4 == 0 { bytes.len() } else { head + 24 };
        for _ in 0..=below(3) {
            let at = below(reach.min(bytes.len()));
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = b"\n \0-9a+/="[below(9)],
                2 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, b'0' + below(10) as u8),
            }
        }
        if bytes != whole {
            assert!(take(&bytes).is_err(), "round {round}");
        }
    }
}
