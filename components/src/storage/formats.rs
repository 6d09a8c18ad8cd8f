//! Which format a data directory is in, and which formats this build keeps.
//!
//! The format is one number for everything in the directory: log, tree, and what is inside them.
//! It is recorded as the name of an empty file, `format-N`, because a name has no content that
//! could be torn or rot. Without one the format is 1; of several the largest holds.
//!
//! Laws:
//! - a directory in a format that this build does not know is refused, and nothing in it is
//!   touched: it is not damaged;
//! - the record is on the medium before anything is written in the new format;
//! - a directory never goes back to an earlier format;
//! - it goes to a later one only at an opening that allows it
//!   ([`StorageOptions::format_max`](super::StorageOptions)): a release on trial leaves it as its
//!   predecessor can open it.
//!
//! | Format | Since | What changed |
//! |---|---|---|
//! | 1 | 0.1 | drawn in `format.rs` and `tree.rs` |

use super::disk::Disk;
use crate::error::{Error, Kind, Result};
use std::fmt;
use std::io;
use std::path::Path;

/// Formats that a build keeps: it opens a directory in any of them and writes it without changing
/// its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// The oldest.
    pub min: u32,
    /// The newest; new directories get it.
    pub max: u32,
}

/// What this build keeps, in clear text inside the binary so that tools read it without running it.
static BLOCK: [u8; 48] = *b"pillion-facts storage=1;                       \n";

/// Where the numbers begin in [`BLOCK`].
const BLOCK_AT: usize = 22;

/// How the names of records begin.
const RECORD: &str = "format-";

impl Formats {
    /// Those of this build.
    pub fn here() -> Self {
        // Opaque to the compiler, so that the text in the binary is the only truth.
        let block: &'static [u8; 48] = std::hint::black_box(&BLOCK);
        let text = block.get(BLOCK_AT..).unwrap_or_default();
        let text = text.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        Self::parse(text).unwrap_or(Self { min: 1, max: 1 })
    }

    /// Reads `1` or `1-2`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|number| digits && *number > 0)
        };
        let formats = Self { min: number(min)?, max: number(max)? };
        (formats.min <= formats.max).then_some(formats)
    }

    /// Whether a directory in this format can be opened.
    pub fn keep(self, format: u32) -> bool {
        (self.min..=self.max).contains(&format)
    }

    /// Settles the format of the directory that is being opened: refuses one that is not kept,
    /// and moves to `format_max` or the newest where that is later. `None`: this build's newest.
    pub(super) fn settle(self, disk: &dyn Disk, format_max: Option<u32>) -> Result<u32> {
        let found = recorded(&disk.names()?);
        if !self.keep(found) {
            let which = if found > self.max { "a newer" } else { "an older" };
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the data directory is in storage format {found} of {which} release, and this \
                     one opens {self}: start that release; nothing was changed"
                ),
            ));
        }
        let wanted = format_max.map_or(self.max, |max| max.min(self.max));
        if wanted <= found {
            return Ok(found);
        }
        let record = || {
            disk.open(&format!("{RECORD}{wanted}"))?;
            disk.sync_names()
        };
        match record() {
            Ok(()) => {
                tracing::info!("the data directory goes from storage format {found} to {wanted}");
                Ok(wanted)
            }
            // It works as it is. The name may be there all the same: then the next start goes on
            // in the later format, which this build opens.
            Err(error) => {
                tracing::warn!(%error, "the data directory stays in storage format {found}");
                Ok(found)
            }
        }
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}-{}", self.min, self.max),
        }
    }
}

/// The format of a directory that nobody needs to have open; 1 if it is not there.
pub fn format_of(dir: &Path) -> io::Result<u32> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(1),
        entries => entries?,
    };
    let name = |entry: io::Result<std::fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    Ok(recorded(&entries.map(name).collect::<io::Result<Vec<_>>>()?))
}

fn recorded(names: &[String]) -> u32 {
    let number = |name: &String| name.strip_prefix(RECORD)?.parse().ok();
    names.iter().filter_map(number).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::Directory;

    #[test]
    fn a_range_is_what_it_says() {
        assert_eq!(Formats::here(), Formats { min: 1, max: 1 });
        for text in ["1", "1-2", "3-17"] {
            assert_eq!(
                Formats::parse(text).map(|formats| formats.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in ["", "0", "2-1", "-", "1-", "-1", "+1", "1-2-3", "99999999999", "1 ", "x"] {
            assert_eq!(Formats::parse(text), None, "{text}");
        }
    }

    /// Opened by one release after the other, as an update does.
    #[test]
    fn a_directory_moves_forward_and_only_when_allowed() {
        let dir = std::env::temp_dir().join(format!("pillion-formats-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let disk = Directory::open(&dir).expect("a directory");
        let (old, new) = (Formats { min: 1, max: 1 }, Formats { min: 1, max: 2 });
        let names = || disk.names().expect("names").len();
        assert_eq!(old.settle(&disk, None).expect("it opens"), 1);
        assert_eq!(new.settle(&disk, Some(1)).expect("it opens"), 1);
        assert_eq!((names(), format_of(&dir).expect("readable")), (1, 1), "only the lock is there");
        assert_eq!(new.settle(&disk, None).expect("it opens"), 2);
        assert_eq!(new.settle(&disk, Some(1)).expect("it opens"), 2, "there is no way back");
        assert_eq!(format_of(&dir).expect("readable"), 2);
        let error = old.settle(&disk, None).expect_err("newer");
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("storage format 2 of a newer release"), "{error}");
        let late = Formats { min: 3, max: 4 };
        assert!(late.settle(&disk, None).expect_err("older").message().contains("an older"));
        assert_eq!(names(), 2);
        let _ = std::fs::remove_dir_all(&dir);
    }
}
