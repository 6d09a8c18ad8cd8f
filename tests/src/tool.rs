//! Programs of others as judges: run to their end, or watched line by line.

use crate::{PATIENCE, until};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Tool {
    name: String,
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

/// What a program left that has ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Lines of its standard output.
    pub out: Vec<String>,
    /// Lines of its standard error.
    pub errors: Vec<String>,
}

impl Output {
    /// Panics with everything it said unless it ended well.
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

impl Tool {
    /// Starts it with nothing to read.
    pub fn start(command: Command) -> Self {
        Self::start_with(command, String::new())
    }

    /// Starts it with this text as its standard input.
    pub fn start_with(mut command: Command, input: String) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends before it has read everything is judged by what it says.
            std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        }
        let (out, errors) = (lines(child.stdout.take()), lines(child.stderr.take()));
        Self { name, child, out, errors }
    }

    /// Lines of its standard output so far.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its standard output once there are so many lines.
    pub async fn out_at_least(&self, count: usize) -> Vec<String> {
        let what = format!("line {count} of {}", self.name);
        until(&what, || async { Some(self.out()).filter(|out| out.len() >= count) }).await
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Output {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            let (name, out) = (&self.name, self.out());
            assert!(begun.elapsed() < PATIENCE, "still running: {name}\n{out:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        // The readers hold their lines until the pipes end, which is now or, where somebody else
        // has inherited them, whenever that one ends.
        let is_read = || Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.errors) == 1;
        let begun = Instant::now();
        while !is_read() && begun.elapsed() < PATIENCE / 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Output { status, out: self.out(), errors }
    }

    /// Runs a program to its end.
    pub async fn run(command: Command) -> Output {
        Self::start(command).ended().await
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: Option<impl Read + Send + 'static>) -> Arc<Mutex<Vec<String>>> {
    let kept = Arc::<Mutex<Vec<String>>>::default();
    if let Some(stream) = stream {
        let kept = kept.clone();
        // Ends with the program, which closes its end.
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }
    kept
}

/// A command with arguments.
pub fn command<A: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Python with what the tests need: `PILLION_TESTS_PYTHON`, else `python3`.
pub fn python(script: &Path) -> Command {
    let python = std::env::var_os("PILLION_TESTS_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg("-u").arg(script);
    command
}

/// A text of several arguments, split at blanks.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
