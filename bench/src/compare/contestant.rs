//! Who takes part, each in its best setting?

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::text;
use crate::cluster::{Cluster, Daemon};
use crate::nbd::Target;

/// Requests in flight of the deepest job; servers that bound their clients get room for them.
const CLIENTS: &str = "8";

/// Kinds of contestants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The file itself, no server: O_DIRECT by io_uring.
    Raw,
    /// `qemu-nbd` as it comes: through the page cache, as our own plain writes are answered.
    QemuNbd,
    /// `qemu-storage-daemon` through the page cache.
    QsdCached,
    /// `qemu-storage-daemon` with O_DIRECT and io_uring.
    QsdDirect,
    /// A volume of ours with this many replicas, all on this machine.
    Ours(usize),
}

impl Kind {
    /// Everybody.
    pub const ALL: [Kind; 6] = [
        Kind::Raw,
        Kind::QemuNbd,
        Kind::QsdCached,
        Kind::QsdDirect,
        Kind::Ours(1),
        Kind::Ours(2),
    ];

    /// Short name for tables.
    pub fn name(self) -> String {
        match self {
            Kind::Raw => "raw".into(),
            Kind::QemuNbd => "qemu-nbd".into(),
            Kind::QsdCached => "qsd".into(),
            Kind::QsdDirect => "qsd-direct".into(),
            Kind::Ours(replicas) => format!("poold-k{replicas}"),
        }
    }
}

/// One contestant, running; gone when dropped.
#[derive(Debug)]
pub struct Contestant {
    kind: Kind,
    door: Door,
    command: String,
    _running: Running,
}

/// How a contestant is reached.
#[derive(Clone, Debug)]
pub(super) enum Door {
    File(PathBuf),
    Nbd(Target),
}

#[derive(Debug)]
#[expect(dead_code, reason = "held until the end, then dropped")]
enum Running {
    Nothing,
    Server(Daemon),
    Cluster(Box<Cluster>),
}

impl Contestant {
    /// Starts one in `dir` with a volume of `size_bytes`.
    pub fn start(kind: Kind, dir: &Path, size_bytes: u64) -> Result<Contestant> {
        let name = kind.name();
        let file = dir.join(format!("{name}.raw"));
        let socket = dir.join(format!("{name}.sock"));
        if let Kind::Ours(replicas) = kind {
            return ours(kind, replicas, dir, size_bytes);
        }
        let created = File::create(&file).with_context(|| format!("create {}", file.display()))?;
        created
            .set_len(size_bytes)
            .with_context(|| format!("size {}", file.display()))?;
        let node = |settings: &str| {
            format!(
                "driver=raw,node-name=disk,file.driver=file,file.filename={}{settings}",
                file.display()
            )
        };
        let mut command = match kind {
            Kind::Raw | Kind::Ours(_) => {
                let command = "(no server)".into();
                return Ok(Contestant {
                    kind,
                    door: Door::File(file),
                    command,
                    _running: Running::Nothing,
                });
            }
            Kind::QemuNbd => {
                let mut command = Command::new("qemu-nbd");
                command.args([
                    "--persistent",
                    "--format=raw",
                    "--export-name=disk",
                    "--discard=unmap",
                    "--shared",
                    CLIENTS,
                ]);
                command.arg(format!("--socket={}", text(&socket)?)).arg(&file);
                command
            }
            Kind::QsdCached | Kind::QsdDirect => {
                let mut command = Command::new("qemu-storage-daemon");
                let settings = match kind {
                    Kind::QsdDirect => ",file.cache.direct=on,file.aio=io_uring,cache.direct=on",
                    _ => "",
                };
                command.arg("--blockdev").arg(node(settings));
                command.arg("--nbd-server").arg(format!(
                    "addr.type=unix,addr.path={},max-connections={CLIENTS}",
                    text(&socket)?
                ));
                command.args([
                    "--export",
                    "type=nbd,id=disk,node-name=disk,name=disk,writable=on",
                ]);
                command
            }
        };
        // Where it ran says nothing to the reader of another machine.
        let line = format!("{command:?}")
            .replace('"', "")
            .replace(text(dir)?, "$DIR");
        let server = Daemon::start(&mut command, &name, &dir.join(format!("{name}.log")))?;
        server.wait_for_socket(&socket)?;
        let door = Door::Nbd(Target::unix(socket, "disk"));
        Ok(Contestant {
            kind,
            door,
            command: line,
            _running: Running::Server(server),
        })
    }

    /// Which.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    pub(super) fn describe(&self) -> (String, String) {
        (self.kind.name(), self.command.clone())
    }
}

fn ours(kind: Kind, replicas: usize, dir: &Path, size_bytes: u64) -> Result<Contestant> {
    let hosts: Vec<String> = (1..=replicas).map(|host| format!("h{host}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let cluster = Cluster::start_in(dir, &hosts)?;
    let size = size_bytes.to_string();
    let replicas = replicas.to_string();
    cluster.ok(
        "h1",
        &[
            "volume",
            "create",
            "disk",
            &size,
            "--on",
            &hosts.join(","),
            "--replicas",
            &replicas,
        ],
    );
    let target = cluster.attach("disk", "h1");
    let command =
        format!("poolctl volume create disk {size} --replicas {replicas}; poolctl volume attach disk");
    Ok(Contestant {
        kind,
        door: Door::Nbd(target),
        command,
        _running: Running::Cluster(Box::new(cluster)),
    })
}
