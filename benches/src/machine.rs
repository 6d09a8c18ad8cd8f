//! What the numbers were measured on, and what.

use crate::pillion::Place;
use crate::{Options, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Prints machine and build.
pub(crate) fn print(binary: &Path, options: &Options) -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpu, "model name").or_else(|| field(&cpu, "Hardware")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    println!(
        "machine  {model}, {} CPUs, {}, Linux {} ({}), load {load}",
        crate::sys::cpus(),
        field(&memory, "MemTotal").unwrap_or("?"),
        kernel.trim(),
        std::env::consts::ARCH,
    );
    let version = Command::new(binary).arg("version").output();
    let version = version.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    println!(
        "build    {} ({:.2} MB): {}",
        binary.display(),
        fs::metadata(binary)?.len() as f64 / 1e6,
        version.unwrap_or_default().lines().next().unwrap_or("no version"),
    );
    let data = crate::pillion::scratch_root();
    println!("data in  {} ({})", data.display(), filesystem_of(&data));
    let profile = if cfg!(debug_assertions) { "dev (numbers mean little)" } else { "release" };
    println!(
        "bench    {profile} profile, {} s a measurement, {}",
        options.seconds,
        if options.place() == Place::Apart && crate::sys::cpus() > 1 {
            "load on the first CPU, what is measured on the last"
        } else {
            "not pinned"
        }
    );
    Ok(())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(name))?.split_once(':').map(|(_, value)| value.trim())
}

/// Type of the filesystem that holds a path: the longest mount point that is its prefix.
pub(crate) fn filesystem_of(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut best = (0, "unknown".to_owned());
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (fields.next(), fields.next()) else { continue };
        if path.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), kind.to_owned());
        }
    }
    best.1
}
