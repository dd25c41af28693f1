//! What does this daemon keep on its own disk? Which pool it is in, its keys, and, on one host, the catalog.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::tls::Credentials;

/// How long a daemon that was killed just now may take to let go of its directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often that is looked at.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Version of `node.json`.
const VERSION: u32 = 1;

/// Which pool this host is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    version: u32,
    /// The pool's name.
    pub pool: String,
    /// This node's name.
    pub node: String,
    /// The node that holds the catalog.
    pub leader: String,
    /// Where its daemon is; unused on the leader itself.
    pub leader_address: String,
}

impl Membership {
    /// The membership of `node` in `pool`.
    pub fn new(pool: &str, node: &str, leader: &str, leader_address: &str) -> Membership {
        Membership {
            version: VERSION,
            pool: pool.to_owned(),
            node: node.to_owned(),
            leader: leader.to_owned(),
            leader_address: leader_address.to_owned(),
        }
    }

    /// Whether the catalog lies here.
    pub fn is_leader(&self) -> bool {
        self.leader == self.node
    }
}

/// The daemon's directory. `node.json` is written last, so a host is in a pool with everything it needs or not at all.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// Held as long as the daemon lives: two daemons over one directory would undo each other's work.
    _lock: fs::File,
}

impl Home {
    /// The directory, made if it is missing.
    pub fn open(dir: &Path) -> anyhow::Result<Home> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make the state directory {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let lock = lock.with_context(|| format!("open {}", path.display()))?;
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(error) if error == rustix::io::Errno::WOULDBLOCK && Instant::now() < give_up => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("another poold uses the state directory {}", dir.display())
                    });
                }
            }
        }
        Ok(Home {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The catalog's file.
    pub fn catalog(&self) -> PathBuf {
        self.dir.join("catalog.redb")
    }

    /// What the agent remembers.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent.json")
    }

    /// The membership; `None` before the host is in a pool. Errors name the file.
    pub fn membership(&self) -> anyhow::Result<Option<Membership>> {
        let path = self.dir.join("node.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let membership: Membership = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged; restore it, or move the directory away to join again",
                path.display()
            )
        })?;
        if membership.version != VERSION {
            bail!(
                "{} has version {}; this poold reads {VERSION}",
                path.display(),
                membership.version
            );
        }
        Ok(Some(membership))
    }

    /// Makes sure that nothing of a pool lies here that a new membership would hide.
    pub fn check_fresh(&self) -> anyhow::Result<()> {
        if self.catalog().exists() {
            bail!(
                "{} exists, but node.json beside it does not: move the directory's contents away, or restore node.json",
                self.catalog().display()
            );
        }
        Ok(())
    }

    /// The node's certificate and key.
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        Ok(Credentials {
            ca_pem: self.read("ca.pem")?,
            cert_pem: self.read("cert.pem")?,
            key_pem: self.read("key.pem")?,
        })
    }

    /// The CA's private key, where the catalog lies.
    pub fn ca_key(&self) -> anyhow::Result<String> {
        self.read("ca.key")
    }

    /// Writes down what `pool init` or `node join` made; the membership last.
    pub fn settle(
        &self,
        membership: &Membership,
        credentials: &Credentials,
        ca_key_pem: Option<&str>,
    ) -> anyhow::Result<()> {
        self.write("ca.pem", credentials.ca_pem.as_bytes())?;
        self.write("cert.pem", credentials.cert_pem.as_bytes())?;
        self.write("key.pem", credentials.key_pem.as_bytes())?;
        if let Some(key) = ca_key_pem {
            self.write("ca.key", key.as_bytes())?;
        }
        self.write("node.json", &serde_json::to_vec_pretty(membership)?)
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        replace(&self.dir.join(name), bytes)
    }
}

/// Replaces a file as a whole, durably; readable by its owner only, since it may hold a key.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_added_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}
