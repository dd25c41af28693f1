//! How do hosts reach each other? One TCP connection per purpose, mutual TLS, a hello, then frames.
//!
//! A replica dials its source for each volume; a remote door dials the host of the primary. Both reach one listener,
//! which is open as soon as this host has an identity. Whatever is wrong with a connection ends that connection only.

mod connection;
pub mod frame;
mod hello;
pub mod identity;
mod pace;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use api::control::Member;
use mars::{Event, LinkId};
use model::{NodeId, VolumeId};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{debug, info, warn};

pub(crate) use connection::Outgoing;
use frame::{Dialer, Dialling, DoorHello, FrameReader, FrameWriter};
use hello::{Hello, Purpose};
use identity::{Identity, Revoked};
use pace::Pace;

use crate::door;
use crate::door::port::Gates;
use crate::run::{Inbox, VolumeHandle};

/// TCP, TLS and hello together must be done in that time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Strangers in the middle of their handshake, at most; more wait in the listener's backlog.
const HANDSHAKES_MAX: usize = 64;

/// Who takes the connections that others make to us?
pub(crate) trait Reception: Send + Sync {
    /// The loop of a volume whose replica is here and of which `peer` is a member; or why not, in words for `peer`.
    fn stream(&self, volume: VolumeId, peer: &NodeId) -> Result<Inbox, String>;

    /// The replica that a remote door asks for; or why not, in words for its host.
    fn door(&self, volume: VolumeId) -> Result<VolumeHandle, String>;
}

/// All connections of a host.
pub(crate) struct Links {
    runtime: Handle,
    identity: RwLock<Option<Arc<Identity>>>,
    reception: Weak<dyn Reception>,
    next_link: AtomicU64,
    handshakes: Arc<Semaphore>,
    gates: Gates,
    pace: Pace,
    /// Certificates that count no more.
    revoked: watch::Sender<Arc<Revoked>>,
    /// Why the last dial to a node failed: told once, not at every try.
    failures: Mutex<HashMap<(VolumeId, NodeId), String>>,
}

impl Links {
    /// No connections and no identity yet.
    pub fn new(runtime: Handle, reception: Weak<dyn Reception>) -> Links {
        Links {
            runtime,
            identity: RwLock::new(None),
            reception,
            next_link: AtomicU64::new(1),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            gates: Gates::default(),
            pace: Pace::default(),
            revoked: watch::Sender::new(Arc::default()),
            failures: Mutex::default(),
        }
    }

    /// Who we are; connections made from now on prove it.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Who we are.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What links between engines may take; those of remote doors are not slowed.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// From now on nobody with one of these certificates is spoken to; whoever is connected by one is cut off.
    pub fn set_revoked(&self, revoked: Revoked) {
        self.revoked.send_replace(Arc::new(revoked));
    }

    /// Certificates that count no more.
    pub fn revoked(&self) -> Arc<Revoked> {
        self.revoked.borrow().clone()
    }

    /// Opens the listener and serves it until the task is aborted; where it listens.
    pub async fn listen(
        self: &Arc<Links>,
        addr: &str,
    ) -> io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let links = self.clone();
        Ok((
            addr,
            self.runtime
                .spawn(async move { links.accept_all(listener).await }),
        ))
    }

    async fn accept_all(self: Arc<Links>, listener: TcpListener) {
        loop {
            let permit = self
                .handshakes
                .clone()
                .acquire_owned()
                .await
                .expect("it is never closed");
            match listener.accept().await {
                Ok((stream, from)) => {
                    let links = self.clone();
                    self.runtime.spawn(async move {
                        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, links.accept(stream)).await;
                        drop(permit);
                        match accepted {
                            Ok(Ok(accepted)) => links.take_in(accepted).await,
                            // Somebody looked whether the port is open, and left.
                            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                                debug!(%from, error = %e, "a connection ended before it began");
                            }
                            // A host that proved itself and was told why not; normal while members change.
                            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                                info!(%from, %error, "refused a connection");
                            }
                            Ok(Err(error)) => warn!(%from, %error, "dropped a connection"),
                            Err(_) => warn!(%from, "dropped a connection: no hello within 5 seconds"),
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must end before it can get better.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        stream.set_nodelay(true)?;
        let identity = self
            .identity()
            .ok_or_else(|| io::Error::other("this host has no identity yet"))?;
        let tls = TlsAcceptor::from(identity.server.clone()).accept(stream).await?;
        let chain = tls.get_ref().1.peer_certificates();
        let peer = identity::peer_name(chain)?;
        let serial = identity::serial(chain).unwrap_or_default();
        let (read, write) = tokio::io::split(tls);
        let (mut reader, mut writer) = (FrameReader::new(read), FrameWriter::new(write));
        let taken = match hello::receive(&mut reader).await? {
            Ok(_) if self.revoked().serials.contains(&serial) => Err(format!(
                "node {peer} was removed from the pool; its certificate is revoked"
            )),
            Ok(hello) => self.take(hello, &peer),
            Err(reason) => Err(reason),
        };
        hello::answer(&mut writer, taken.as_ref().map(|_| ()).map_err(String::as_str)).await?;
        match taken {
            Ok(taken) => Ok(Accepted {
                peer,
                serial,
                reader,
                writer,
                taken,
            }),
            Err(reason) => {
                writer.shutdown().await?;
                Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("{peer}: {reason}"),
                ))
            }
        }
    }

    fn take(&self, hello: Hello, peer: &NodeId) -> Result<Taken, String> {
        let reception = self.reception.upgrade().ok_or("marsd is stopping")?;
        match hello.purpose {
            Purpose::Stream => Ok(Taken::Stream(reception.stream(hello.volume, peer)?)),
            Purpose::Door { session, generation } => {
                let hello = DoorHello {
                    volume: hello.volume,
                    session,
                    generation,
                };
                Ok(Taken::Door(reception.door(hello.volume)?, hello))
            }
        }
    }

    async fn take_in(&self, accepted: Accepted) {
        let mut revoked = self.revoked.subscribe();
        let (peer, serial) = (accepted.peer.clone(), accepted.serial.clone());
        let cut = async {
            // The sender lives as long as `self`.
            let _ = revoked
                .wait_for(|revoked| revoked.serials.contains(&serial))
                .await;
        };
        tokio::select! {
            () = self.serve(accepted) => {}
            () = cut => warn!(%peer, "cut a connection: the node was removed from the pool"),
        }
    }

    async fn serve(&self, accepted: Accepted) {
        let Accepted {
            peer,
            reader,
            writer,
            taken,
            ..
        } = accepted;
        match taken {
            Taken::Stream(inbox) => {
                let link = self.link();
                let pace = self.pace.of(&peer);
                connection::run(link, peer, false, reader, writer, inbox, &pace).await;
            }
            Taken::Door(handle, hello) => {
                let port = Arc::new(handle);
                match door::remote::serve(reader, writer, port, hello, &self.gates).await {
                    Ok(()) => debug!(%peer, volume = %hello.volume, "a remote door left"),
                    Err(error) => info!(%peer, volume = %hello.volume, %error, "a remote door broke off"),
                }
            }
        }
    }

    fn link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    /// Connects a replica here to a source; the outcome goes to `inbox`.
    pub fn dial_stream(
        self: &Arc<Links>,
        volume: VolumeId,
        peer: NodeId,
        addr: Option<String>,
        inbox: Inbox,
    ) {
        let links = self.clone();
        self.runtime.spawn(async move {
            let hello = Hello {
                volume,
                purpose: Purpose::Stream,
            };
            let dialled = match &addr {
                Some(addr) => links.dial(&peer, addr, hello).await,
                None => Err(io::Error::new(io::ErrorKind::NotFound, "it is no member")),
            };
            links.tell_change(volume, &peer, dialled.as_ref().err());
            match dialled {
                Ok((reader, writer)) => {
                    let pace = links.pace.of(&peer);
                    connection::run(links.link(), peer, true, reader, writer, inbox, &pace).await;
                }
                Err(_) => inbox.event(Event::LinkDown { link: None, peer }),
            }
        });
    }

    fn tell_change(&self, volume: VolumeId, peer: &NodeId, error: Option<&io::Error>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (volume, peer.clone());
        match error.map(io::Error::to_string) {
            None => {
                failures.remove(&key);
            }
            Some(reason) => {
                if failures.get(&key) != Some(&reason) {
                    info!(%volume, %peer, reason, "cannot reach a source; keeps trying");
                    failures.insert(key, reason);
                }
            }
        }
    }

    async fn dial(&self, peer: &NodeId, addr: &str, hello: Hello) -> io::Result<(FrameReader, FrameWriter)> {
        let dialling = async {
            let identity = self
                .identity()
                .ok_or_else(|| io::Error::other("this host has no identity yet"))?;
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(peer.as_str().to_owned()).map_err(io::Error::other)?;
            let tls = TlsConnector::from(identity.client.clone())
                .connect(name, stream)
                .await?;
            let serial = identity::serial(tls.get_ref().1.peer_certificates()).unwrap_or_default();
            if self.revoked().serials.contains(&serial) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    "it was removed from the pool; its certificate is revoked",
                ));
            }
            let (read, write) = tokio::io::split(tls);
            let (mut reader, mut writer) = (FrameReader::new(read), FrameWriter::new(write));
            hello::introduce(&mut reader, &mut writer, hello).await?;
            Ok((reader, writer))
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it did not answer within 5 seconds");
        tokio::time::timeout(HANDSHAKE_TIMEOUT, dialling)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

impl Dialer for Links {
    fn dial_door(&self, peer: &Member, hello: DoorHello) -> Dialling<'_> {
        let Member { node, addr } = peer.clone();
        Box::pin(async move {
            let node = NodeId::new(&node).map_err(io::Error::other)?;
            let DoorHello {
                volume,
                session,
                generation,
            } = hello;
            let hello = Hello {
                volume,
                purpose: Purpose::Door { session, generation },
            };
            self.dial(&node, &addr, hello).await
        })
    }
}

/// A connection whose hello was accepted.
struct Accepted {
    peer: NodeId,
    serial: String,
    reader: FrameReader,
    writer: FrameWriter,
    taken: Taken,
}

/// What it is for.
enum Taken {
    Stream(Inbox),
    Door(VolumeHandle, DoorHello),
}

#[cfg(test)]
pub(crate) mod tests;
