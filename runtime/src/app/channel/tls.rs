//! TLS to apps and to addresses outside.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a pool speaks TLS.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// For an app on this machine: any certificate will do, as Dapr has it. What protects the
    /// call is that the address is ours.
    pub(crate) fn to_app() -> Self {
        static SHARED: OnceLock<Tls> = OnceLock::new();
        let config = || {
            let provider = provider();
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            let builder = versions(provider);
            let accept = Arc::new(AnyCertificate { schemes });
            builder.dangerous().with_custom_certificate_verifier(accept).with_no_client_auth()
        };
        SHARED.get_or_init(|| Self(Arc::new(config()))).clone()
    }

    /// For an address outside: its certificate must lead to one of Mozilla's roots.
    pub(crate) fn to_outside() -> Self {
        static SHARED: OnceLock<Tls> = OnceLock::new();
        let config = || {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            versions(provider()).with_root_certificates(roots).with_no_client_auth()
        };
        SHARED.get_or_init(|| Self(Arc::new(config()))).clone()
    }

    /// With settings that a component brings along.
    pub(crate) fn with(config: Arc<ClientConfig>) -> Self {
        Self(config)
    }

    /// The settings, for a caller with a socket of its own.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    /// The handshake. `host` is what the certificate is for.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions(
    provider: Arc<CryptoProvider>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
}

/// Accepts whatever certificate the app made for itself.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
