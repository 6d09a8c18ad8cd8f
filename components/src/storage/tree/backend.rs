//! redb on our seam to the disk: the tree grows with all its blocks, or not at all.

use crate::storage::disk::{Disk, DiskFile};
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a file longer with room for all of it. Where nothing can be reserved, there must at least
/// be enough just now.
pub(super) fn reserve(disk: &dyn Disk, file: &dyn DiskFile, len: u64) -> io::Result<()> {
    match file.reserve(len) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            if disk.room()? < len.saturating_sub(file.len()?) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.set_len(len)
        }
        result => result,
    }
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
