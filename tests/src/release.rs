//! Releases to update to: the binary under test under another version, stand-ins that do not work,
//! and signed images of them.

use crate::pillion::{TestDir, binary};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where releases are made and signed.
#[derive(Debug)]
pub struct Workshop {
    dir: TestDir,
    base: Vec<u8>,
    count: AtomicU32,
}

impl Default for Workshop {
    fn default() -> Self {
        Self::new()
    }
}

impl Workshop {
    /// A workshop with a key of its own, and one that nobody trusts.
    pub fn new() -> Self {
        let dir = TestDir::new();
        for name in ["release", "other"] {
            let key = dir.path().join(format!("{name}.pem"));
            let public = dir.path().join(format!("{name}.pub.pem"));
            openssl(&["genpkey", "-algorithm", "ed25519", "-out"], &[&key]);
            openssl(&["pkey", "-pubout", "-in"], &[&key, Path::new("-out"), &public]);
        }
        // A debug build is mostly what a debugger reads.
        let stripped = dir.path().join("stripped");
        let base = strip(&binary(), &stripped);
        Self { dir, base, count: AtomicU32::new(0) }
    }

    /// The file of the public key that a Gateway trusts.
    pub fn public_key(&self) -> PathBuf {
        self.dir.path().join("release.pub.pem")
    }

    fn new_file(&self, name: &str) -> PathBuf {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.dir.path().join(format!("{count}-{name}"))
    }

    /// The binary under test, which says that it is of this version and keeps these storage
    /// formats: what it does follows from what it says.
    pub fn release(&self, version: &str, storage: &str) -> Vec<u8> {
        let mut bytes = self.base.clone();
        state(&mut bytes, "version", version);
        state(&mut bytes, "storage", storage);
        bytes
    }

    /// A program that imitates a release; see `bin/stand_in.rs` for its modes.
    pub fn stand_in(&self, program: &str, version: &str, mode: &str) -> Vec<u8> {
        let mut bytes = strip(Path::new(program), &self.new_file("stand-in"));
        let facts = format!(
            "\npillion-facts version={version};\npillion-facts storage=1;\n\
             stand-in version={version} storage=1 mode={mode};"
        );
        bytes.extend_from_slice(facts.as_bytes());
        bytes
    }

    /// An image of a binary, made by `cross/image` and signed with the trusted key.
    pub fn image(&self, binary: &[u8]) -> PathBuf {
        self.image_by("release", binary)
    }

    /// An image signed with the key `release` or `other`.
    pub fn image_by(&self, key: &str, binary: &[u8]) -> PathBuf {
        let (file, image) = (self.new_file("binary"), self.new_file("image"));
        fs::write(&file, binary).expect("a writable directory");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross/image");
        let key = self.dir.path().join(format!("{key}.pem"));
        let mut command = Command::new("bash");
        command.arg(script).arg(&file).arg("--key").arg(key).arg("--out").arg(&image);
        let output = command.output().expect("bash");
        assert!(output.status.success(), "{output:?}");
        image
    }

    /// A file with these bytes.
    pub fn file(&self, bytes: &[u8]) -> PathBuf {
        let file = self.new_file("file");
        fs::write(&file, bytes).expect("a writable directory");
        file
    }
}

fn openssl(words: &[&str], files: &[&Path]) {
    let output = Command::new("openssl").args(words).args(files).output().expect("openssl");
    assert!(output.status.success(), "{output:?}");
}

fn strip(binary: &Path, to: &Path) -> Vec<u8> {
    let stripped = Command::new("strip").arg("-o").arg(to).arg(binary).output();
    // What is for another processor is taken as it is.
    let is_stripped = stripped.is_ok_and(|output| output.status.success());
    fs::read(if is_stripped { to } else { binary }).expect("a binary")
}

/// Changes what a binary states of itself, which stands in it once, with blanks behind it.
fn state(bytes: &mut [u8], name: &str, value: &str) {
    let prefix = format!("pillion-facts {name}=");
    let found: Vec<usize> = bytes
        .windows(prefix.len())
        .enumerate()
        .filter_map(|(at, window)| (window == prefix.as_bytes()).then_some(at))
        .collect();
    let [at] = found[..] else { panic!("{prefix} stands {} times", found.len()) };
    let value = format!("{value};");
    let place = &mut bytes[at + prefix.len()..][..value.len() + 1];
    assert!(place[value.len()] == b' ', "no room for {value}");
    place[..value.len()].copy_from_slice(value.as_bytes());
}
