//! `crypto.dapr.localstorage`: keys as files of a folder; the name of a key is the name of its file.
//!
//! Options:
//! - `path` (required): the folder.
//!
//! A file ending in `.json` holds a JSON Web Key, one ending in `.pem` an RSA key as PEM; any other
//! is looked at: `{` begins a JWK, `-----` a PEM, and what is neither is a symmetric key, as base64
//! or as raw bytes. Files are read anew for every use, so that a replaced key counts at once. A file
//! has at most [`FILE_BYTES_MAX`] bytes. Names may lead into folders below; a name with `..` in it is
//! refused, and nothing but regular files is read.

use super::keys::{Form, Key};
use super::local::{Source, blocking, provider};
use super::{Fetch, Opening};
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use async_trait::async_trait;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Largest file of a key in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// Opens it.
pub fn open(options: &Options, _fetch: Arc<dyn Fetch>) -> Opening<'_> {
    Box::pin(async move {
        let folder = PathBuf::from(options.required("path")?);
        if !folder.is_dir() {
            let text = format!("metadata 'path': there is no folder {}", folder.display());
            return Err(Error::new(Kind::Invalid, text));
        }
        Ok(provider(LocalStorage { folder }))
    })
}

struct LocalStorage {
    folder: PathBuf,
}

#[async_trait]
impl Source for LocalStorage {
    async fn key(&self, name: &str) -> Result<Arc<Key>> {
        if name.contains("..") {
            let text = "invalid key path: cannot contain '..'";
            return Err(Error::new(Kind::Invalid, text));
        }
        // A name that begins with a slash lies in the folder too.
        let path = self.folder.join(name.trim_start_matches('/'));
        let name = name.to_owned();
        blocking(move || load(&name, &path)).await
    }
}

fn load(name: &str, path: &Path) -> Result<Arc<Key>> {
    let bytes =
        read(path).map_err(|error| error.context(format_args!("failed to load key '{name}'")))?;
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let form = match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("json") => Form::Jwk,
        Some("pem") => Form::Pem,
        _ => Form::Guess,
    };
    let key = Key::parse(&bytes, form);
    key.map(Arc::new).map_err(|error| error.context("failed to parse key from secret"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let shown = path.components().collect::<PathBuf>();
    let opening = |error: std::io::Error| {
        // Every call may name a file that is not there, so the text is the one known from Dapr.
        let text = match error.kind() {
            ErrorKind::NotFound => format!("open {}: no such file or directory", shown.display()),
            _ => format!("open {}: {error}", shown.display()),
        };
        Error::new(Error::from(error).kind(), text)
    };
    // Without waiting: a pipe would never open.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = options.open(path).map_err(opening)?;
    if !file.metadata().map_err(Error::from)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{} is not a file", shown.display())));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Error::from)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("{} is larger than {FILE_BYTES_MAX} bytes", shown.display());
        return Err(Error::new(Kind::TooLarge, text));
    }
    Ok(bytes)
}
