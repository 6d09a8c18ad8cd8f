//! Files below a folder that no name leads out of.
//!
//! A path is walked folder by folder from an open handle of the root, and no step follows a
//! symbolic link. So it does not matter what a name says, nor what somebody puts in the place of a
//! folder meanwhile: a handle is of the folder it was opened as. `..` takes back a step before
//! anything is opened and ends at the root.

use crate::env;
use crate::error::{Error, Kind, Result};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// Largest file that is read, in bytes: it is held in memory whole.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most files of a list.
pub const LIST_FILES_MAX: usize = 10_000;
/// Most folders of a name and of what a list looks through below one another; each is a handle.
const DEPTH_MAX: usize = 64;

/// Where files are written before they have their name. Names below it are not for callers.
const UNFINISHED: &str = ".pillion-unfinished";

const FOLDER: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
const READ: i32 = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
const NEW: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;

/// The folder.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    handle: OwnedFd,
}

/// A checked name: its parts, without `.` and `..`.
struct Name<'a> {
    parts: Vec<&'a str>,
    /// For people.
    path: String,
}

impl Root {
    /// Opens a folder that is there, and clears away what a power cut left unfinished.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let handle = OwnedFd::from(File::open(&path)?);
        let root = Self { path, handle };
        match root.clear_unfinished() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(root),
        }
    }

    fn clear_unfinished(&self) -> io::Result<()> {
        let unfinished = self.folder(&[UNFINISHED], false)?;
        for entry in entries(&unfinished)? {
            if let Ok(name) = entry?.file_name().into_string() {
                unlink(&unfinished, &name, 0)?;
            }
        }
        Ok(())
    }

    /// Writes a file and its folders; durable when it returns.
    pub(super) fn create(&self, name: &str, data: &[u8]) -> Result<()> {
        let name = self.name(name)?;
        let (file, folders) = name.split()?;
        let folder = self.folder(folders, true).map_err(|error| name.failed(&error))?;
        let written = self.write(&folder, file, data);
        written.map_err(|error| name.failed(&error))
    }

    fn write(&self, folder: &OwnedFd, file: &str, data: &[u8]) -> io::Result<()> {
        let unfinished = self.folder(&[UNFINISHED], true)?;
        let beside = env::uuid();
        let mut new = File::from(open_at(&unfinished, &beside, NEW)?);
        let written = new.write_all(data).and_then(|()| new.sync_all());
        let renamed = written.and_then(|()| rename(&unfinished, &beside, folder, file));
        if renamed.is_err() {
            // What is left goes at the next start.
            let _ = unlink(&unfinished, &beside, 0);
        }
        renamed.and_then(|()| sync(folder))
    }

    /// The bytes of a file.
    pub(super) fn get(&self, name: &str) -> Result<Vec<u8>> {
        let name = self.name(name)?;
        let (file, folders) = name.split()?;
        let opened = self.folder(folders, false).and_then(|folder| open_at(&folder, file, READ));
        let opened = File::from(opened.map_err(|error| name.failed(&error))?);
        let about = opened.metadata().map_err(|error| name.failed(&error))?;
        if !about.is_file() {
            let message = format!("not a file: {}", name.path);
            return Err(Error::new(Kind::Invalid, message));
        }
        let mut bytes = Vec::new();
        let read = opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| name.failed(&error))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let message = format!("{} is larger than {FILE_BYTES_MAX} bytes", name.path);
            return Err(Error::new(Kind::TooLarge, message));
        }
        Ok(bytes)
    }

    /// Removes a file or an empty folder; durable when it returns.
    pub(super) fn delete(&self, name: &str) -> Result<()> {
        let name = self.name(name)?;
        let (file, folders) = name.split()?;
        let removed = self.folder(folders, false).and_then(|folder| {
            match unlink(&folder, file, 0) {
                Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                    unlink(&folder, file, libc::AT_REMOVEDIR)
                }
                other => other,
            }?;
            sync(&folder)
        });
        removed.map_err(|error| name.failed(&error))
    }

    /// Paths of all files below a folder, in order.
    pub(super) fn list(&self, name: &str) -> Result<Vec<String>> {
        let name = self.name(name)?;
        let folder = self.folder(&name.parts, false).map_err(|error| name.failed(&error))?;
        let mut files = Vec::new();
        let mut parts: Vec<String> = name.parts.iter().map(|part| (*part).to_owned()).collect();
        self.gather(&folder, &mut parts, &mut files).map_err(|error| name.failed(&error))?;
        if files.len() > LIST_FILES_MAX {
            let message =
                format!("more than {LIST_FILES_MAX} files below {}: name a folder", name.path);
            return Err(Error::new(Kind::TooLarge, message));
        }
        files.sort();
        Ok(files)
    }

    fn gather(
        &self,
        folder: &OwnedFd,
        parts: &mut Vec<String>,
        files: &mut Vec<String>,
    ) -> io::Result<()> {
        for entry in entries(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            // Names that are no text cannot be asked for.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if parts.is_empty() && name == UNFINISHED {
                continue;
            }
            if files.len() > LIST_FILES_MAX {
                break;
            }
            if kind.is_file() {
                files.push(self.shown(parts.iter().map(String::as_str).chain([&*name])));
            } else if kind.is_dir() && parts.len() < DEPTH_MAX {
                match open_at(folder, &name, FOLDER) {
                    Ok(below) => {
                        parts.push(name);
                        self.gather(&below, parts, files)?;
                        parts.pop();
                    }
                    // Gone meanwhile, or a link now.
                    Err(_) => continue,
                }
            }
        }
        Ok(())
    }

    fn shown<'a>(&self, parts: impl Iterator<Item = &'a str>) -> String {
        let mut path = self.path.clone();
        path.extend(parts);
        path.display().to_string()
    }

    /// Takes a name apart; an absolute one begins at the root, too.
    fn name<'a>(&self, name: &'a str) -> Result<Name<'a>> {
        let mut parts = Vec::new();
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let path = self.shown(parts.iter().copied());
        let wrong = |why: String| Err(Error::new(Kind::Invalid, format!("fileName: {why}")));
        if name.contains('\0') {
            return wrong("it holds a NUL character".into());
        }
        if parts.len() > DEPTH_MAX {
            return wrong(format!("more than {DEPTH_MAX} folders"));
        }
        if parts.first() == Some(&UNFINISHED) {
            return wrong(format!("{UNFINISHED} is ours"));
        }
        Ok(Name { parts, path })
    }

    /// A folder below the root.
    fn folder(&self, parts: &[&str], make: bool) -> io::Result<OwnedFd> {
        let mut folder = self.handle.try_clone()?;
        for part in parts {
            let next = match open_at(&folder, part, FOLDER) {
                Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                    make_folder(&folder, part)?;
                    open_at(&folder, part, FOLDER)?
                }
                other => other?,
            };
            folder = next;
        }
        Ok(folder)
    }
}

impl Name<'_> {
    /// The file and the folders before it.
    fn split(&self) -> Result<(&str, &[&str])> {
        match self.parts.split_last() {
            Some((file, folders)) => Ok((file, folders)),
            None => Err(Error::new(Kind::Invalid, format!("not a file: {}", self.path))),
        }
    }

    fn failed(&self, error: &io::Error) -> Error {
        let path = &self.path;
        match error.raw_os_error() {
            Some(libc::ENOENT) => Error::new(Kind::NotFound, format!("file not found: {path}")),
            Some(libc::ELOOP | libc::ENOTDIR) => Error::new(
                Kind::Denied,
                format!("{path}: a part of it is no folder; symbolic links are not followed"),
            ),
            Some(libc::EISDIR | libc::ENOTEMPTY | libc::ENAMETOOLONG | libc::EEXIST) => {
                Error::new(Kind::Invalid, format!("{path}: {error}"))
            }
            _ => Error::from(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
}

/// The part as C has it; names with a NUL were refused.
fn c(part: &str) -> io::Result<CString> {
    CString::new(part).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn open_at(folder: &OwnedFd, part: &str, flags: i32) -> io::Result<OwnedFd> {
    const MODE: libc::c_uint = 0o666;
    let part = c(part)?;
    // SAFETY: the handle is open, the name ends with NUL, and both outlive the call.
    let fd = unsafe { libc::openat(folder.as_raw_fd(), part.as_ptr(), flags, MODE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is in a folder, by the kernel's name for its handle.
fn entries(folder: &OwnedFd) -> io::Result<std::fs::ReadDir> {
    std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Another may have made it meanwhile, which is as well.
fn make_folder(folder: &OwnedFd, part: &str) -> io::Result<()> {
    let name = c(part)?;
    // SAFETY: as in `open_at`.
    let made = done(unsafe { libc::mkdirat(folder.as_raw_fd(), name.as_ptr(), 0o777) });
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync(folder),
    }
}

fn rename(from: &OwnedFd, old: &str, to: &OwnedFd, new: &str) -> io::Result<()> {
    let (old, new) = (c(old)?, c(new)?);
    // SAFETY: as in `open_at`.
    done(unsafe { libc::renameat(from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr()) })
}

fn unlink(folder: &OwnedFd, part: &str, flags: i32) -> io::Result<()> {
    let part = c(part)?;
    // SAFETY: as in `open_at`.
    done(unsafe { libc::unlinkat(folder.as_raw_fd(), part.as_ptr(), flags) })
}

/// Makes names in a folder durable.
fn sync(folder: &OwnedFd) -> io::Result<()> {
    // SAFETY: the handle is open.
    done(unsafe { libc::fsync(folder.as_raw_fd()) })
}
