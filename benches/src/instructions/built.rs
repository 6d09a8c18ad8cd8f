//! What a binary was built for and by what, read from the file itself: one that was built for
//! another machine cannot be asked.

use crate::Result;
use std::fs;
use std::path::Path;

/// The file's own account.
pub(super) struct Built {
    /// As Rust calls the processor.
    pub(super) arch: &'static str,
    /// Compiler, C library and standard library, where they are not the usual ones of `arch`: a
    /// section of `instructions.toml`, because each of them makes other code.
    pub(super) section: String,
}

impl Built {
    /// Reads an ELF file.
    pub(super) fn of(binary: &Path) -> Result<Self> {
        let bytes = fs::read(binary)?;
        Self::parse(&bytes).map_err(|why| format!("{}: {why}", binary.display()).into())
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(b"\x7fELF") || bytes.get(5) != Some(&1) {
            return Err("not a little-endian ELF file".into());
        }
        let arch = match number(bytes, 18, 2)? {
            40 => "arm",
            62 => "x86_64",
            183 => "aarch64",
            other => return Err(format!("ELF machine {other} is not known here")),
        };
        // A static program has nobody to load it; ours are static with musl.
        let libc = if has_interpreter(bytes)? { "" } else { "-musl" };
        let version = text_after(bytes, b"rustc version ").ok_or("it does not name its rustc")?;
        let mut numbers = version.split('.');
        let (major, minor) = (numbers.next().unwrap_or("?"), numbers.next().unwrap_or("?"));
        // The library that comes with the compiler has its sources under a name that no folder
        // has; one that was compiled along is optimised as our own code is.
        let shipped = find(bytes, b"/rustc/").is_some();
        let std = if shipped { "" } else { ".std-from-source" };
        Ok(Self { arch, section: format!("{arch}{libc}.rustc-{major}_{minor}{std}") })
    }
}

/// Whether there is a program header of type `PT_INTERP`.
fn has_interpreter(bytes: &[u8]) -> Result<bool, String> {
    const PT_INTERP: usize = 3;
    // Where the two classes have the table's place, the size of an entry and their number.
    let (place, place_len, size, count) = match bytes.get(4) {
        Some(1) => (28, 4, 42, 44),
        _ => (32, 8, 54, 56),
    };
    let (place, size) = (number(bytes, place, place_len)?, number(bytes, size, 2)?);
    for index in 0..number(bytes, count, 2)? {
        let entry = place.saturating_add(index * size);
        if number(bytes, entry, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize, String> {
    let found = bytes.get(at..at.saturating_add(length)).ok_or("the file is cut off")?;
    Ok(found.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// Where `what` begins.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The word after `what`.
fn text_after<'a>(bytes: &'a [u8], what: &[u8]) -> Option<&'a str> {
    let rest = bytes.get(find(bytes, what)? + what.len()..)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_graphic())?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_tells_what_it_is() {
        let built = Built::of(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(built.arch, std::env::consts::ARCH);
        assert!(built.section.contains(".rustc-1_"), "{}", built.section);
    }

    /// A header of 52 or 64 bytes with one program header behind it, and what follows.
    fn file(class: u8, machine: u8, header_kind: u8, rest: &[u8]) -> Vec<u8> {
        let (length, place, size) = if class == 1 { (52, 28, 42) } else { (64, 32, 54) };
        let mut bytes = vec![0; length];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        bytes[18] = machine;
        bytes[place] = u8::try_from(length).unwrap();
        (bytes[size], bytes[size + 2]) = (32, 1);
        bytes.extend([header_kind, 0, 0, 0]);
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn sections_tell_builds_apart() {
        let shipped = b"/rustc/0123/library\0rustc version 1.95.0 (5980 2026)\0";
        let compiled = b"rustc version 1.96.0 (5980 2026)\0";
        for (bytes, section) in [
            (file(2, 62, 3, shipped), "x86_64.rustc-1_95"),
            (file(2, 183, 1, shipped), "aarch64-musl.rustc-1_95"),
            (file(1, 40, 1, compiled), "arm-musl.rustc-1_96.std-from-source"),
        ] {
            assert_eq!(Built::parse(&bytes).unwrap().section, section);
            for length in 0..bytes.len() - compiled.len() {
                // A file that is cut off is an error, not a panic.
                assert!(Built::parse(&bytes[..length]).is_err(), "{length}");
            }
        }
        assert!(Built::parse(b"#!/bin/sh\n").is_err());
    }
}
