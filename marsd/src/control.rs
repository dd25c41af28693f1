//! How does poold speak to this marsd? JSON lines over a Unix socket; every line is a call, every call has an answer.
//!
//! Calls of one connection are carried out at the same time and answered in any order. A line that is not understood
//! gets an error and the connection goes on; only a line without end costs the connection.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use api::control::{CONTROL_VERSION, ControlError, ControlErrorKind, ControlRequest, ControlResponse};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::host::Host;

/// Longest line; certificates and long member lists fit many times.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;

/// Calls of one connection under way at a time; more wait in the socket.
const CALLS_MAX: usize = 64;

/// Whoever is in the socket's group may control the daemon.
const SOCKET_MODE: u32 = 0o660;

/// The open socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket at `path`. A stale one is replaced if nobody listens on it. Within a tokio runtime.
    ///
    /// Errors: `AddrInUse` when another marsd listens there, `AlreadyExists` when something else is in the way.
    pub async fn open(path: &Path) -> io::Result<Control> {
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something that is no socket is there",
                ));
            }
            Ok(_) => match UnixStream::connect(path).await {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(e) => return Err(e),
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another marsd listens there",
                    ));
                }
            },
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(Control {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until dropped.
    pub async fn serve(&self, host: Arc<Host>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(_) if connections.len() >= CONNECTIONS_MAX => {
                        warn!(connections = CONNECTIONS_MAX, "too many control connections; one is turned away");
                    }
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, host.clone()));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: others must end before it can get better.
                        warn!(%error, "cannot accept a control connection");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

async fn connection(stream: UnixStream, host: Arc<Host>) {
    let (read, mut write) = stream.into_split();
    let (answers, mut answered) = mpsc::channel::<ControlResponse>(CALLS_MAX);
    let reading = read_calls(BufReader::new(read), answers, host);
    let writing = async {
        while let Some(answer) = answered.recv().await {
            let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
            line.push(b'\n');
            write.write_all(&line).await?;
        }
        Ok(())
    };
    let ended: io::Result<((), ())> = async { tokio::try_join!(reading, writing) }.await;
    if let Err(error) = ended {
        match error.kind() {
            io::ErrorKind::InvalidData => warn!(%error, "dropped a control connection"),
            _ => debug!(%error, "a control connection broke"),
        }
    }
}

/// Ends at the end of the stream, after every call has been answered.
async fn read_calls(
    mut lines: BufReader<tokio::net::unix::OwnedReadHalf>,
    answers: mpsc::Sender<ControlResponse>,
    host: Arc<Host>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let mut line = Vec::new();
        (&mut lines)
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line)
            .await?;
        if line.last() != Some(&b'\n') {
            return match line.len() {
                LINE_BYTES_MAX => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line is longer than 1 MiB",
                )),
                // What came after the last line's end was never finished.
                _ => Ok(()),
            };
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (answers, host) = (answers.clone(), host.clone());
        let permit = room.clone().acquire_owned().await.expect("it is never closed");
        // A task of its own, so that a call that has begun is carried out even if the caller leaves.
        tokio::spawn(async move {
            // The caller may have left.
            drop(answers.send(answer(&line, &host).await).await);
            drop(permit);
        });
    }
}

async fn answer(line: &[u8], host: &Host) -> ControlResponse {
    let request = match parse(line) {
        Ok(request) => request,
        Err((id, message)) => return refused(id, ControlErrorKind::Usage, message),
    };
    let id = request.id;
    match host.call(request.call).await {
        Ok(outcome) => ControlResponse {
            id,
            ok: Some(outcome),
            error: None,
        },
        Err(error) => {
            let words = format!("{:?} {}", error.kind, error.message);
            if let Some(withheld) = host.refusals.withheld(words, Instant::now()) {
                info!(id, kind = ?error.kind, withheld, error = error.message, "refused a call");
            }
            ControlResponse {
                id,
                ok: None,
                error: Some(error),
            }
        }
    }
}

/// What a line asks; or the id it carried (0 when none could be read) and what is wrong with it.
fn parse(line: &[u8]) -> Result<ControlRequest, (u64, String)> {
    #[derive(Deserialize)]
    struct Head {
        version: Option<u32>,
        id: Option<u64>,
    }
    let head: Head = serde_json::from_slice(line).map_err(|e| (0, format!("not a call in JSON: {e}")))?;
    let id = head.id.unwrap_or(0);
    match head.version {
        Some(CONTROL_VERSION) => {}
        Some(other) => {
            return Err((
                id,
                format!("version {other} of the control protocol is not spoken here, {CONTROL_VERSION} is"),
            ));
        }
        None => {
            return Err((
                id,
                format!("a call carries `version` ({CONTROL_VERSION}) and `id`"),
            ));
        }
    }
    serde_json::from_slice(line).map_err(|e| (id, format!("not a call: {e}")))
}

fn refused(id: u64, kind: ControlErrorKind, message: String) -> ControlResponse {
    ControlResponse {
        id,
        ok: None,
        error: Some(ControlError { kind, message }),
    }
}

#[cfg(test)]
mod tests;
