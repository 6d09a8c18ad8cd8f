//! `secretstores.local.env`: secrets from the environment of the process.
//!
//! Options:
//! - `prefix` (none): put before a name to get its variable; `bulk_get` lists only variables that
//!   begin with it, without it.
//!
//! A variable that is not set answers an empty value, not an error. Variables of the runtime
//! itself (`DAPR_…`, `APP_API_TOKEN`) are treated as not set.

use super::{Secret, SecretStore};
use crate::error::Result;
use crate::options::Options;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Opens it.
pub fn open(options: &Options) -> Result<Arc<dyn SecretStore>> {
    let prefix = options.text("prefix").unwrap_or_default().to_owned();
    Ok(Arc::new(LocalEnv { prefix }))
}

struct LocalEnv {
    prefix: String,
}

#[async_trait]
impl SecretStore for LocalEnv {
    async fn get(&self, name: &str) -> Result<Option<Secret>> {
        let variable = format!("{}{name}", self.prefix);
        let value = if is_of_the_runtime(&variable) { None } else { std::env::var_os(variable) };
        let value = value.map_or_else(String::new, |v| v.to_string_lossy().into_owned());
        Ok(Some(Secret::from([(name.to_owned(), value)])))
    }

    async fn bulk_get(&self) -> Result<BTreeMap<String, Secret>> {
        let secret = |(variable, value): (std::ffi::OsString, std::ffi::OsString)| {
            let variable = variable.into_string().ok()?;
            let name = variable.strip_prefix(&self.prefix).filter(|name| !name.is_empty())?;
            if is_of_the_runtime(&variable) {
                return None;
            }
            let value = value.to_string_lossy().into_owned();
            Some((name.to_owned(), Secret::from([(name.to_owned(), value)])))
        };
        Ok(std::env::vars_os().filter_map(secret).collect())
    }
}

/// Whether a variable speaks to the runtime and may hold its tokens.
fn is_of_the_runtime(variable: &str) -> bool {
    let variable = variable.to_ascii_uppercase();
    variable.starts_with("DAPR_") || variable == "APP_API_TOKEN"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(prefix: &str) -> Arc<dyn SecretStore> {
        open(&[("prefix", prefix)].into_iter().collect()).unwrap()
    }

    /// `CARGO_PKG_NAME` is set by cargo for every test, so nothing needs to be set here.
    #[tokio::test]
    async fn a_prefix_goes_before_the_name() {
        let secret = store("CARGO_PKG_").get("NAME").await.unwrap().unwrap();
        assert_eq!(secret["NAME"], "pillion-components");
        let all = store("CARGO_PKG_").bulk_get().await.unwrap();
        assert_eq!(all["NAME"]["NAME"], "pillion-components");
        assert!(all.keys().all(|name| !name.starts_with("CARGO")), "{all:?}");
    }

    #[tokio::test]
    async fn what_is_not_set_is_empty() {
        let secret = store("").get("NOT_SET_ANYWHERE").await.unwrap().unwrap();
        assert_eq!(secret["NOT_SET_ANYWHERE"], "");
    }

    #[test]
    fn variables_of_the_runtime_are_known_whatever_the_case() {
        assert!(is_of_the_runtime("DAPR_API_TOKEN") && is_of_the_runtime("dapr_api_token"));
        assert!(is_of_the_runtime("APP_API_TOKEN"));
        assert!(!is_of_the_runtime("APP_API_TOKEN_2") && !is_of_the_runtime("MY_DAPR_X"));
    }
}
