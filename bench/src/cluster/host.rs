//! What makes a host? A marsd, a poold, and directories that outlive both.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Answer, Condition, Daemon, LIMIT, VG, Wire, free_address, program};

/// Lines shown of a log when something failed.
const LOG_LINES: usize = 40;

/// One host of a cluster.
#[derive(Debug)]
pub struct Host {
    name: String,
    dir: PathBuf,
    marsd: Daemon,
    poold: Daemon,
    peer_address: SocketAddr,
    api_address: SocketAddr,
    wire: Option<Wire>,
}

impl Host {
    /// Starts both daemons below `parent/name` and waits until both answer. With `wired` its peers reach it through a
    /// [`Wire`].
    pub(super) fn start(name: &str, parent: &Path, wired: bool) -> Result<Host> {
        let dir = parent.join(name);
        for part in ["marsd", "poold", "run"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("make {}", dir.display()))?;
        }
        // Settings of this machine's own daemons, if it has any, are not ours.
        for file in ["marsd.toml", "poold.toml"] {
            std::fs::write(dir.join(file), "").with_context(|| format!("write {file}"))?;
        }
        let (address, peer_port, api_port) = free_address()?;
        let (peer_address, api_address) = (
            SocketAddr::from((address, peer_port)),
            SocketAddr::from((address, api_port)),
        );
        let wire = wired.then(|| Wire::to(peer_address)).transpose()?;
        let marsd = Daemon::start(
            &mut marsd(&dir, peer_address)?,
            &format!("{name}/marsd"),
            &dir.join("marsd.log"),
        )?;
        let poold = Daemon::start(
            &mut poold(name, &dir, api_address, reached_at(peer_address, wire.as_ref()))?,
            &format!("{name}/poold"),
            &dir.join("poold.log"),
        )?;
        let host = Host {
            name: name.to_owned(),
            dir,
            marsd,
            poold,
            peer_address,
            api_address,
            wire,
        };
        host.marsd.wait_for_socket(&host.control_socket())?;
        host.poold.wait_for_socket(&host.api_socket())?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its marsd listens for peers.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where its poold listens for other hosts.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Where its marsd takes orders.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// Where its poold takes requests.
    pub fn api_socket(&self) -> PathBuf {
        self.dir.join("run/api.sock")
    }

    /// Where its marsd keeps logs and state.
    pub fn marsd_dir(&self) -> PathBuf {
        self.dir.join("marsd")
    }

    /// Where its poold keeps the catalog and its credentials.
    pub fn poold_dir(&self) -> PathBuf {
        self.dir.join("poold")
    }

    /// Its volume group.
    pub fn vg_dir(&self) -> PathBuf {
        self.dir.join(VG)
    }

    /// The data plane.
    pub fn marsd(&self) -> &Daemon {
        &self.marsd
    }

    /// The control plane.
    pub fn poold(&self) -> &Daemon {
        &self.poold
    }

    /// Starts marsd again after it was killed, and waits until it answers.
    pub fn restart_marsd(&self) {
        self.start_marsd_again().expect("marsd starts again");
        self.marsd
            .wait_for_socket(&self.control_socket())
            .expect("marsd listens again");
    }

    /// Starts marsd again without waiting for anything.
    pub fn start_marsd_again(&self) -> Result<()> {
        self.marsd.restart(&mut marsd(&self.dir, self.peer_address)?)
    }

    /// Starts poold again after it was killed, and waits until it answers.
    pub fn restart_poold(&self) {
        self.start_poold_again().expect("poold starts again");
        self.poold
            .wait_for_socket(&self.api_socket())
            .expect("poold listens again");
    }

    /// Starts poold again without waiting for anything.
    pub fn start_poold_again(&self) -> Result<()> {
        self.poold.restart(&mut poold(
            &self.name,
            &self.dir,
            self.api_address,
            reached_at(self.peer_address, self.wire.as_ref()),
        )?)
    }

    /// Does this to what its peers send to it; the cluster must have been started with wires.
    pub fn set_wire(&self, condition: Condition) {
        self.wire.as_ref().expect("a cluster with wires").set(condition);
    }

    /// Gives the host its volume group, of this size if one is named.
    pub fn add_vg(&self, size: Option<&str>) {
        let dir = self.vg_dir();
        let dir = dir.to_str().expect("test directories are UTF-8");
        let mut arguments = vec!["vg", "add", VG, "--dir", dir];
        arguments.extend(size.iter().flat_map(|size| ["--size", *size]));
        self.ok(&arguments);
    }

    /// Runs `poolctl --json` here; panics when it has not ended after [`LIMIT`].
    pub fn ctl(&self, arguments: &[&str]) -> Answer {
        let program = program("poolctl").expect("poolctl is built");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("POOLCTL_SOCKET", self.api_socket())
            .arg("--json")
            .args(arguments);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.expect("poolctl runs");
        let line = format!("{}# poolctl {}", self.name, arguments.join(" "));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (done, ended) = mpsc::channel();
        thread::spawn(move || done.send(child.wait_with_output()));
        match ended.recv_timeout(LIMIT) {
            Ok(output) => Answer::new(&output.expect("poolctl's answer can be read"), line),
            Err(_) => {
                let _ended_meanwhile = pid.map(|pid| kill_process(pid, Signal::KILL));
                panic!("{line} did not end within {LIMIT:?}");
            }
        }
    }

    /// Runs `poolctl --json` here; it must succeed.
    pub fn ok(&self, arguments: &[&str]) -> Value {
        self.ctl(arguments).ok()
    }

    /// Lines of its logs that somebody should have looked at: errors and panics.
    pub(super) fn alarms(&self) -> Vec<String> {
        let alarming = |line: &&str| line.contains("ERROR") || line.contains("panicked at");
        let of = |daemon: &Daemon| {
            let log = daemon.log();
            log.lines()
                .filter(alarming)
                .map(|line| format!("{}: {line}", daemon.name()))
                .collect::<Vec<_>>()
        };
        [of(&self.marsd), of(&self.poold)].concat()
    }

    /// The ends of its logs, for people.
    pub(super) fn log_ends(&self) -> String {
        let mut all = String::new();
        for daemon in [&self.marsd, &self.poold] {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                all,
                "── {}, last {} of {} lines\n{}",
                daemon.name(),
                end.len(),
                lines.len(),
                end.join("\n")
            );
        }
        all
    }
}

/// Under which address other marsds are told to reach a host's one.
fn reached_at(peer_address: SocketAddr, wire: Option<&Wire>) -> SocketAddr {
    wire.map_or(peer_address, Wire::address)
}

fn marsd(dir: &Path, peer_address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(program("marsd")?);
    command
        .env("MARSD_CONFIG", dir.join("marsd.toml"))
        .env("MARSD_STATE_DIR", dir.join("marsd"))
        .env("MARSD_RUN_DIR", dir.join("run"))
        .env("MARSD_LISTEN", peer_address.to_string())
        .env("NO_COLOR", "1");
    Ok(command)
}

fn poold(name: &str, dir: &Path, api_address: SocketAddr, peer_address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(program("poold")?);
    command
        .env("POOLD_CONFIG", dir.join("poold.toml"))
        .env("POOLD_NODE", name)
        .env("POOLD_STATE_DIR", dir.join("poold"))
        .env("POOLD_API_SOCK", dir.join("run/api.sock"))
        .env("POOLD_LISTEN", api_address.to_string())
        .env("POOLD_MARSD_CONTROL", dir.join("run/control.sock"))
        .env("POOLD_MARSD_PEER", peer_address.to_string())
        .env("NO_COLOR", "1");
    Ok(command)
}
