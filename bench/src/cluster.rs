//! How does a test get a pool? Built binaries on loopback: N hosts, each a marsd and a poold with a directory of its own.
//!
//! Driven only by `poolctl --json` and NBD, as a user would; daemons are killed, paused and started by their process id.
//! Everything is gone when the [`Cluster`] is dropped, after a panic too; logs are shown when something failed, and a
//! log with an unexpected error is a failure of its own.

mod answer;
mod daemon;
mod host;
mod poll;
mod wire;

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use serde_json::Value;
use tempfile::TempDir;

pub use answer::Answer;
pub use daemon::Daemon;
pub use host::Host;
pub use poll::{LIMIT, until};
pub use wire::{Condition, Wire};

use crate::nbd::Target;

/// The volume group that every host has.
pub const VG: &str = "vg0";

/// Ports below those that the kernel gives to clients: a restarted daemon finds its own again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A pool on this machine.
#[derive(Debug)]
pub struct Cluster {
    hosts: Vec<Host>,
    expected: RefCell<Vec<String>>,
    // Last: the daemons must be gone before their directories.
    dir: TempDir,
}

impl Cluster {
    /// Starts hosts with these names and joins them; the first one holds the catalog.
    pub fn start(names: &[&str]) -> Cluster {
        // Disks and logs belong on a disk; /tmp is often memory.
        Cluster::start_in(Path::new("/var/tmp"), names).expect("a pool starts")
    }

    /// [`Cluster::start`], and [`Cluster::set_network`] works.
    pub fn start_wired(names: &[&str]) -> Cluster {
        let cluster = Cluster::bare_in(Path::new("/var/tmp"), names, true).expect("daemons start");
        cluster.form();
        cluster
    }

    /// [`Cluster::start`] below a directory of the caller's choice.
    pub fn start_in(parent: &Path, names: &[&str]) -> Result<Cluster> {
        let cluster = Cluster::bare_in(parent, names, false)?;
        cluster.form();
        Ok(cluster)
    }

    /// Hosts whose daemons run, but which are in no pool.
    pub fn bare(names: &[&str]) -> Cluster {
        Cluster::bare_in(Path::new("/var/tmp"), names, false).expect("daemons start")
    }

    fn bare_in(parent: &Path, names: &[&str], wired: bool) -> Result<Cluster> {
        let dir = tempfile::Builder::new()
            .prefix("poold-test-")
            .tempdir_in(parent)
            .context("make a directory")?;
        let hosts = names
            .iter()
            .map(|name| Host::start(name, dir.path(), wired))
            .collect::<Result<_>>()?;
        Ok(Cluster {
            hosts,
            expected: RefCell::new(Vec::new()),
            dir,
        })
    }

    fn form(&self) {
        let first = &self.hosts[0];
        first.ok(&["pool", "init", "--name", "test"]);
        for host in &self.hosts[1..] {
            let token = first.ok(&["node", "token"]);
            host.ok(&[
                "node",
                "join",
                text(&token["url"]),
                "--token",
                text(&token["token"]),
            ]);
        }
        for host in &self.hosts {
            host.add_vg(None);
        }
        until("every host is online", || {
            let nodes = first.ok(&["node", "list"]);
            array(&nodes["nodes"])
                .iter()
                .all(|node| node["state"] == "online")
                .then_some(())
        });
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every host.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// One host.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .expect("a host of this cluster")
    }

    /// Does this to everything that data planes say to each other.
    pub fn set_network(&self, condition: Condition) {
        self.hosts.iter().for_each(|host| host.set_wire(condition));
    }

    /// Runs `poolctl --json` on a host.
    pub fn ctl(&self, host: &str, arguments: &[&str]) -> Answer {
        self.host(host).ctl(arguments)
    }

    /// Runs `poolctl --json` on a host; it must succeed.
    pub fn ok(&self, host: &str, arguments: &[&str]) -> Value {
        self.host(host).ok(arguments)
    }

    /// Creates a volume on these hosts, the first one being primary, and waits until every replica is whole.
    pub fn create(&self, volume: &str, size: &str, on: &[&str]) {
        let replicas = on.len().to_string();
        self.ok(
            self.hosts[0].name(),
            &[
                "volume",
                "create",
                volume,
                size,
                "--replicas",
                &replicas,
                "--on",
                &on.join(","),
            ],
        );
        self.wait_for_uptodate(volume);
    }

    /// `volume show`, asked of the host with the catalog.
    pub fn volume(&self, volume: &str) -> Value {
        self.hosts[0].ok(&["volume", "show", volume])
    }

    /// Opens an NBD door on a host.
    pub fn attach(&self, volume: &str, host: &str) -> Target {
        let attached = self.hosts[0].ok(&["volume", "attach", volume, "--door", "nbd", "--node", host]);
        text(&attached["uri"]).parse().expect("attach prints a URI")
    }

    /// Opens a vhost-user-blk door on a host: its socket.
    pub fn attach_vhost(&self, volume: &str, host: &str) -> PathBuf {
        let door = ["--door", "vhost-user-blk", "--node", host];
        let attached = self.hosts[0].ok(&[&["volume", "attach", volume][..], &door].concat());
        PathBuf::from(text(&attached["path"]))
    }

    /// Waits until all replicas are up to date, in role and in number as the catalog wants them.
    pub fn wait_for_uptodate(&self, volume: &str) {
        until(&format!("{volume} is up to date everywhere"), || {
            let shown = self.volume(volume);
            let replicas = array(&shown["replicas"]);
            let whole = replicas.iter().all(|replica| replica["state"] == "uptodate");
            (whole && !replicas.is_empty() && shown["job"].is_null()).then_some(())
        });
    }

    /// Compares all replicas' contents; the volume must not be written to.
    pub fn assert_identical(&self, volume: &str) {
        let job = self.hosts[0].ok(&["volume", "verify", volume]);
        assert_eq!(
            job["verify"]["verdict"], "equal",
            "replicas of {volume} differ: {job:#}"
        );
    }

    /// The hosts with a replica, the primary first.
    pub fn replicas(&self, volume: &str) -> Vec<String> {
        let shown = self.volume(volume);
        array(&shown["replicas"])
            .iter()
            .map(|replica| text(&replica["node"]).to_owned())
            .collect()
    }

    /// Log lines with errors that contain `words` are part of the test.
    pub fn expect_in_logs(&self, words: &str) {
        self.expected.borrow_mut().push(words.to_owned());
    }

    fn surprises(&self) -> Vec<String> {
        let expected = self.expected.borrow();
        let surprising = |line: &String| !expected.iter().any(|words| line.contains(words));
        self.hosts
            .iter()
            .flat_map(Host::alarms)
            .filter(surprising)
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = thread::panicking();
        let surprises = self.surprises();
        if failed || !surprises.is_empty() {
            for host in &self.hosts {
                eprint!("{}", host.log_ends());
            }
        }
        self.hosts.clear();
        // A test that failed must say its own reason.
        assert!(
            failed || surprises.is_empty(),
            "unexpected in the logs:\n{}",
            surprises.join("\n")
        );
    }
}

/// A string of an answer.
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("a string was expected, not {value}"))
}

/// An array of an answer.
pub fn array(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("an array was expected, not {value}"))
}

/// Where the built programs are: beside this one, or where `POOLD_BIN_DIR` says.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut dir = match std::env::var_os("POOLD_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe().context("find this program")?,
    };
    loop {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
        if !dir.pop() || dir.file_name().is_some_and(|name| name == "target") {
            bail!("there is no built `{name}`: cargo build --release --workspace --bins");
        }
    }
}

/// A loopback address of a host's own with two ports that nobody listens on. Daemons take up their ports only later, so
/// hosts that shared one address could be given the same port; among sixteen million addresses nobody meets.
fn free_address() -> Result<(Ipv4Addr, u16, u16)> {
    let mut random = rand::rng();
    for _ in 0..1000 {
        let [_, b, c, d] = random.random::<u32>().to_be_bytes();
        let (address, first) = (
            Ipv4Addr::new(127, b.max(1), c, d.clamp(1, 254)),
            random.random_range(PORTS),
        );
        if [first, first + 1]
            .iter()
            .all(|port| TcpListener::bind((address, *port)).is_ok())
        {
            return Ok((address, first, first + 1));
        }
    }
    bail!("no free ports in {PORTS:?} on any loopback address")
}

/// How long polls pause.
const PAUSE: Duration = Duration::from_millis(20);
