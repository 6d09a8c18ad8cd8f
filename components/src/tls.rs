//! TLS of one component: PEM text in its settings becomes what a client needs.

use crate::error::{Error, Kind, Result};
use crate::options::Options;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Names of the three settings, which differ between kinds of components.
pub(crate) struct Names {
    /// Authorities that are trusted.
    pub(crate) authorities: &'static str,
    /// Our own certificate chain.
    pub(crate) certificate: &'static str,
    /// Its private key.
    pub(crate) key: &'static str,
}

/// The authorities that the settings name, else those of the web, and our certificate if there
/// is one. Each is PEM text or the path of a file.
pub(crate) fn config(options: &Options, names: &Names) -> Result<ClientConfig> {
    let Names { authorities, certificate, key } = *names;
    let mut roots = RootCertStore::empty();
    match pem(options, authorities)? {
        Some(text) => {
            for certificate in certificates(authorities, &text)? {
                roots.add(certificate).map_err(|error| {
                    invalid(format!("metadata '{authorities}': not an authority: {error}"))
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
    match (pem(options, certificate)?, pem(options, key)?) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(chain), Some(text)) => {
            let chain = certificates(certificate, &chain)?;
            // The error of the parser is left out: it could quote the key.
            let private = PrivateKeyDer::from_pem_slice(&text)
                .map_err(|_| invalid(format!("metadata '{key}' holds no PEM private key")))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                invalid(format!("metadata '{certificate}' and '{key}' do not fit: {error}"))
            })
        }
        _ => Err(invalid(format!("metadata '{certificate}' and '{key}' go together"))),
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

fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}
