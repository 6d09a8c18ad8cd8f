//! `pillion update`: an image goes into a slot and is marked for a trial; what is confirmed stays as
//! it is. Also shows the slots, and goes back to what was confirmed before.

use super::image::{Image, ReadError};
use super::slots::{Slots, sync_dir};
use super::state::{Choice, Release, Slot, State, Trial};
use super::{keys, smoke, text};
use crate::resources::UpdatePlan;
use crate::version::Version;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What stays free on the disk besides the binary: the service writes there too.
const RESERVE_BYTES: u64 = 1 << 20;

/// Largest file of a process's id.
const PID_BYTES_MAX: usize = 64;

/// Stops on request that give a start of a trial back.
const STOPS_MAX: u32 = 5;

/// What is asked for.
#[derive(Debug)]
pub enum Action {
    /// Put this image into a slot; then tell the service to end, so that it is started again.
    Install {
        /// The image.
        file: PathBuf,
        /// Tell the service.
        restart: bool,
    },
    /// Show base, slots and data.
    Status,
    /// Confirm what was confirmed before.
    Revert,
}

/// `pillion update`, as the command line and the Gateway say it.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub action: Action,
    /// The service's data directory.
    pub data_dir: PathBuf,
    /// `Gateway.spec.update`.
    pub plan: UpdatePlan,
}

/// Does it, tells the terminal, and gives the exit code: 1 when it was refused, and then nothing
/// was changed, or when all is done but the service could not be told.
pub fn run(request: &Request) -> u8 {
    let done = match &request.action {
        Action::Install { file, restart } => install(request, file, *restart),
        Action::Status => status(request),
        Action::Revert => revert(request),
    };
    match done {
        Ok(text) => {
            let _ = writeln!(io::stdout(), "{text}");
            0
        }
        Err(refusal) => {
            let _ = writeln!(io::stderr(), "pillion update: {refusal}");
            1
        }
    }
}

fn install(request: &Request, file: &Path, restart: bool) -> Result<String, String> {
    let shown = file.display();
    let keys = request.plan.keys.iter().map(keys::read);
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("no key may sign updates: add spec.update.keys to the Gateway".into());
    }
    let opened = File::open(file).map_err(|error| text::wrong(file, &error))?;
    let image = Image::open(opened, &keys).map_err(|wrong| format!("{shown} {wrong}"))?;
    let slots = service_slots(request)?;
    let (state, _) = slots.read();
    check_fits(&image, &slots, &state).map_err(|wrong| format!("{shown} {wrong}"))?;
    image.read(|_| Ok(())).map_err(|error| format!("{shown} {}", unread(&error)))?;
    check_space(&request.data_dir, image.head.length)?;

    let cannot = |error: io::Error| text::wrong(&slots.dir(), &error);
    Slots::make_dir(&slots.dir()).map_err(cannot)?;
    let _lock = slots.lock().map_err(cannot)?.ok_or(
        "an update is being written or on trial: wait until it is confirmed or rolled back, see \
         pillion update --status",
    )?;
    // It may have changed before the lock was ours.
    let (mut state, _) = slots.read();
    check_fits(&image, &slots, &state).map_err(|wrong| format!("{shown} {wrong}"))?;
    let slot = state.confirmed.release().map_or(Slot::A, |release| release.slot.other());
    let new = write_new(&slots, slot, &image).map_err(|wrong| format!("{shown} {wrong}"))?;
    let release = Release {
        slot,
        version: image.head.version,
        formats: image.head.formats,
        sha256: image.head.sha256,
    };
    mark(&slots, &mut state, release, &new, &request.plan).map_err(|error| {
        let _ = fs::remove_file(&new);
        cannot(error)
    })?;
    let version = image.head.version;
    let done = format!("{version} is in slot {} and is tried at the next start", slot.name());
    if !restart {
        return Ok(format!(
            "{done}\nnext: systemctl restart pillion; then pillion update --status"
        ));
    }
    let pid = stop_service(&request.data_dir).map_err(|wrong| format!("{done}, but {wrong}"))?;
    Ok(format!("{done}\nthe service (pid {pid}) was told to end; see pillion update --status"))
}

/// The slots of the service, and from here on its user's rights only: root must not be led
/// anywhere by what that user may have put into its directory.
fn service_slots(request: &Request) -> Result<Slots<'_>, String> {
    let shown = request.data_dir.display();
    let metadata = fs::metadata(&request.data_dir).map_err(|error| {
        format!("{shown}: {error}: start the service once, or name its directory with --data-dir")
    })?;
    // SAFETY: these calls take numbers and change the rights of this process only, which has one
    // thread.
    let dropped = unsafe {
        libc::geteuid() != 0
            || metadata.uid() == 0
            || (libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(metadata.gid()) == 0
                && libc::setuid(metadata.uid()) == 0)
    };
    match dropped {
        true => Ok(Slots::of(&request.data_dir)),
        false => Err(format!("{shown}: the rights of its owner cannot be taken on")),
    }
}

/// Whether the image may follow what runs now; the error says why not.
fn check_fits(image: &Image, slots: &Slots<'_>, state: &State) -> Result<(), String> {
    let head = &image.head;
    let base = Version::here();
    // What is confirmed may be damaged, or a package may have overtaken it: then the base runs, and
    // the same image mends it.
    let confirmed = state.confirmed.release();
    let is_fine = |it: &&Release| it.version > base && slots.check(it).is_ok();
    let runs = confirmed.filter(is_fine).map_or(&Choice::Base, |_| &state.confirmed);
    let (version, now) = (&head.version, runs.version());
    if *version <= now {
        let which = if *version == now { "the version that is" } else { "older than what is" };
        return Err(format!(
            "holds {version}, {which} confirmed ({now}): get a newer one; to go back see \
             pillion update --revert"
        ));
    }
    let format = slots.data_format().map_err(|error| error.to_string())?;
    let formats = head.formats;
    if !formats.keep(format) {
        return Err(format!(
            "keeps storage format {formats}, and the data is in {format}: update to a release \
             between {now} and {version} first"
        ));
    }
    // While it is on trial, what runs now must be able to open whatever it writes.
    if formats.min > runs.formats().max {
        return Err(format!(
            "keeps storage format {formats}, and {now} opens {}: update to a release between them \
             first",
            runs.formats()
        ));
    }
    Ok(())
}

fn check_space(dir: &Path, length: u64) -> Result<(), String> {
    let path = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes())
        .map_err(|_| format!("{}: no name of a directory", dir.display()))?;
    // SAFETY: the structure is plain numbers that the call fills in; the name ends in a zero and
    // outlives the call.
    let (result, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    #[allow(clippy::useless_conversion, reason = "these numbers have 32 bits on some targets")]
    let free = u64::from(stat.f_bavail).saturating_mul(u64::from(stat.f_frsize));
    let needed = length + RESERVE_BYTES;
    if result == 0 && free < needed {
        return Err(format!(
            "{} has {free} bytes free and the update needs {needed}: make room",
            dir.display()
        ));
    }
    Ok(())
}

/// Writes the binary beside the slot's own, looks at it, and gives its name. On an error nothing is
/// left of it.
fn write_new(slots: &Slots<'_>, slot: Slot, image: &Image) -> Result<PathBuf, String> {
    let dir = slots.slot_dir(slot);
    let new = dir.join("pillion.new");
    let cannot = |error: io::Error| format!("cannot be written to {}: {error}", dir.display());
    Slots::make_dir(&dir).map_err(cannot)?;
    // What an update left that was killed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let write = || {
        let mut options = File::options();
        let mut file =
            options.write(true).create_new(true).mode(0o755).open(&new).map_err(cannot)?;
        image.read(|part| file.write_all(part)).map_err(|error| unread(&error))?;
        file.sync_all().map_err(cannot)?;
        // Whatever the umask: it must be executable for the service.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        file.set_permissions(mode).map_err(cannot)?;
        drop(file);
        smoke::check(&new, &image.head)
    };
    write().map(|()| new.clone()).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

fn unread(error: &ReadError) -> String {
    match error {
        ReadError::Image(error) => text::unreadable(error),
        ReadError::Target(error) => format!("cannot be written to its slot: {error}"),
        ReadError::Damaged => "holds a binary that is not the one that was signed: it is damaged; \
                               get it again"
            .into(),
    }
}

/// The new binary takes the slot and is on trial. Before that nothing names the slot any more: at
/// no time does the state promise what the slot does not hold.
fn mark(
    slots: &Slots<'_>,
    state: &mut State,
    release: Release,
    new: &Path,
    plan: &UpdatePlan,
) -> io::Result<()> {
    let slot = release.slot;
    if state.names(slot) {
        state.previous = state.previous.filter(|choice| choice.release().is_none());
        state.trial = None;
        slots.write(state)?;
    }
    fs::rename(new, slots.binary(slot))?;
    sync_dir(&slots.slot_dir(slot))?;
    state.note(&format!("{} was written to slot {}", release.version, slot.name()));
    state.trial = Some(Trial {
        release,
        attempts: plan.attempts,
        stops: STOPS_MAX,
        ready: plan.ready_timeout,
        probation: plan.probation,
    });
    slots.write(state)
}

/// Asks the process that holds the data directory to end; gives its id.
fn stop_service(data_dir: &Path) -> Result<i32, String> {
    let nobody = || "no service holds the data directory: start it".to_owned();
    let mut lock = File::open(data_dir.join("lock")).map_err(|_| nobody())?;
    if lock.try_lock_shared().is_ok() {
        return Err(nobody());
    }
    let text = text::read(&mut lock, PID_BYTES_MAX).unwrap_or_default();
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or("the service's process is not known: restart it by hand")?;
    // SAFETY: kill takes numbers only.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 {
        return Ok(pid);
    }
    let error = io::Error::last_os_error();
    Err(format!("the service (pid {pid}) cannot be told to end: {error}: restart it by hand"))
}

fn revert(request: &Request) -> Result<String, String> {
    let slots = service_slots(request)?;
    let nothing = "nothing was confirmed before what is confirmed now";
    if !slots.exist() {
        return Err(nothing.into());
    }
    let cannot = |error: io::Error| text::wrong(&slots.dir(), &error);
    let _lock = slots.lock().map_err(cannot)?.ok_or("an update is being written or on trial")?;
    let (mut state, _) = slots.read();
    let previous = state.previous.ok_or(nothing)?;
    let version = previous.version();
    let (format, formats) = (slots.data_format().map_err(cannot)?, previous.formats());
    if !formats.keep(format) {
        return Err(format!(
            "{version} opens storage format {formats}, and the data is in {format} by now: there is \
             no way back"
        ));
    }
    if let Some(release) = previous.release() {
        slots.check(release)?;
    }
    let from = state.confirmed.version();
    state.confirmed = previous;
    state.previous = None;
    state.trial = None;
    state.note(&format!("{from} was given up for {version} by hand"));
    slots.write(&mut state).map_err(cannot)?;
    Ok(format!("{version} is confirmed in place of {from}\nnext: systemctl restart pillion"))
}

fn status(request: &Request) -> Result<String, String> {
    let slots = service_slots(request)?;
    let (state, wrong) = slots.read();
    let format = slots.data_format().map_err(|error| error.to_string())?;
    let base = (Version::here(), Choice::Base.formats());
    let mut text = format!("base    {}  storage format {}", base.0, base.1);
    let is_base = state.confirmed.version() <= base.0;
    text.push_str(if is_base { "  confirmed" } else { "" });
    for slot in [Slot::A, Slot::B] {
        let _ = write!(text, "\nslot {}  {}", slot.name(), shown(&slots, &state, slot, is_base));
    }
    let _ = write!(text, "\ndata    storage format {format}");
    let last = state.last.or_else(|| wrong.map(|wrong| format!("{wrong}: the base starts")));
    let _ = write!(text, "\nlast    {}", last.as_deref().unwrap_or("no update yet"));
    Ok(text)
}

fn shown(slots: &Slots<'_>, state: &State, slot: Slot, is_base: bool) -> String {
    let of = |release: &Release, role: &str| {
        let Release { version, formats, .. } = release;
        let wrong = slots.check(release).err().map_or(String::new(), |wrong| format!("; {wrong}"));
        format!("{version}  storage format {formats}  {role}{wrong}")
    };
    let is_here = |release: &&Release| release.slot == slot;
    if let Some(trial) = state.trial.as_ref().filter(|trial| trial.release.slot == slot) {
        return of(&trial.release, &format!("on trial, {} starts left", trial.attempts));
    }
    if let Some(release) = state.confirmed.release().filter(is_here) {
        return of(release, if is_base { "overtaken by the base" } else { "confirmed" });
    }
    match state.previous.as_ref().and_then(Choice::release).filter(is_here) {
        Some(release) => of(release, "confirmed before"),
        None => "free".into(),
    }
}
