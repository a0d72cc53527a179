//! Child processes that never outlive this one.
//!
//! A process that is killed cannot clean up, and statics are never dropped. So each child has a guard: a shell that waits
//! for the end of a pipe, which only this process holds open, and then kills the child. It holds for every way to end,
//! `kill -9` included, on every Unix. (A parent-death signal would not do: it comes when the *thread* that spawned the
//! child ends, and each test has its own thread.)

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Waits for a line. The end of the pipe without a line means that the parent is gone: kill, then remove the folder.
const GUARD: &str = r#"read -r line || { kill -KILL "$1" 2>/dev/null
while kill -0 "$1" 2>/dev/null; do sleep 0.05; done
[ -z "$2" ] || rm -rf -- "$2"; }"#;

/// How often the end of a process is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A signal that the tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ask for an orderly end.
    Term,
    /// As Ctrl-C does.
    Int,
    /// End at once.
    Kill,
    /// Stop running, as a paused machine does.
    Stop,
    /// Run on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    scratch: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Program {
    /// A program, called `name` in messages, that writes its output to `log`.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: log.into(),
            scratch: None,
            folder: None,
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn arguments<I: IntoIterator<Item = A>, A: Into<OsString>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets variables of its environment.
    #[must_use]
    pub fn environment(mut self, variables: &[(String, String)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    /// The folder to run in; without, this process' own.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// A folder of its own, removed when this process ends without having stopped the program.
    #[must_use]
    pub fn scratch(mut self, folder: impl Into<PathBuf>) -> Self {
        self.scratch = Some(folder.into());
        self
    }

    /// Starts it, in a process group of its own so that Ctrl-C reaches only us.
    pub fn start(self) -> Result<Process> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        let mut command = Command::new(&self.path);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = command
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("duplicating the log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {} ({})", self.name, self.path.display()))?;
        let mut process = Process { name: self.name, log: self.log, child, guard: None, status: None, left: false };
        process.guard = Some(Guard::over(&process.child, self.scratch.as_deref())?);
        Ok(process)
    }
}

/// The shell that ends a child when we are gone.
#[derive(Debug)]
struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    fn over(child: &Child, scratch: Option<&Path>) -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(child.id().to_string())
            .arg(scratch.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the shell that guards a child process")?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Lets the shell end without touching anything: the child is reaped, and its pid may be somebody else's soon.
    fn dismiss(mut self) {
        use std::io::Write as _;
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    guard: Option<Guard>,
    status: Option<ExitStatus>,
    left: bool,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.settle(status);
        }
        self.status
    }

    /// Fails, with the end of its log, when it does not run any more.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), self.tail(15))
            }
        }
    }

    /// Sends a signal; nothing happens if it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        // The shell's own `kill`: no program of that name is needed. The child is not reaped yet, so the id is its own.
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "kill", signal.name()])
            .arg(self.id().to_string())
            .status()
            .with_context(|| format!("sending SIG{} to {}", signal.name(), self.name))?;
        // It may have ended in between; that is what most signals are for.
        if !status.success() && self.ended().is_none() {
            bail!("sending SIG{} to {} failed", signal.name(), self.name);
        }
        Ok(())
    }

    /// Waits for its end. `None`: it still runs after `timeout`.
    pub async fn end(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if started.elapsed() > timeout {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.settle(status);
            }
        }
    }

    /// Lets it outlive this process; returns its id.
    pub fn leave_running(mut self) -> u32 {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        self.left = true;
        self.id()
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn settle(&mut self, status: ExitStatus) {
        self.status = Some(status);
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left {
            self.kill();
        }
    }
}

/// The last lines of a file, or why it cannot be read.
pub fn tail(file: &Path, lines: usize) -> String {
    match std::fs::read(file) {
        Err(error) => format!("({error})"),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
    }
}

/// Whether a process ended by SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Program::new("sleeper", "sleep", folder.join("log")).arguments(["600"]).start().expect("sleep starts")
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(folder.path());
        let id = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[tokio::test]
    async fn the_guard_kills_the_child_and_removes_its_folder_when_the_pipe_closes() {
        let folder = tempfile::tempdir().expect("a folder");
        let scratch = folder.path().join("scratch");
        std::fs::create_dir(&scratch).expect("the folder can be made");
        let mut process = Program::new("sleeper", "sleep", folder.path().join("log"))
            .arguments(["600"])
            .scratch(&scratch)
            .start()
            .expect("sleep starts");
        // What the kernel does when this process ends.
        process.guard.as_mut().expect("a guard").pipe = None;
        let status = process.end(Duration::from_secs(5)).await.expect("the child has ended");
        assert!(was_killed(status));
        for _ in 0..100 {
            if !scratch.exists() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{} is still there", scratch.display());
    }

    #[tokio::test]
    async fn a_stopped_process_runs_on_and_ends_by_sigterm() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = sleeper(folder.path());
        process.signal(Signal::Stop).expect("it can be stopped");
        process.signal(Signal::Term).expect("it can be asked to end");
        assert_eq!(process.end(Duration::from_millis(200)).await, None);
        process.signal(Signal::Cont).expect("it can go on");
        let status = process.end(Duration::from_secs(5)).await.expect("it has ended");
        assert_eq!(status.signal(), Some(15));
    }
}
