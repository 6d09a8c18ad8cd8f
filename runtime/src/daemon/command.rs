//! The app's own process, in `pillion run … -- COMMAND`.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Time between the app's SIGTERM and its SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The app as our child. It ends when we do, even when we are killed.
pub(super) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` with `variables` added to our own environment.
    pub(super) fn start(
        command: &[OsString],
        variables: &[(&'static str, String)],
    ) -> Result<Self, String> {
        let Some((program, arguments)) = command.split_first() else {
            return Err("there is no command after --".into());
        };
        let name = program.to_string_lossy().into_owned();
        let mut builder = Command::new(program);
        builder.args(arguments).kill_on_drop(true);
        builder.envs(variables.iter().map(|(variable, value)| (variable, value)));
        end_with_parent(&mut builder);
        match builder.spawn() {
            Ok(child) => Ok(Self { child, name }),
            Err(error) => Err(format!("cannot start {name}: {error}")),
        }
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end and gives the exit code for ours: its own, or 128 plus the signal that
    /// ended it. Cancel safe.
    pub(super) async fn ended(&mut self) -> u8 {
        match self.child.wait().await {
            Ok(status) => {
                tracing::info!("the app {} ended: {status}", self.name);
                exit_code(status)
            }
            Err(error) => {
                tracing::error!("the app {} cannot be waited for: {error}", self.name);
                1
            }
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn stop(mut self) {
        let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) else { return };
        // SAFETY: kill has no memory to misuse; the child is not reaped yet, so its id is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("the app {} did not end within {STOP_TIMEOUT:?}: killed", self.name);
            // Fails only if it has just ended by itself.
            let _ = self.child.kill().await;
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Lets the kernel end the child when this thread ends, so that a killed Pillion leaves no app
/// behind. Spawning happens on the thread that lives as long as the process.
fn end_with_parent(builder: &mut Command) {
    let set = || {
        // SAFETY: prctl with these arguments only sets a property of the calling process, and is
        // safe between fork and exec.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    unsafe { builder.pre_exec(set) };
}
