//! The shape of the house: imports point down, and engines without I/O have none.
//!
//! Reads the sources as text. A violation names file, line and the rule.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file in lines; past it there is usually a second idea to lift out.
const LINES_MAX: usize = 650;

/// A part of `runtime/src` and the modules it must not name.
const RUNTIME_MUST_NOT_NAME: &[(&str, &[&str])] = &[
    ("blocks", &["api", "broker", "cli", "daemon", "deliver", "link"]),
    ("broker", &["api", "app", "blocks", "cli", "daemon", "deliver", "link"]),
    ("api", &["cli", "daemon", "deliver", "link"]),
    ("deliver", &["api", "broker", "cli", "daemon", "link"]),
    ("link", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver"]),
    ("feed", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
    ("app", &["api", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
    ("resources", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
    ("observe", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
    ("drain", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
    ("error", &["api", "app", "blocks", "broker", "cli", "daemon", "deliver", "link"]),
];

/// A part of `components/src` and the modules it must not name.
const COMPONENTS_MUST_NOT_NAME: &[(&str, &[&str])] = &[
    ("storage", &["journal", "state", "secrets", "crypto"]),
    ("journal", &["state", "secrets", "crypto"]),
    ("env", &["storage", "journal", "state", "pubsub", "secrets", "crypto"]),
    ("topic", &["storage", "journal", "state", "pubsub", "secrets", "crypto"]),
];

/// State machines: no sockets, clocks, tasks or files inside.
const ENGINES: &[&str] = &["runtime/src/broker", "runtime/src/link/engine"];

const NO_IO: &[&str] = &["tokio::", "Instant::now", "SystemTime", "std::fs", "std::net"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests stands in the root").into()
}

/// Every Rust file under `dir`, with its text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            found.push((path, text));
        }
    }
    found
}

/// Files of a part: `x.rs` and everything in `x/`.
fn part(crate_src: &Path, name: &str) -> Vec<(PathBuf, String)> {
    let mut files = sources(&crate_src.join(name));
    let head = crate_src.join(format!("{name}.rs"));
    if let Ok(text) = fs::read_to_string(&head) {
        files.push((head, text));
    }
    files
}

/// Lines before the unit tests of a file, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let production = text.split("#[cfg(test)]").next().unwrap_or_default();
    production.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn violations(crate_src: &str, rules: &[(&str, &[&str])]) -> Vec<String> {
    let mut found = Vec::new();
    let src = root().join(crate_src);
    for (name, forbidden) in rules {
        for (path, text) in part(&src, name) {
            for (number, line) in code(&text) {
                for module in *forbidden {
                    let names = line.contains(&format!("crate::{module}::"))
                        || line.contains(&format!("crate::{module};"));
                    if names && !line.trim_start().starts_with("//") {
                        found.push(format!(
                            "{}:{number}: {name} must not name {module}",
                            path.display()
                        ));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut found = violations("runtime/src", RUNTIME_MUST_NOT_NAME);
    found.extend(violations("components/src", COMPONENTS_MUST_NOT_NAME));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn engines_have_no_io() {
    let mut found = Vec::new();
    for engine in ENGINES {
        let (dir, name) = engine.rsplit_once('/').expect("a path");
        let files = part(&root().join(dir), name);
        assert!(!files.is_empty(), "{engine} is gone: name its new place here");
        for (path, text) in files {
            for (number, line) in code(&text) {
                let line = line.split("//").next().unwrap_or_default();
                if let Some(word) = NO_IO.iter().find(|word| line.contains(**word)) {
                    found.push(format!("{}:{number}: an engine has no {word}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_are_one_idea() {
    let mut found = Vec::new();
    for dir in ["runtime/src", "components/src", "tests", "benches"] {
        for (path, text) in sources(&root().join(dir)) {
            let lines = text.lines().count();
            if lines > LINES_MAX {
                found.push(format!("{}: {lines} lines, at most {LINES_MAX}", path.display()));
            }
            if !text.starts_with("//!") && !text.starts_with("#!") {
                found.push(format!("{}: the first line says what the file is", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
