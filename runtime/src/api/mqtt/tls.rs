//! TLS for the MQTT door: the acceptor from PEM files, and the name in a client's certificate.

use super::wire;
use crate::resources::MqttTlsPlan;
use pillion_components::{Error, Kind, Result};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// Certificates and rules of one listener.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// Reads the plan's files and builds the acceptor. With `client_ca`, a client may show a
/// certificate of those authorities: the common name of its subject is then its user, and no
/// password is asked for. A client without one says who it is in CONNECT.
pub fn acceptor(plan: &MqttTlsPlan) -> Result<Acceptor> {
    let chain = certificates(&plan.certificate)?;
    let key = read(&plan.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| invalid(&plan.key, &format!("no private key in PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Internal, format!("TLS: {error}")))?;
    let builder = match &plan.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| invalid(path, &error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| invalid(path, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(chain, key)
        .map_err(|error| invalid(&plan.certificate, &error.to_string()))?;
    Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
}

/// The handshake: the bytes of the client, and the name in its certificate if it showed one.
/// `None` when it fails, which is the client's to notice.
pub(super) async fn accept(
    acceptor: &Acceptor,
    stream: TcpStream,
) -> Option<(Box<dyn wire::Io>, Option<String>)> {
    let stream = acceptor.0.accept(stream).await.ok()?;
    let name = client_name(stream.get_ref().1);
    Some((Box::new(stream), name))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| invalid(path, &error.to_string()))?;
    if found.is_empty() { Err(invalid(path, "no certificate in PEM")) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::from(error).context(path.display()))
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(Kind::Invalid, format!("{}: {why}", path.display()))
}

/// Common name of the verified certificate of this client, if it showed one. An empty name stands
/// for a certificate without: it is nobody's.
fn client_name(connection: &ServerConnection) -> Option<String> {
    let certificate = connection.peer_certificates()?.first()?;
    Some(common_name(certificate).unwrap_or_default())
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const VERSION: u8 = 0xA0;
const UTF8_STRING: u8 = 0x0C;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The last common name in the subject of an X.509 certificate.
///
/// ```text
/// SEQUENCE { SEQUENCE { [0] version?, serial, algorithm, issuer, validity,
///                       SEQUENCE { SET { SEQUENCE { OBJECT ID, string }… }… }, … }, … }
/// ```
fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after) = element(rest)?;
    if tag == VERSION {
        rest = after;
    }
    for _ in 0..4 {
        (_, _, rest) = element(rest)?;
    }
    let (tag, mut names, _) = element(rest)?;
    let mut found = None;
    while tag == SEQUENCE && !names.is_empty() {
        let (tag, mut set, after) = element(names)?;
        names = after;
        while tag == SET && !set.is_empty() {
            let (_, pair, after) = element(set)?;
            set = after;
            let (tag, id, value) = element(pair)?;
            let (kind, text, _) = element(value)?;
            let is_text = matches!(kind, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
            if tag == OBJECT_ID && id == COMMON_NAME && is_text {
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// The first element of DER: its tag, its content and what follows. Never panics; content is shorter
/// than 16 MiB.
pub(crate) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        let count = length & 0x7F;
        if count > 3 {
            return None;
        }
        length = 0;
        for _ in 0..count {
            let (byte, after) = rest.split_first()?;
            length = length << 8 | usize::from(*byte);
            rest = after;
        }
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    /// Self-signed by openssl, subject `O = Pillion, CN = sensor-7`.
    const CERTIFICATE: &str = "MIIBnjCCAUWgAwIBAgIUTyDeMmbw7s4w6MVFImCD4R3H5H8wCgYIKoZIzj0EAwIwJTEQMA4GA1UECgwH\
        UGlsbGlvbjERMA8GA1UEAwwIc2Vuc29yLTcwHhcNMjYxMTI0MjEwMzU5WhcNMzYxMTIxMjEwMzU5WjAl\
        MRAwDgYDVQQKDAdQaWxsaW9uMREwDwYDVQQDDAhzZW5zb3ItNzBZMBMGByqGSM49AgEGCCqGSM49AwEH\
        A0IABFVKbVLimtJd/By1fT/GW7pGGFhZ/GG6a7XbrmXlhy6fbgwe1KOw3iX1ZKTNdu33l2ldA0EsN3yK\
        IESBZ5WHQ9yjUzBRMB0GA1UdDgQWBBTCNvqN2malUl5cerH9WamyDV0LZzAfBgNVHSMEGDAWgBTCNvqN\
        2malUl5cerH9WamyDV0LZzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIAOlWKR4RiKf\
        gFeJbw4GxTwFcUPyNOFAZbt2fEKQ4uclAiBsdbv7se8Zy+cbJp/d5WOXVaadwHnvF+Gf5eR9LeQAhg==";

    #[test]
    fn the_common_name_is_found_and_garbage_is_survived() {
        let der = base64::engine::general_purpose::STANDARD.decode(CERTIFICATE).expect("base64");
        assert_eq!(common_name(&der).as_deref(), Some("sensor-7"));
        for length in 0..der.len() {
            let _ = common_name(&der[..length]);
            let mut bent = der.clone();
            bent[length] ^= 0xFF;
            let _ = common_name(&bent);
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let plan = MqttTlsPlan {
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: "/nowhere/chain.pem".into(),
            key: "/nowhere/key.pem".into(),
            client_ca: None,
        };
        let error = acceptor(&plan).err().expect("an error");
        assert!(error.message().contains("/nowhere/chain.pem"), "{error}");
    }
}
