//! How do guests get at a volume? Doors: local sockets in front, a session to the primary behind.
//!
//! ```text
//! guest ── nbd, vhost_user ──► router (Session) ──► local replica's loop            (port)
//!                                             └──► link ──► remote::serve ──► loop  (another host)
//! ```

pub mod nbd;
pub mod port;
pub mod remote;
pub mod router;
pub mod vhost_user;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::control::{DoorSpec, DoorStatus};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{Instrument, debug, info, info_span, warn};

use nbd::Offer;
use port::Guests;

/// Clients of one door at a time; each may hold memory, and honest ones use a handful.
const CLIENTS_MAX: usize = 256;

/// Longest path of a Unix socket: what the kernel's address structure holds, without its final zero byte.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Time that requests of cut-off guests may take; a primary that is not there ends them at once.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Whoever is in the socket's group may connect: a hypervisor runs as a user of its own.
const SOCKET_MODE: u32 = 0o660;

/// Why a door cannot be opened; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The path cannot be a socket's.
    #[error("`{}` is {} bytes long, a socket's path may have {SOCKET_PATH_BYTES_MAX}; choose a shorter run directory", path.display(), path.as_os_str().len())]
    PathTooLong {
        /// Which.
        path: PathBuf,
    },
    /// Something that is not ours is in the way.
    #[error("`{}` is {what}; remove it or choose another path", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Not of the form `address:port`.
    #[error("`{addr}` is not an address; write it as 127.0.0.1:10809")]
    BadAddress {
        /// What was given.
        addr: String,
    },
    /// Plain text must not leave the host.
    #[error(
        "`{addr}` is not a loopback address, and NBD over TCP is plain text here; open the door on 127.0.0.1"
    )]
    NotLoopback {
        /// What was given.
        addr: String,
    },
    /// The system refused.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// One open door; dropping it closes it.
pub struct Door {
    spec: DoorSpec,
    address: String,
    uri: String,
    socket: Option<PathBuf>,
    clients: Arc<AtomicU64>,
    guests: Arc<dyn Guests>,
    /// Its end is what the accepting task waits for.
    stop: Option<oneshot::Sender<()>>,
    accepting: JoinHandle<()>,
}

impl Door {
    /// Lets guests in; a Unix socket's path defaults to `run_dir/NAME.nbd.sock` or `run_dir/NAME.vhost.sock`. Must be called within a tokio runtime.
    ///
    /// A stale socket is replaced if nobody listens on it. `read_only` of the specification rules over the offer's.
    pub async fn open(
        spec: DoorSpec,
        run_dir: &Path,
        mut offer: Offer,
        guests: Arc<dyn Guests>,
    ) -> Result<Door, DoorError> {
        let count = Arc::new(AtomicU64::new(0));
        let span = info_span!("door", volume = %offer.name);
        let (stop, stopped) = oneshot::channel();
        offer.read_only |= spec.read_only();
        let name = offer.name.clone();
        let clients = |offer| Clients {
            tasks: JoinSet::new(),
            offer,
            guests: guests.clone(),
            count: count.clone(),
        };
        let (address, uri, socket, accepting) = match &spec {
            DoorSpec::Nbd { path, .. } => {
                let default = || run_dir.join(format!("{name}.nbd.sock"));
                let path = path.as_ref().map_or_else(default, PathBuf::from);
                let listener = listen_unix(&path).await?;
                let address = path.display().to_string();
                let uri = format!("nbd+unix:///{name}?socket={}", percent_encode(&address));
                let accepting = admit_all(clients(offer), stopped, async move || {
                    let (stream, _) = listener.accept().await?;
                    Ok(stream.into_split())
                });
                (address, uri, Some(path), tokio::spawn(accepting.instrument(span)))
            }
            DoorSpec::NbdTcp { addr, .. } => {
                let (listener, bound) = listen_tcp(addr).await?;
                let uri = format!("nbd://{bound}/{name}");
                let accepting = admit_all(clients(offer), stopped, async move || {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Ok(stream.into_split())
                });
                (
                    bound.to_string(),
                    uri,
                    None,
                    tokio::spawn(accepting.instrument(span)),
                )
            }
            DoorSpec::VhostUserBlk { path, .. } => {
                let default = || run_dir.join(format!("{name}.vhost.sock"));
                let path = path.as_ref().map_or_else(default, PathBuf::from);
                let listener = listen_unix(&path).await?;
                let address = path.display().to_string();
                let accepting =
                    vhost_user::admit_all(listener, stopped, offer, guests.clone(), count.clone());
                let accepting = tokio::spawn(accepting.instrument(span));
                (address, String::new(), Some(path), accepting)
            }
        };
        info!(address, "a door is open");
        Ok(Door {
            spec,
            address,
            uri,
            socket,
            clients: count,
            guests,
            stop: Some(stop),
            accepting,
        })
    }

    /// What was asked for.
    pub fn spec(&self) -> &DoorSpec {
        &self.spec
    }

    /// Unix path or TCP address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// For NBD clients; empty for other doors.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// How it stands.
    pub fn status(&self) -> DoorStatus {
        DoorStatus {
            door: self.spec.clone(),
            path: self.address.clone(),
            uri: self.uri.clone(),
            clients: self.clients.load(Ordering::Relaxed),
            pause_micros_max: self.guests.pause_micros_max(),
        }
    }

    /// Lets nobody in any more and cuts off who is there; nothing that they asked is done after this returns, so that a
    /// guest may go on through another host.
    pub async fn close(mut self) {
        self.shut();
        if let Err(error) = (&mut self.accepting).await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        if tokio::time::timeout(QUIET_MAX, self.guests.quiet())
            .await
            .is_err()
        {
            warn!(
                address = self.address,
                "the door is closed, but requests of its guests are still under way"
            );
        }
    }

    fn shut(&mut self) {
        self.stop = None;
        if let Some(path) = self.socket.take()
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "cannot remove the socket of a closed door");
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shut();
    }
}

async fn listen_unix(path: &Path) -> Result<UnixListener, DoorError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(DoorError::PathTooLong {
            path: path.to_owned(),
        });
    }
    let failed = |source| DoorError::Listen {
        address: path.display().to_string(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(DoorError::Occupied {
                path: path.to_owned(),
                what: "in the way and not a socket",
            });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            _ => {
                let what = "a socket on which somebody listens";
                return Err(DoorError::Occupied {
                    path: path.to_owned(),
                    what,
                });
            }
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

async fn listen_tcp(addr: &str) -> Result<(TcpListener, SocketAddr), DoorError> {
    let wanted: SocketAddr = addr.parse().map_err(|_| DoorError::BadAddress {
        addr: addr.to_owned(),
    })?;
    if !wanted.ip().is_loopback() {
        return Err(DoorError::NotLoopback {
            addr: addr.to_owned(),
        });
    }
    let failed = |source| DoorError::Listen {
        address: addr.to_owned(),
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Admits clients until told to stop (or forgotten); nobody is connected when this returns.
async fn admit_all<R, W>(
    mut clients: Clients,
    mut stop: oneshot::Receiver<()>,
    accept: impl AsyncFn() -> io::Result<(R, W)>,
) where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            _ = &mut stop => return clients.tasks.shutdown().await,
        };
        match accepted {
            Ok((reader, writer)) => clients.admit(reader, writer),
            Err(error) => pause_accepting(&error).await,
        }
    }
}

/// Out of descriptors, most likely: they come back when clients leave.
async fn pause_accepting(error: &io::Error) {
    warn!(%error, "cannot accept a client");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// The clients of one door; they go when it goes.
struct Clients {
    tasks: JoinSet<()>,
    offer: Offer,
    guests: Arc<dyn Guests>,
    count: Arc<AtomicU64>,
}

impl Clients {
    fn admit<R, W>(&mut self, reader: R, writer: W)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= CLIENTS_MAX {
            warn!(clients = CLIENTS_MAX, "the door is full; a client is turned away");
            return;
        }
        let (export, guests) = (self.offer.now(), self.guests.clone());
        let counted = Counted::new(self.count.clone(), guests.clone());
        let serving = async move {
            let _counted = counted;
            match nbd::serve(reader, writer, &export, guests).await {
                Ok(()) => debug!("a client left"),
                Err(error) => debug!(error = %chain(&error), "a client was dropped"),
            }
        };
        self.tasks.spawn(serving.in_current_span());
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// One connected client, for as long as it lives.
struct Counted {
    count: Arc<AtomicU64>,
    guests: Arc<dyn Guests>,
}

impl Counted {
    fn new(count: Arc<AtomicU64>, guests: Arc<dyn Guests>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        guests.came();
        Counted { count, guests }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.guests.left();
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything but unreserved characters and `/`, as RFC 3986 has it for a query.
fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
