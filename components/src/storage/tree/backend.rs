//! redb on our seam to the disk: the tree grows with all its blocks, or not at all.

use crate::storage::disk::{Disk, DiskFile};
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a file longer with room for all of it. Where nothing can be reserved it is written.
pub(super) fn reserve(disk: &dyn Disk, file: &dyn DiskFile, len: u64) -> io::Result<()> {
    match file.reserve(len) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let before = file.len()?;
            if disk.room()? < len.saturating_sub(before) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = write_zeros(file, before, len);
            if written.is_err() {
                file.set_len(before)?;
            }
            written
        }
        result => result,
    }
}

fn write_zeros(file: &dyn DiskFile, mut from: u64, end: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while from < end {
        let len = (end - from).min(ZEROS.len() as u64);
        file.write_all_at(ZEROS.get(..len as usize).unwrap_or(&ZEROS), from)?;
        from += len;
    }
    Ok(())
}

/// redb on our seam.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) written: Arc<AtomicU64>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.file.len()? {
            reserve(self.disk.as_ref(), self.file.as_ref(), len)
        } else {
            self.file.set_len(len)
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(data, offset)
    }
}
