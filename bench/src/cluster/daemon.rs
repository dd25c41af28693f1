//! How is a program started in the background, killed, paused, and gone in the end?

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::PAUSE;

/// After this time a program has not started.
const START_LIMIT: Duration = Duration::from_secs(30);
/// After this time a program that was asked to end is killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A program at work; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Daemon {
    /// Starts `command`; stdout and stderr are appended to `log`.
    pub fn start(command: &mut Command, name: &str, log: &Path) -> Result<Daemon> {
        let child = spawn(command, log).with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Daemon {
            name: name.to_owned(),
            log: log.to_owned(),
            child: Mutex::new(child),
        })
    }

    /// Starts another incarnation, once this one has ended.
    pub fn restart(&self, command: &mut Command) -> Result<()> {
        let mut child = self.child();
        if child.try_wait().context("look at the old process")?.is_none() {
            bail!("{} still runs", self.name);
        }
        *child = spawn(command, &self.log).with_context(|| format!("restart {}", self.name))?;
        Ok(())
    }

    /// Waits until somebody listens there.
    pub fn wait_for_socket(&self, path: &Path) -> Result<()> {
        self.wait_until_it_listens(&path.display().to_string(), || UnixStream::connect(path).is_ok())
    }

    /// Waits until somebody listens there.
    pub fn wait_for_port(&self, address: SocketAddr) -> Result<()> {
        self.wait_until_it_listens(&address.to_string(), || TcpStream::connect(address).is_ok())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _gone_already = self.child().wait();
    }

    /// Asks it to end, as systemd does; killed if it does not. Whether it ended by itself, and with success.
    pub fn terminate(&self) -> bool {
        self.signal(Signal::TERM);
        match self.wait(END_LIMIT) {
            Some(code) => code == 0,
            None => {
                self.kill();
                false
            }
        }
    }

    /// Stops it in mid-work (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused one go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Waits for its end: the exit code, -1 if it was killed; `None` if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                return Some(status.code().unwrap_or(-1));
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // One that has ended and was waited for may have left its id to somebody else.
        if matches!(child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let _ended_meanwhile = kill_process(pid, signal);
        }
    }

    fn wait_until_it_listens(&self, what: &str, listens: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !listens() {
            if !self.is_running() {
                bail!("{} ended at once:\n{}", self.name, self.log());
            }
            if Instant::now() >= deadline {
                bail!("{} does not listen on {what}:\n{}", self.name, self.log());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.with_context(|| format!("open {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(command.spawn()?)
}
