//! The data directory: whose it is, what it is on, how much room there is, how long a sync takes.

use super::running::Running;
use super::scene::Scene;
use super::system::{Mount, Root, existing, mount_of};
use super::{Findings, Level, bytes, start, take};
use crate::resources::DATA_DIR_MISSING;
use pillion_components::env::Clock;
use pillion_components::storage::StorageOptions;
use std::ffi::CString;
use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Syncs that are timed, and the time for all of them.
const SYNCS: usize = 9;
const SYNCS_MAX: Duration = Duration::from_secs(5);

/// A page, as a commit writes at least.
const PAGE: usize = 4096;

/// A median above this is remarked: every acknowledged write waits for a sync.
const SYNC_SLOW: Duration = Duration::from_millis(50);

/// A median below this is no flash: even a datacenter's drive with a capacitor takes 15 µs.
const SYNC_IMPLAUSIBLE: Duration = Duration::from_micros(15);

/// Less room than this counts as none: a checkpoint grows the tree by so much.
const ROOM_MIN: u64 = 4 << 20;

/// Fewest free inodes: log segments, tree, lock, ballast, and some for copies of damaged ones.
const INODES_MIN: u64 = 32;

/// A part of the quota, in percent, above which it is nearly full.
const QUOTA_NEARLY: u64 = 90;

/// Somebody, as the kernel judges rights.
pub(super) struct Person {
    pub(super) name: String,
    uid: u32,
    gid: u32,
}

impl Person {
    /// Whether the bits of a mode allow it: 4 to read, 2 to write, 1 to search.
    pub(super) fn may(&self, file: &Metadata, bits: u32) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if file.uid() == self.uid => 6,
            () if file.gid() == self.gid => 3,
            () => 0,
        };
        file.mode() >> shift & bits == bits
    }
}

/// Who the service runs as: as it does, else the user that the package makes, else who asks.
pub(super) fn service_user(scene: &Scene) -> Person {
    let users = scene.root.read("etc/passwd").unwrap_or_default();
    let mut users = users.lines().filter_map(|line| {
        let mut words = line.split(':');
        let (name, uid, gid) = (words.next()?, words.nth(1)?, words.next()?);
        Some(Person { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    });
    // SAFETY: these only read numbers of this process.
    let (own_uid, own_gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let found = match &scene.running {
        Some(Running { uid, gid, .. }) => {
            let known = users.find(|user| user.uid == *uid);
            return known.unwrap_or(Person { name: uid.to_string(), uid: *uid, gid: *gid });
        }
        // What belongs to who asks is no service's.
        None if own_uid != 0 && owner(scene) == Some(own_uid) => None,
        None => users.find(|user| user.name == "pillion"),
    };
    found.unwrap_or(Person { name: own_uid.to_string(), uid: own_uid, gid: own_gid })
}

fn owner(scene: &Scene) -> Option<u32> {
    Some(std::fs::metadata(scene.data_dir.as_ref()?).ok()?.uid())
}

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let Some(dir) = &scene.data_dir else {
        return out.warn(&"directory", &DATA_DIR_MISSING, &"name one");
    };
    let Some(there) = existing(dir) else {
        return out.skip(&"directory", &format_args!("{}: cannot be seen", dir.display()));
    };
    directory(scene, dir, &there, out);
    if let Some(mount) = mount_of(&scene.root, &there) {
        file_system(&mount, out);
    }
    match statvfs(&there) {
        Ok(room) => space(scene, dir, &room, out),
        Err(error) => out.skip(&"space", &error),
    }
    let timed = start(Box::new(move |out| sync(&there, out)));
    if !take(&timed, Instant::now() + SYNCS_MAX, out) {
        let text = format_args!("{SYNCS} syncs of a page take longer than {SYNCS_MAX:?}");
        out.fail(&"sync", &text, &"see dmesg: the disk is worn, broken or very busy");
    }
}

fn directory(scene: &Scene, dir: &Path, there: &Path, out: &mut Findings) {
    let name = &"directory";
    let shown = dir.display();
    let user = service_user(scene);
    let meta = match std::fs::metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = std::fs::metadata(there);
            if parent.is_ok_and(|parent| parent.is_dir() && user.may(&parent, 0o3)) {
                let text = format_args!("{shown}: not there yet, made at the first start");
                return out.ok(name, &text);
            }
            let text = format_args!("{shown}: not there, and {} may not make it", user.name);
            let advice = format_args!("make it: install -d -o {} {shown}", user.name);
            return out.fail(name, &text, &advice);
        }
        Err(error) => return out.skip(name, &format_args!("{shown}: {error}")),
    };
    if !meta.is_dir() {
        return out.fail(name, &format_args!("{shown}: is no directory"), &"name a directory");
    }
    if user.may(&meta, 0o7) {
        return out.ok(name, &format_args!("{shown}: {} may write", user.name));
    }
    let text = format_args!(
        "{shown}: belongs to user {} ({:o}), the service runs as {}",
        meta.uid(),
        meta.mode() & 0o7777,
        user.name
    );
    out.fail(name, &text, &format_args!("chown -R {} {shown}", user.name));
}

/// Types of file systems, what they mean for what is stored, and what to do.
const FILE_SYSTEMS: &[(&[&str], Level, &str, &str)] = &[
    (
        &["tmpfs", "ramfs", "devtmpfs"],
        Level::Fail,
        ": is memory, a power cut loses everything",
        "put the data on flash: --data-dir, or dataDir in a Gateway's spec.storage",
    ),
    (
        &["btrfs", "f2fs", "ubifs", "jffs2", "bcachefs", "zfs"],
        Level::Ok,
        ": does not overwrite in place, so that room for deletes on a full disk is best effort: \
         keep quotaBytes well below its size",
        "",
    ),
    (
        &["overlay", "aufs"],
        Level::Warn,
        ": what is under it cannot be seen, and may go with a container or an upgrade",
        "put the data on a volume of its own, or keep it in the list of what upgrades keep",
    ),
    (
        &["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"],
        Level::Warn,
        ": locks, syncs and room are the server's word",
        "put the data on a disk of this machine",
    ),
    (
        &["vfat", "msdos", "exfat"],
        Level::Warn,
        ": has no journal, a power cut can damage its directories",
        "put the data on ext4 or f2fs",
    ),
];

/// What the file system means for what is stored.
pub(super) fn file_system(mount: &Mount, out: &mut Findings) {
    let has = |wanted: &str| mount.options.split(',').any(|option| option == wanted);
    let (level, means, advice) = if has("ro") {
        (
            Level::Fail,
            ": is read-only",
            "mount it for writing; after an error of the disk see dmesg",
        )
    } else if has("nobarrier") || has("barrier=0") {
        let means = ": syncs do not reach the medium, a power cut loses data";
        (Level::Fail, means, "mount it without nobarrier and barrier=0")
    } else {
        let known = FILE_SYSTEMS.iter().find(|(kinds, ..)| kinds.contains(&mount.kind.as_str()));
        known.map_or((Level::Ok, "", ""), |(_, level, means, advice)| (*level, *means, *advice))
    };
    let text = format!("{} on {}{means}", mount.kind, mount.source);
    out.add(level, &"file system", &text, &advice);
}

/// Room of a file system.
struct Room {
    free_bytes: u64,
    free_inodes: u64,
    /// Some have no table of inodes.
    has_inodes: bool,
}

#[allow(clippy::useless_conversion, reason = "the fields are narrower on 32 bits")]
fn statvfs(path: &Path) -> io::Result<Room> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a valid statvfs.
    let mut room: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero and the pointer names a live statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut room) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Room {
        free_bytes: u64::from(room.f_bavail).saturating_mul(u64::from(room.f_frsize)),
        free_inodes: u64::from(room.f_favail),
        has_inodes: room.f_files > 0,
    })
}

fn space(scene: &Scene, dir: &Path, room: &Room, out: &mut Findings) {
    let storage = &scene.plan.gateway.storage;
    let defaults = StorageOptions::new(PathBuf::new(), Clock::system());
    let quota = storage.quota_bytes.unwrap_or(defaults.quota_bytes);
    let segments = storage.log_segments.unwrap_or(defaults.log_segments);
    let segment = storage.segment_bytes.unwrap_or(defaults.segment_bytes);
    // As the engine does: the log takes a quarter of the quota at most.
    let log = (u64::from(segments) * u64::from(segment)).min(quota / 4);
    let used = used_bytes(dir);
    let free = room.free_bytes;
    let name = &"space";
    let text = format!("{} free; {} used, quota {}", bytes(free), bytes(used), bytes(quota));
    if free < ROOM_MIN.max(log.saturating_sub(used)) {
        let advice = "make room, or use a larger disk: new data is refused until there is some";
        out.fail(name, &format_args!("full: {text}"), &advice);
    } else if free < quota.saturating_sub(used) {
        let advice = format!(
            "lower quotaBytes in a Gateway's spec.storage to {}, or make room: the disk is full \
             before the quota is",
            (used + free) / 10 * 9
        );
        out.warn(name, &text, &advice);
    } else {
        out.ok(name, &text);
    }
    let stored = scene.metric("pillion_storage_disk_bytes").unwrap_or(used);
    if stored.saturating_mul(100) >= quota.saturating_mul(QUOTA_NEARLY) {
        let text = format!("{} of {} are used", bytes(stored), bytes(quota));
        let advice = "is a consumer away (queues in the metrics)? raise quotaBytes, or delete";
        out.warn(&"quota", &text, &advice);
    }
    if room.has_inodes && room.free_inodes < INODES_MIN {
        let text = format_args!("{} free", room.free_inodes);
        out.fail(&"inodes", &text, &"remove files: the disk takes no new ones");
    }
}

/// Bytes on disk of the files in a directory; its files lie side by side.
fn used_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// Times the sync that every acknowledged write waits for.
fn sync(dir: &Path, out: &mut Findings) {
    let name = &"sync";
    let median = match median_sync(dir) {
        Ok(median) => median,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return out.skip(name, &"not timed: this user may not write there; run as root");
        }
        Err(error) => {
            let text = format_args!("a page cannot be written: {error}");
            return out.fail(name, &text, &"see dmesg for errors of the disk, and space above");
        }
    };
    let micros = median.as_micros();
    let text = format!("{}.{:02} ms for a page", micros / 1000, micros % 1000 / 10);
    if median > SYNC_SLOW {
        let advice = "use better flash, or let many writes share a sync: commitLingerMs, eventual";
        out.warn(name, &format_args!("{text}: a durable write takes at least as long"), &advice);
    } else if median < SYNC_IMPLAUSIBLE {
        let more = "too quick for flash, this disk may lie to us (or be virtual)";
        out.ok(name, &format_args!("{text}: {more}"));
    } else {
        out.ok(name, &text);
    }
}

/// The file has no name from the start, so that nothing is left whenever this ends.
fn median_sync(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    // The first takes room; those that count overwrite it, as the log does.
    file.write_all_at(&[0x5A; PAGE], 0)?;
    file.sync_all()?;
    let mut times: Vec<Duration> = Vec::with_capacity(SYNCS);
    for turn in 0..SYNCS {
        let page = [u8::try_from(turn).unwrap_or_default(); PAGE];
        let begun = Instant::now();
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        let took = begun.elapsed();
        let place = times.iter().position(|time| *time > took).unwrap_or(times.len());
        times.insert(place, took);
    }
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

/// Newest time at which a file of the data directory was written, in seconds since 1970.
pub(super) fn newest_write_s(dir: &Path) -> Option<i64> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.mtime()).max()
}

/// The disk's folder in `/sys`, for the checks of flash.
pub(super) fn disk(root: &Root, dir: &Path) -> Option<(Mount, Option<PathBuf>)> {
    let mount = mount_of(root, &existing(dir)?)?;
    let disk = super::system::disk_of(root, &mount);
    Some((mount, disk))
}
