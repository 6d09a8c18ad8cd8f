//! A disk in memory that remembers every write and sync, can fail, and can say what a power cut
//! would have left.
//!
//! Room is counted as filesystems do: in pages, of which a hole takes none. A file that was only
//! made longer is a hole; a write into it takes room, and so does a reservation.
//!
//! Everything that happens to it has a number. After a cut at number n, what was synced before n
//! is there. Of the rest each write, rename and removal may be there or not, in any order, and a
//! write may be torn at a sector.

use super::Random;
use crate::storage::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Debug, Clone)]
enum Event {
    Create { file: usize, name: String },
    Write { file: usize, offset: usize, bytes: Arc<[u8]> },
    SetLen { file: usize, len: usize },
    Sync { file: usize },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncNames,
}

/// Which calls fail, counted from the moment this is set.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Faults {
    pub(in super::super) kind: io::ErrorKind,
    /// Calls that succeed before.
    pub(in super::super) after: u64,
    /// Calls that fail then.
    pub(in super::super) times: u64,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    events: Vec<Event>,
    /// Files and names before the first event.
    base: (Vec<Vec<u8>>, BTreeMap<String, usize>),
    remembers: bool,
    faults: Option<Faults>,
    /// Which pages of each file are on the medium; the others are holes.
    there: Vec<Vec<bool>>,
    /// Bytes of pages that all files together may have.
    capacity: Option<usize>,
    /// It cannot reserve: room is taken by writes alone.
    is_lazy: bool,
    writes: u64,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl SimDisk {
    /// Remembers what happens from the beginning, so that cuts can be tried.
    pub(in super::super) fn remembering() -> Self {
        let disk = Self::default();
        disk.state().remembers = true;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    /// The number of the next event.
    pub(in super::super) fn now(&self) -> usize {
        self.state().events.len()
    }

    pub(in super::super) fn fail(&self, faults: Option<Faults>) {
        self.state().faults = faults;
    }

    pub(in super::super) fn set_capacity(&self, capacity: Option<usize>) {
        self.state().capacity = capacity;
    }

    /// Makes it one that cannot reserve.
    pub(in super::super) fn set_lazy(&self) {
        self.state().is_lazy = true;
    }

    pub(in super::super) fn capacity(&self) -> usize {
        self.state().capacity.unwrap_or(usize::MAX)
    }

    /// Bytes that are free.
    pub(in super::super) fn room(&self) -> usize {
        self.capacity().saturating_sub(self.used())
    }

    /// Bytes of pages that are in use.
    pub(in super::super) fn used(&self) -> usize {
        self.state().used()
    }

    /// Sizes of the files whose names begin so.
    pub(in super::super) fn names_bytes(&self, begin: &str) -> Vec<usize> {
        let state = self.state();
        let files = state.names.iter().filter(|(name, _)| name.starts_with(begin));
        files.map(|(_, file)| state.files[*file].len()).collect()
    }

    /// Bytes of a file that are in no page.
    pub(in super::super) fn holes(&self, name: &str) -> usize {
        let state = self.state();
        let Some(file) = state.names.get(name) else { return 0 };
        state.there[*file].iter().filter(|is_there| !**is_there).count() * PAGE
    }

    /// Calls that can fail, so far.
    pub(in super::super) fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Goes through what happened, for cuts in ascending order.
    pub(in super::super) fn cuts(&self) -> Cuts {
        let state = self.state();
        let (files, names) = state.base.clone();
        let loose = vec![Vec::new(); files.len()];
        Cuts { events: state.events.clone(), files, names, loose, ..Cuts::default() }
    }
}

/// What is on the medium and what is on its way, event by event.
#[derive(Debug, Default)]
pub(in super::super) struct Cuts {
    events: Vec<Event>,
    at: usize,
    files: Vec<Vec<u8>>,
    /// Per file the events that no sync has confirmed.
    loose: Vec<Vec<usize>>,
    names: BTreeMap<String, usize>,
    loose_names: Vec<usize>,
}

impl Cuts {
    pub(in super::super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The disk after the power was cut before event `at`, not below that of an earlier call.
    pub(in super::super) fn cut(&mut self, at: usize, random: &mut Random) -> SimDisk {
        while self.at < at.min(self.events.len()) {
            self.step();
        }
        let mut files = self.files.clone();
        let mut names = self.names.clone();
        // How much of what is loose arrives: sometimes all, sometimes nothing, else a part.
        let chance = [0, 100, 50, 90][random.below(4) as usize];
        for (file, loose) in self.loose.iter().enumerate() {
            for event in loose.iter().map(|index| &self.events[*index]) {
                if random.below(100) < chance {
                    land(event, &mut files[file]);
                } else if let Event::Write { offset, bytes, .. } = event {
                    tear(*offset, bytes, &mut files[file], random);
                }
            }
        }
        // Directories keep their order on the filesystems we care about.
        let kept = random.below(self.loose_names.len() as u64 + 1) as usize;
        for index in self.loose_names.iter().take(kept) {
            land_name(&self.events[*index], &mut names);
        }
        let base = (files.clone(), names.clone());
        let there = files.iter().map(|file| vec![true; file.len().div_ceil(PAGE)]).collect();
        let state = State { files, names, base, there, remembers: true, ..State::default() };
        SimDisk(Arc::new(Mutex::new(state)))
    }

    fn step(&mut self) {
        match &self.events[self.at] {
            Event::Create { file, .. } => {
                self.files.resize((file + 1).max(self.files.len()), Vec::new());
                self.loose.resize((file + 1).max(self.loose.len()), Vec::new());
                self.loose_names.push(self.at);
            }
            Event::Rename { .. } | Event::Remove { .. } => self.loose_names.push(self.at),
            Event::Write { file, .. } | Event::SetLen { file, .. } => {
                self.loose[*file].push(self.at);
            }
            Event::Sync { file } => {
                for index in self.loose[*file].drain(..) {
                    land(&self.events[index], &mut self.files[*file]);
                }
            }
            Event::SyncNames => {
                for index in self.loose_names.drain(..) {
                    land_name(&self.events[index], &mut self.names);
                }
            }
        }
        self.at += 1;
    }
}

fn land(event: &Event, file: &mut Vec<u8>) {
    match event {
        Event::Write { offset, bytes, .. } => put(file, *offset, bytes),
        Event::SetLen { len, .. } => file.resize(*len, 0),
        _ => {}
    }
}

/// A write of which some sectors arrived.
fn tear(offset: usize, bytes: &[u8], file: &mut Vec<u8>, random: &mut Random) {
    if random.below(2) == 0 {
        return;
    }
    let modulus = 1 + random.below(4);
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        if random.below(modulus + 1) == 0 {
            put(file, offset + index * SECTOR, sector);
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn land_name(event: &Event, names: &mut BTreeMap<String, usize>) {
    match event {
        Event::Create { file, name } => {
            names.insert(name.clone(), *file);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Event::Remove { name } => {
            names.remove(name);
        }
        _ => {}
    }
}

impl State {
    fn event(&mut self, event: Event) {
        if self.remembers {
            self.events.push(event);
        }
    }

    /// Fails if it is time.
    fn step(&mut self) -> io::Result<()> {
        self.writes += 1;
        let Some(faults) = &mut self.faults else { return Ok(()) };
        if faults.after > 0 {
            faults.after -= 1;
            return Ok(());
        }
        if faults.times > 0 {
            faults.times -= 1;
            return Err(faults.kind.into());
        }
        Ok(())
    }

    fn used(&self) -> usize {
        let there = self.names.values().filter_map(|file| self.there.get(*file));
        there.flatten().filter(|is_there| **is_there).count() * PAGE
    }

    /// Takes room for these bytes of a file: all of it or none.
    fn take(&mut self, file: usize, from: usize, end: usize) -> io::Result<()> {
        let pages = from / PAGE..end.div_ceil(PAGE);
        let has = |page: &usize| self.there[file].get(*page).copied().unwrap_or(false);
        let more = pages.clone().filter(|page| !has(page)).count() * PAGE;
        if more > 0 && self.capacity.is_some_and(|capacity| self.used() + more > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let there = &mut self.there[file];
        there.resize(there.len().max(pages.end), false);
        there[pages].fill(true);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => {
                state.step()?;
                state.files.push(Vec::new());
                state.there.push(Vec::new());
                let file = state.files.len() - 1;
                state.names.insert(name.to_owned(), file);
                state.event(Event::Create { file, name: name.to_owned() });
                file
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.event(Event::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.event(Event::Remove { name: name.to_owned() });
        Ok(())
    }
    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.event(Event::SyncNames);
        Ok(())
    }
    fn room(&self) -> io::Result<u64> {
        Ok(SimDisk::room(self) as u64)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.files[self.file].resize(len as usize, 0);
        state.there[self.file].resize((len as usize).div_ceil(PAGE), false);
        state.event(Event::SetLen { file: self.file, len: len as usize });
        Ok(())
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.is_lazy {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.step()?;
        state.take(self.file, 0, len as usize)?;
        if state.files[self.file].len() < len as usize {
            state.files[self.file].resize(len as usize, 0);
            state.event(Event::SetLen { file: self.file, len: len as usize });
        }
        Ok(())
    }
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let from = offset as usize;
        let found = state.files[self.file].get(from..from + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.take(self.file, offset as usize, offset as usize + bytes.len())?;
        put(&mut state.files[self.file], offset as usize, bytes);
        let (file, offset) = (self.file, offset as usize);
        if state.remembers {
            state.event(Event::Write { file, offset, bytes: bytes.into() });
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.event(Event::Sync { file: self.file });
        Ok(())
    }
}
