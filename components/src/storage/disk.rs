//! The seam to the disk: a directory of files. Under it tests put a simulated one.

use crate::error::{Error, Kind, Result};
use std::ffi::CString;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the data directory.
pub(super) trait DiskFile: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file at least `len` bytes long and takes room on the medium for all of it, holes
    /// too: later writes into it find their room. Fails and leaves the file as long as it was
    /// when there is not enough; `Unsupported` where the filesystem cannot do it.
    fn reserve(&self, len: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once everything written before is on the medium, the length too.
    fn sync(&self) -> io::Result<()>;
    /// Lets the kernel forget what it holds of this file, and not read ahead. It marks what it
    /// holds as dirty in pieces as large as they were read or written; a page written into a large
    /// piece writes all of it (measured on ext4: 16 KiB for each 4 KiB batch after the zeros had
    /// been written 16 KiB at a time).
    fn forget_pages(&self) {}
}

/// The data directory.
pub(super) trait Disk: Debug + Send + Sync {
    /// Opens a file, or makes an empty one.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn names(&self) -> io::Result<Vec<String>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns once new names, renames and removals are on the medium.
    fn sync_names(&self) -> io::Result<()>;
    /// Bytes that are free for us, about.
    fn room(&self) -> io::Result<u64>;
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        let before = self.metadata()?.len();
        let Ok(end) = libc::off_t::try_from(len) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        loop {
            // SAFETY: the descriptor is open as long as `self` is; the call touches no memory.
            if unsafe { libc::fallocate(self.as_raw_fd(), 0, 0, end) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // What there was room for may have been taken: ext4 keeps it.
            if before < len {
                File::set_len(self, before)?;
            }
            return Err(match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
                    io::ErrorKind::Unsupported.into()
                }
                _ => error,
            });
        }
    }
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn forget_pages(&self) {
        for advice in [libc::POSIX_FADV_RANDOM, libc::POSIX_FADV_DONTNEED] {
            // SAFETY: the descriptor is open as long as `self` is; the call touches no memory.
            // It is advice: without it everything works, and more is written.
            let _ = unsafe { libc::posix_fadvise(self.as_raw_fd(), 0, 0, advice) };
        }
    }
}

/// A directory of this machine, held by a lock.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let wrong = |error: io::Error| {
            Error::from(error).context(format!("data directory {}", path.display()))
        };
        make(path).map_err(wrong)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(wrong)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "data directory {} is held by another process, pid {}",
                        path.display(),
                        pid.trim()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(wrong(error)),
        }
        // A full disk must not keep a gateway from starting: the pid is for people.
        let _ = write_pid(&mut lock);
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.rewind()?;
    let text = format!("{:<11}\n", std::process::id());
    lock.write_all(text.as_bytes())
}

/// Makes a directory and its parents, each on the medium before the next.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

impl Disk for Directory {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }
    fn names(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.path)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }
    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
    fn room(&self) -> io::Result<u64> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let mut found = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a zero, and `found` has room for what the call writes.
        if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has written all of it.
        let found = unsafe { found.assume_init() };
        #[allow(clippy::useless_conversion, reason = "these are 32 bits wide on some targets")]
        Ok(u64::from(found.f_bavail).saturating_mul(u64::from(found.f_frsize)))
    }
}
