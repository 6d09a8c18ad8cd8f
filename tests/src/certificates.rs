//! Certificates as an operator makes them, with openssl.

use crate::tool::{Tool, command};
use std::path::Path;

/// `authority NAME` and `signed AUTHORITY NAME COMMON-NAME`, in the directory `$0`.
const CERTIFICATES: &str = r#"
cd "$0"
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -keyout "$1.key" -out "$1.pem" -subj "/CN=$1"
}
signed() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout "$2.key" -out "$2.csr" -subj "/O=tests/CN=$3"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >"$2.ext"
    openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 2 \
        -out "$2.pem" -extfile "$2.ext"
}
authority ca
authority other
signed ca server localhost
signed ca client device-7
signed other stranger device-7
"#;

/// Writes two authorities (`ca`, `other`), a `server` for localhost that `ca` signed, and two
/// clients named `device-7`: `client`, signed by `ca`, and `stranger`, signed by `other`. Each is a
/// `.pem` and a `.key`.
pub async fn write(dir: &Path) {
    let dir = dir.display().to_string();
    Tool::run(command("bash", ["-ec", CERTIFICATES, &dir])).await.expect_success();
}
