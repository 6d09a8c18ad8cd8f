//! Who counts instructions: valgrind for a binary of this machine, qemu with a plugin of ours for
//! one of another.

use crate::Result;
use crate::pillion::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The plugin, which is compiled when it is needed.
const PLUGIN: &str = include_str!("count.c");

/// A program that runs another one and counts.
pub(super) enum Counter {
    Valgrind,
    /// The emulator of a processor, and the compiled plugin.
    Qemu {
        emulator: String,
        plugin: PathBuf,
        /// Where the plugin lies.
        _scratch: Scratch,
    },
}

impl Counter {
    /// The one for binaries of this processor; an error says what to install.
    pub(super) fn of(arch: &str) -> Result<Self> {
        if arch == std::env::consts::ARCH {
            let found = Command::new("valgrind").arg("--version").output();
            return match found {
                Ok(_) => Ok(Self::Valgrind),
                Err(error) => Err(format!("valgrind ({error}): apt-get install valgrind").into()),
            };
        }
        let emulator = format!("qemu-{arch}");
        let version = Command::new(&emulator).arg("--version").output();
        let version = version
            .map_err(|error| format!("{emulator} ({error}): apt-get install qemu-user"))?
            .stdout;
        let scratch = Scratch::new("count")?;
        let plugin = compile(scratch.path(), api(&String::from_utf8_lossy(&version))?)?;
        Ok(Self::Qemu { emulator, plugin, _scratch: scratch })
    }

    /// For the title of a table.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Valgrind => "valgrind",
            Self::Qemu { emulator, .. } => emulator,
        }
    }

    /// The words before a program, so that its count will be written to `out`.
    pub(super) fn words(&self, out: &Path) -> Vec<String> {
        let out = out.display();
        match self {
            Self::Valgrind => [
                "valgrind",
                "-q",
                "--log-file=/dev/null",
                "--tool=cachegrind",
                "--cache-sim=no",
                &format!("--cachegrind-out-file={out}"),
            ]
            .map(str::to_owned)
            .into(),
            Self::Qemu { emulator, plugin, .. } => {
                let plugin = format!("{},out={out}", plugin.display());
                vec![emulator.clone(), "-plugin".into(), plugin]
            }
        }
    }

    /// What was counted, once the program has ended.
    pub(super) fn total(&self, out: &Path) -> Result<u64> {
        let name = self.name();
        let text = fs::read_to_string(out).map_err(|error| format!("{name}: no count: {error}"))?;
        let total = match self {
            Self::Valgrind => {
                let summary = text.lines().rev().find_map(|line| line.strip_prefix("summary:"));
                summary.and_then(|rest| rest.split_whitespace().next())
            }
            Self::Qemu { .. } => Some(text.trim()),
        };
        Ok(total.ok_or_else(|| format!("{name} wrote no summary"))?.parse()?)
    }
}

/// The number of the plugin interface that this qemu takes: 1 until version 8, 2 from 9 on. What
/// the plugin uses is the same in both.
fn api(version: &str) -> Result<u32> {
    let major = version.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok());
    let major: u32 = major.ok_or_else(|| format!("qemu tells no version: {version}"))?;
    Ok(if major < 9 { 1 } else { 2 })
}

fn compile(dir: &Path, api: u32) -> Result<PathBuf> {
    let (source, plugin) = (dir.join("count.c"), dir.join("count.so"));
    fs::write(&source, PLUGIN)?;
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", &format!("-DPLUGIN_API={api}"), "-o"])
        .args([&plugin, &source])
        .output()
        .map_err(|error| format!("cc ({error}): apt-get install gcc"))?;
    if !compiled.status.success() {
        return Err(format!("count.c: {}", String::from_utf8_lossy(&compiled.stderr)).into());
    }
    Ok(plugin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_follows_from_the_version() {
        for (said, expected) in [
            ("qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", 1),
            ("qemu-arm version 8.2.3\n", 1),
            ("qemu-aarch64 version 9.0.0\n", 2),
            ("qemu-aarch64 version 10.0.2 (Debian 1:10.0.2+ds-2)\n", 2),
        ] {
            assert_eq!(api(said).unwrap(), expected, "{said}");
        }
        assert!(api("no qemu").is_err());
    }
}
