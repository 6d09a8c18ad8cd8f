//! Dapr's own implementation of the format, as a Go module, reads what we wrote and the other way
//! round. Skipped, loudly, where there is no Go or the module cannot be had.

use crate::{decrypt, encrypting, pattern, setup};
use pillion_tests::pillion::TestDir;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `crypto/judge`.
fn build(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crypto/judge");
    let judge = dir.join("judge");
    let mut go = Command::new("go");
    go.arg("build").arg("-o").arg(&judge).arg(".").current_dir(source);
    match go.output() {
        Ok(output) if output.status.success() => return Some(judge),
        Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => skipped(&format!("go: {error}")),
    }
    None
}

#[expect(clippy::print_stderr, reason = "whoever reads the log must see it")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: Dapr's library did not judge the encryption: {why}");
}

#[tokio::test]
async fn dapr_reads_ours_and_we_read_daprs() {
    let dir = TestDir::new();
    let Some(judge) = build(dir.path()) else { return };
    let pillion = setup().start().await;
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let judged = |verb: &str, key: &str, algorithm: &str, cipher: &str, bytes: &[u8]| {
        std::fs::write(&from, bytes).expect("a writable file");
        let key = pillion.dir().join("keys").join(key);
        let mut command = Command::new(&judge);
        command.arg(verb).arg(key).args([algorithm, cipher]).arg(&from).arg(&to);
        let output = command.output().expect("the judge runs");
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(&to).expect("a result")
    };
    let segment = 64 << 10;
    for (key, algorithm) in [("sym.b64", "A256KW"), ("rsa.pem", "RSA-OAEP-256")] {
        for cipher in ["AES-GCM", "CHACHA20-POLY1305"] {
            for length in [0, 1, segment - 1, segment, segment + 1, 2 * segment, 1_000_000] {
                let plain = pattern(0, length);
                let asked =
                    encrypting(key, algorithm).header("dapr-data-encryption-cipher", cipher);
                let ours = pillion.send(asked.body(plain.clone())).await;
                assert_eq!(ours.status, 200, "{}", ours.text());
                let read = judged("decrypt", key, algorithm, cipher, &ours.body);
                assert!(read == plain, "{algorithm} {cipher} {length}: Dapr reads ours");
                let theirs = judged("encrypt", key, algorithm, cipher, &plain);
                assert_eq!(theirs.len(), ours.body.len(), "{algorithm} {cipher} {length}");
                let read = decrypt(&pillion, &theirs).await;
                assert!(read.body == plain, "{algorithm} {cipher} {length}: we read Dapr's");
            }
        }
    }
}
