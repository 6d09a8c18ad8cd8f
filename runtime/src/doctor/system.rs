//! What the kernel tells in `/proc` and `/sys`, below a root that a test can set.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Most bytes read of one file: a table of ten thousand sockets is 1.5 MB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Devices under devices (a mapper over a partition over a disk) that are followed.
const DEPTH_MAX: usize = 8;

/// `/`, or a folder that looks like it.
pub(super) struct Root(pub(super) PathBuf);

impl Root {
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A file's text without blanks at its ends; `None` where it is not there or may not be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        read(&self.path(path))
    }

    /// A file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Seconds since the machine started.
    pub(super) fn uptime_s(&self) -> Option<u64> {
        self.read("proc/uptime")?.split('.').next()?.parse().ok()
    }

    /// Names in a directory; none where it is not there.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// The text of a file, without blanks at its ends.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// What is mounted over a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Type of the file system.
    pub(super) kind: String,
    /// What it is on: `/dev/mmcblk0p2`, `ubi0:rootfs`.
    pub(super) source: String,
    /// `major:minor`.
    pub(super) device: String,
    /// Options of the mount and of the file system.
    pub(super) options: String,
}

/// The deepest part of a path that is there, without links.
pub(super) fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|part| part.canonicalize().ok())
}

/// The mount that a path without links is on.
///
/// ```text
/// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
/// ```
pub(super) fn mount_of(root: &Root, path: &Path) -> Option<Mount> {
    let text = root.read("proc/self/mountinfo")?;
    let mut found = None;
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(point), Some(own)) = (left.next(), left.nth(1), left.next()) else {
            continue;
        };
        let mut right = right.split(' ');
        let (Some(kind), Some(source)) = (right.next(), right.next()) else { continue };
        let point = unescape(point);
        let depth = Path::new(&point).components().count();
        // Of two on one place the later covers the earlier.
        if !path.starts_with(&point) || found.as_ref().is_some_and(|(deep, _)| *deep > depth) {
            continue;
        }
        let options = format!("{own},{}", right.next().unwrap_or_default());
        let mount =
            Mount { kind: kind.into(), source: unescape(source), device: device.into(), options };
        found = Some((depth, mount));
    }
    found.map(|(_, mount)| mount)
}

/// Blanks in `mountinfo` are written in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// The folder in `/sys` of the whole disk that a mount is on; `None` where there is no block device
/// or it cannot be seen.
pub(super) fn disk_of(root: &Root, mount: &Mount) -> Option<PathBuf> {
    let by_number = root.path("sys/dev/block").join(&mount.device).canonicalize();
    let mut disk = by_number.or_else(|_| {
        // btrfs and others have numbers of their own.
        let source = root.path(&mount.source);
        let device = source.canonicalize().unwrap_or(source);
        root.path("sys/class/block").join(device.file_name().unwrap_or_default()).canonicalize()
    });
    for _ in 0..DEPTH_MAX {
        let Ok(here) = &disk else { break };
        if here.join("partition").exists() {
            disk = here.join("..").canonicalize();
            continue;
        }
        let below = std::fs::read_dir(here.join("slaves")).into_iter().flatten().flatten().next();
        match below {
            Some(below) => disk = below.path().canonicalize(),
            None => break,
        }
    }
    disk.ok().filter(|disk| disk.join("stat").exists())
}
