//! TLS of one MQTT component: PEM text becomes what the client needs.

use super::settings::invalid;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Reads `caCert`, `clientCert` and `clientKey`, and has the client use them if the URL asks for
/// TLS. Without it they are still checked: what is wrong shall not come out later.
pub(super) fn set(client: &mut MqttOptions, options: &Options, wanted: bool) -> Result<()> {
    let config = config(options)?;
    if wanted {
        client.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
    }
    Ok(())
}

/// The authorities of `caCert`, else those of the web, and our certificate if there is one.
pub(super) fn config(options: &Options) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match pem(options, "caCert")? {
        Some(text) => {
            for certificate in certificates("caCert", &text)? {
                roots.add(certificate).map_err(|error| {
                    invalid(format!("metadata 'caCert': not an authority: {error}"))
                })?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Internal, format!("TLS: {error}")))?
        .with_root_certificates(roots);
    match (pem(options, "clientCert")?, pem(options, "clientKey")?) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let chain = certificates("clientCert", &chain)?;
            // The error of the parser is left out: it could quote the key.
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| invalid("metadata 'clientKey' holds no PEM private key".into()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                invalid(format!("metadata 'clientCert' and 'clientKey' do not fit: {error}"))
            })
        }
        _ => Err(invalid("metadata 'clientCert' and 'clientKey' go together".into())),
    }
}

/// The PEM text of a setting: the text itself, or the content of the file it names.
fn pem(options: &Options, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(text) = options.text(name) else { return Ok(None) };
    if text.contains("-----BEGIN") {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    std::fs::read(text).map(Some).map_err(|error| {
        invalid(format!(
            "metadata '{name}' is neither PEM text nor a file that can be read: {error}"
        ))
    })
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| invalid(format!("metadata '{name}': broken PEM: {error}")))?;
    if found.is_empty() {
        return Err(invalid(format!("metadata '{name}' holds no PEM certificate")));
    }
    Ok(found)
}
