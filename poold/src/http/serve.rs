//! How do connections come in? Whoever sends nonsense is dropped; the daemon goes on.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::{Caller, answer};
use crate::daemon::Daemon;
use crate::tls::{node_of, serial_of};

/// How long a handshake or the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Most connections at a time on each listener: a flood must not use up all file descriptors.
const CONNECTIONS_MAX: usize = 1024;

/// After `accept` failed (no file descriptors left …), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes the Unix socket. Errors: another daemon has it, or the path cannot be used.
pub fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let name = path.display();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("make the directory of {name}"))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another poold answers at {name} already");
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("replace {name}")),
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {name}"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
    std::fs::set_permissions(path, mode).with_context(|| format!("set the mode of {name}"))?;
    Ok(listener)
}

/// Serves the Unix socket until `ending` says so; its connections end with it.
pub async fn serve_unix(
    listener: UnixListener,
    daemon: Arc<Daemon>,
    router: Router,
    ending: watch::Receiver<bool>,
) {
    let serve = |stream| serve_local(stream, daemon.clone(), router.clone());
    serve_all(listener, serve, ending).await;
}

/// Serves the other hosts until `ending` says so; their connections end with it.
pub async fn serve_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    daemon: Arc<Daemon>,
    router: Router,
    ending: watch::Receiver<bool>,
) {
    let serve = |stream| {
        let (daemon, router, acceptor) = (daemon.clone(), router.clone(), acceptor.clone());
        async move {
            if let Err(error) = serve_remote(stream, acceptor, daemon, router).await {
                debug!(error = %error, "connection dropped");
            }
        }
    };
    serve_all(listener, serve, ending).await;
}

/// Where connections come in.
trait Listener {
    type Stream;

    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

async fn serve_all<L, F>(listener: L, serve: impl Fn(L::Stream) -> F, mut ending: watch::Receiver<bool>)
where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(seat) = seats.clone().acquire_owned().await else {
                return;
            };
            match listener.next().await {
                Ok(stream) => {
                    let connection = serve(stream);
                    connections.spawn(async move {
                        connection.await;
                        drop(seat);
                    });
                }
                Err(error) => {
                    warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        // Said, or the daemon is gone: both mean the end.
        _ = ending.wait_for(|ending| *ending) => {}
    }
    connections.shutdown().await;
}

async fn serve_local(stream: UnixStream, daemon: Arc<Daemon>, router: Router) {
    if let Err(error) = serve(stream, daemon, router, Caller::Local).await {
        debug!(error = %error, "local connection dropped");
    }
}

async fn serve_remote(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    daemon: Arc<Daemon>,
    router: Router,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(stream)).await??;
    let caller = match stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
    {
        Some(certificate) => Caller::Node {
            node: node_of(certificate).context("the certificate names no node")?,
            serial: serial_of(certificate).context("the certificate has no serial number")?,
        },
        None => Caller::Stranger,
    };
    serve(stream, daemon, router, caller).await?;
    Ok(())
}

async fn serve<S>(stream: S, daemon: Arc<Daemon>, router: Router, caller: Caller) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (daemon, router, caller) = (daemon.clone(), router.clone(), caller.clone());
        async move {
            Ok::<_, Infallible>(answer(daemon, router, caller, request.map(axum::body::Body::new)).await)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
