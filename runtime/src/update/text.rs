//! Small texts: read with a bound, shown without tricks. Apart, because their callers are many and
//! the code of each would stand in the binary again.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

/// Reads text to its end, at most so many bytes of it; an error if it is not UTF-8.
#[inline(never)]
pub(super) fn read(from: &mut dyn Read, bytes_max: usize) -> io::Result<String> {
    let mut bytes = vec![0; bytes_max];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What others said, for a terminal: what could move its cursor is a question mark.
#[inline(never)]
pub(super) fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.trim().chars().map(plain).collect()
}

/// What is wrong with a file.
#[inline(never)]
pub(super) fn wrong(path: &Path, what: &dyn Display) -> String {
    format!("{}: {what}", path.display())
}

/// What is wrong with an image.
#[inline(never)]
pub(super) fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}
