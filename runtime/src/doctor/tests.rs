//! Checks over a folder that looks like `/`: what the kernel would say is written into files.

#![allow(clippy::print_stdout, reason = "a random test tells its seed")]

mod certificates;
mod disks;
mod process;

use super::scene::Scene;
use super::system::Root;
use super::{Finding, Findings, Level};
use pillion_components::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

/// A folder with a file system's look, removed at the end.
struct Fake(PathBuf);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-doctor-{:x}", env::random_u64()));
        fs::create_dir_all(&dir).expect("a writable temporary directory");
        let fake = Self(dir.canonicalize().expect("it was just made"));
        for (path, text) in files {
            let path = fake.0.join(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        fake
    }

    fn root(&self) -> Root {
        Root(self.0.clone())
    }

    fn link(&self, from: &str, to: &str) {
        let from = self.0.join(from);
        fs::create_dir_all(from.parent().expect("below the folder")).expect("a folder");
        symlink(self.0.join(to), from).expect("a link");
    }

    fn scene(&self) -> Scene {
        Scene::fake(self.root(), Some(self.0.join("data")))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a group says of a machine.
fn said(check: fn(&Arc<Scene>, &mut Findings), scene: Scene) -> Vec<Finding> {
    let mut out = Findings::default();
    check(&Arc::new(scene), &mut out);
    out.0
}

/// Level and text of the finding of this name.
#[track_caller]
fn found(findings: &[Finding], name: &str) -> (Level, String) {
    let one = findings.iter().find(|finding| finding.name == name);
    let one = one.unwrap_or_else(|| panic!("no {name} in {findings:#?}"));
    assert_eq!(one.advice.is_empty(), matches!(one.level, Level::Ok | Level::Skip), "{one:?}");
    (one.level, one.found.clone())
}
