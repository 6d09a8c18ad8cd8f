//! The table of what was counted before: a section per build, a line per row. Another compiler
//! makes other code, so its counts say nothing about a change of ours.

use crate::Result;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What `instructions.toml` holds.
pub(super) struct Known {
    path: PathBuf,
    sections: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Known {
    /// Reads the table; one that is not there is empty.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut sections: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        let mut section = String::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().parse().map_err(|_| {
                    format!("{}:{}: not a number: {line}", path.display(), index + 1)
                })?;
                sections.entry(section.clone()).or_default().insert(key.trim().to_owned(), value);
            }
        }
        Ok(Self { path: path.to_owned(), sections })
    }

    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.contains_key(section)
    }

    pub(super) fn get(&self, section: &str, key: &str) -> Option<f64> {
        self.sections.get(section)?.get(key).copied()
    }

    pub(super) fn set(&mut self, section: &str, key: &str, value: f64) {
        let section = self.sections.entry(section.to_owned()).or_default();
        section.insert(key.to_owned(), value.round());
    }

    /// The same row of the newest x86_64 build.
    pub(super) fn x86_64(&self, key: &str) -> Option<f64> {
        let mut sections = self.sections.iter().rev();
        sections
            .find(|(name, _)| name.starts_with("x86_64."))
            .and_then(|(_, rows)| rows.get(key).copied())
    }

    /// Writes the table back; tells where.
    pub(super) fn write(&self) -> Result<&Path> {
        let mut text = String::from(
            "# Instructions per request of the release build: by valgrind for x86_64, by qemu for\n\
             # others. Written by `cargo run --release -p pillion-benches -- instructions --bless`,\n\
             # with `--binary FILE` for another machine's.\n",
        );
        for (section, rows) in &self.sections {
            writeln!(text, "\n[{section}]")?;
            for (key, value) in rows {
                writeln!(text, "{key} = {value}")?;
            }
        }
        fs::write(&self.path, text)?;
        Ok(&self.path)
    }
}
