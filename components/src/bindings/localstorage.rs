//! `bindings.localstorage`: files below one folder of this machine.
//!
//! Setting: `rootPath` (required), made if it is not there; not below `/proc`, `/sys`, `/boot` or
//! `/var/run/secrets`.
//!
//! Operations; the metadata `fileName` names the file:
//! - `create`: writes a file, its folders too, in one step: a reader, and a power cut, find the
//!   whole of the old or the new. It answers when both file and name are on disk, with
//!   `{"fileName":"…"}`; without a name it gets a random one. JSON text data is written without
//!   its quotes, and then, where it is valid base64, as what that encodes
//! - `get`: the bytes of a file, at most [`FILE_BYTES_MAX`]
//! - `list`: a JSON array of the paths of all files below a folder, at most [`LIST_FILES_MAX`]
//! - `delete`: a file or an empty folder
//!
//! A name cannot lead out: `..` ends at the root, and symbolic links are not followed (`confined`
//! has how). One call runs at a time, on a thread that may block.

mod confined;

use super::{Answer, Ends, Failure, Opening, OutputBinding, Request};
use crate::env;
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use confined::Root;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub use confined::{FILE_BYTES_MAX, LIST_FILES_MAX};

/// Folders that hold no files of an app's.
const DENIED: &[&str] = &["/proc", "/sys", "/boot", "/var/run/secrets", "/run/secrets"];

pub(super) fn open(opening: &Opening<'_>) -> Result<Ends> {
    let path = opening.options.required("rootPath")?;
    let root = root(Path::new(path))
        .map_err(|error| error.context(format_args!("metadata 'rootPath' is '{path}'")))?;
    let one_at_a_time = Semaphore::new(1);
    Ok((None, Some(Arc::new(LocalStorage { root: Arc::new(root), one_at_a_time }))))
}

/// Checked before it is made and again with its links resolved.
fn root(path: &Path) -> Result<Root> {
    let allowed = |path: &Path| match DENIED.iter().find(|denied| path.starts_with(denied)) {
        Some(denied) => {
            let message = format!("it must not lie below {denied}");
            Err(Error::new(Kind::Denied, message))
        }
        None => Ok(()),
    };
    let path = std::path::absolute(path)?;
    allowed(&path)?;
    std::fs::create_dir_all(&path)?;
    let path = path.canonicalize()?;
    allowed(&path)?;
    Root::open(path)
}

struct LocalStorage {
    root: Arc<Root>,
    /// Two threads at most may block in this process; a slow disk shall not take both.
    one_at_a_time: Semaphore,
}

#[async_trait]
impl OutputBinding for LocalStorage {
    fn operations(&self) -> &'static [&'static str] {
        &["create", "get", "list", "delete"]
    }

    async fn invoke(&self, request: Request) -> Result<Answer, Failure> {
        let closed = || Error::new(Kind::Closed, "the component is closed");
        let _turn = self.one_at_a_time.acquire().await.map_err(|_| closed())?;
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || act(&root, &request)).await;
        let data = done.map_err(|_| closed())??;
        Ok(Answer { data, ..Answer::default() })
    }
}

fn act(root: &Root, request: &Request) -> Result<Option<Bytes>> {
    let name = request.get("fileName");
    let named = || {
        let missing = || Error::new(Kind::Invalid, "missing metadata 'fileName'");
        name.ok_or_else(missing)
    };
    match request.operation {
        "create" => {
            let name = name.map_or_else(env::uuid, str::to_owned);
            root.create(&name, &decoded(&request.data))?;
            Ok(Some(json!({ "fileName": name }).to_string().into()))
        }
        "get" => root.get(named()?).map(|bytes| Some(bytes.into())),
        "list" => {
            let files = root.list(name.unwrap_or("."))?;
            Ok(Some(Value::from(files).to_string().into()))
        }
        "delete" => root.delete(named()?).map(|()| None),
        other => {
            let message = format!("localstorage has no operation {other}");
            Err(Error::new(Kind::Unsupported, message))
        }
    }
}

/// Text without its quotes, base64 as what it encodes, anything else as it is.
fn decoded(data: &Bytes) -> Bytes {
    let text = data.starts_with(b"\"").then(|| serde_json::from_slice(data));
    let text = match text {
        Some(Ok(Value::String(text))) => Bytes::from(text),
        _ => data.clone(),
    };
    STANDARD.decode(&text).map_or(text, Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_written_as_dapr_writes_it() {
        for (data, expected) in [
            (r#""hello""#, "hello"),
            (r#""a\nb""#, "a\nb"),
            (r#""aGVsbG8=""#, "hello"),
            (r#"{"x":1}"#, r#"{"x":1}"#),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(decoded(&Bytes::from(data)), expected, "{data}");
        }
    }

    #[test]
    fn folders_of_the_system_are_no_roots() {
        for path in ["/proc/x", "/sys", "/boot/pillion", "/var/run/secrets/a", "/tmp/../proc/1"] {
            let error = root(Path::new(path)).err().unwrap_or_else(|| panic!("{path}"));
            assert!(!error.message().is_empty(), "{path}");
        }
    }
}
