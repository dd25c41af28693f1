//! How does poold call its marsd? One connection, many calls at a time, answers in any order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::control::{
    CONTROL_VERSION, Call, ControlError, ControlErrorKind, ControlRequest, ControlResponse, Outcome,
};

/// Longest line that is accepted from marsd.
const LINE_BYTES_MAX: u64 = 64 << 20;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<ControlResponse>>>>;

/// Calls the marsd of this host; connects when needed and again after marsd restarted.
pub struct ControlClient {
    socket: PathBuf,
    next_id: AtomicU64,
    link: AsyncMutex<Option<Link>>,
}

struct Link {
    writer: OwnedWriteHalf,
    waiting: Waiting,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl ControlClient {
    /// A client of the marsd behind `socket`; nothing is connected yet.
    pub fn new(socket: impl AsRef<Path>) -> ControlClient {
        ControlClient {
            socket: socket.as_ref().to_owned(),
            next_id: AtomicU64::new(1),
            link: AsyncMutex::new(None),
        }
    }

    /// One call. Errors: what marsd answered; `failed` when it cannot be reached; `timed-out` after `patience`
    /// (the call may still be done, and may be repeated: all are idempotent).
    pub async fn call(&self, call: Call, patience: Duration) -> Result<Outcome, ControlError> {
        match tokio::time::timeout(patience, self.exchange(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(ControlError {
                kind: ControlErrorKind::TimedOut,
                message: format!(
                    "marsd at {} did not answer within {patience:?}",
                    self.socket.display()
                ),
            }),
        }
    }

    async fn exchange(&self, call: Call) -> Result<Outcome, ControlError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&ControlRequest {
            version: CONTROL_VERSION,
            id,
            call,
        })
        .map_err(|error| self.failed(&format!("cannot be asked: {error}")))?;
        line.push(b'\n');
        let (sender, answer) = oneshot::channel();
        {
            let mut slot = self.link.lock().await;
            let usable = slot.take().filter(|link| !link.reader.is_finished());
            let mut link = match usable {
                Some(link) => link,
                None => self.connect().await?,
            };
            lock(&link.waiting).insert(id, sender);
            // While the write is under way the link is out of its slot: a call given up half-way through a line
            // takes the connection with it, so that no other call continues a torn line.
            link.writer
                .write_all(&line)
                .await
                .map_err(|error| self.failed(&error.to_string()))?;
            *slot = Some(link);
        }
        let response = answer
            .await
            .map_err(|_| self.failed("the connection was closed before it answered"))?;
        match (response.ok, response.error) {
            (_, Some(error)) => Err(error),
            (Some(outcome), None) => Ok(outcome),
            (None, None) => Err(self.failed("an answer with neither a result nor an error")),
        }
    }

    async fn connect(&self) -> Result<Link, ControlError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.failed(&error.to_string()))?;
        let (reader, writer) = stream.into_split();
        let waiting = Waiting::default();
        let reader = tokio::spawn(read_answers(reader, waiting.clone()));
        Ok(Link {
            writer,
            waiting,
            reader,
        })
    }

    fn failed(&self, what: &str) -> ControlError {
        ControlError {
            kind: ControlErrorKind::Failed,
            message: format!("marsd at {}: {what}", self.socket.display()),
        }
    }
}

/// Hands answers to their callers until the connection ends; dropping the rest tells them so.
async fn read_answers(reader: OwnedReadHalf, waiting: Waiting) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await;
        let response = match read {
            Ok(_) if line.last() == Some(&b'\n') => serde_json::from_slice::<ControlResponse>(&line),
            _ => break,
        };
        let Ok(response) = response else { break };
        if let Some(sender) = lock(&waiting).remove(&response.id) {
            // The caller may have given up; then nobody wants the answer.
            let _ = sender.send(response);
        }
    }
    lock(&waiting).clear();
}

fn lock(
    waiting: &Mutex<HashMap<u64, oneshot::Sender<ControlResponse>>>,
) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<ControlResponse>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
