//! How does one connection between two engines live and die? A reader and a writer; when one ends, both do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mars::message::MESSAGE_BYTES_MAX;
use mars::{LinkId, Message};
use model::NodeId;
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use super::frame::{FrameReader, FrameWriter};
use super::pace::{self, Bucket};
use crate::run::{Inbox, Input};

/// A link on which nothing was heard for that long is gone; engines give a sign of life ten times as often.
const IDLE: Duration = Duration::from_secs(10);

/// Received bytes that the loop has not seen yet, at most; then the sender is held back by TCP.
const INCOMING_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Bytes handed over for sending that have not left, at most. Engines bound their windows far below.
const OUTGOING_BYTES_MAX: u64 = 64 << 20;

/// The same, counted: small messages weigh too.
const OUTGOING_MESSAGES_MAX: usize = 16 << 10;

/// Messages gather up to so many bytes before they are flushed.
const GATHERED_BYTES_MAX: u64 = 1 << 20;

/// An orderly end takes at most that long.
const FAREWELL: Duration = Duration::from_secs(1);

/// The loop's end of a connection; dropping it closes the connection.
pub(crate) struct Outgoing {
    queue: mpsc::Sender<Message>,
    queued_bytes: Arc<AtomicU64>,
}

impl Outgoing {
    /// Hands a message over; `false` when the connection is gone or hopelessly behind.
    pub fn send(&self, message: Message) -> bool {
        let weight = weight(&message);
        let before = self.queued_bytes.fetch_add(weight, Ordering::Relaxed);
        if before + weight > OUTGOING_BYTES_MAX {
            warn!(queued_bytes = before, "gives up a link that takes nothing");
            return false;
        }
        self.queue.try_send(message).is_ok()
    }
}

/// Roughly how much memory a message holds.
fn weight(message: &Message) -> u64 {
    let data = match message {
        Message::Log { bytes, .. } => bytes.len(),
        Message::SyncReply { extents, .. } => extents
            .iter()
            .map(|extent| match extent {
                mars::message::SyncExtent::Data(data) => data.len(),
                mars::message::SyncExtent::Same | mars::message::SyncExtent::Zeroes => 1,
            })
            .sum(),
        _ => 0,
    };
    data as u64 + 128
}

/// Serves a connection until it ends, and tells the loop of its beginning and its end.
pub(crate) async fn run(
    link: LinkId,
    peer: NodeId,
    dialled: bool,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    inbox: Inbox,
    pace: &[Arc<Bucket>],
) {
    let (queue, queued) = mpsc::channel(OUTGOING_MESSAGES_MAX);
    let queued_bytes = Arc::new(AtomicU64::new(0));
    let outgoing = Outgoing {
        queue,
        queued_bytes: queued_bytes.clone(),
    };
    if !inbox.send(Input::LinkUp {
        link,
        peer: peer.clone(),
        dialled,
        outgoing,
    }) {
        return;
    }
    let _down = Down {
        link,
        peer: peer.clone(),
        inbox: inbox.clone(),
    };
    reader.set_idle(Some(IDLE));
    let ended = tokio::select! {
        ended = receive(link, &mut reader, &inbox) => Some(ended),
        ended = send(&mut writer, queued, &queued_bytes, pace) => ended.err().map(Err),
    };
    match ended {
        // The engine closed it.
        None => drop(tokio::time::timeout(FAREWELL, writer.shutdown()).await),
        Some(Ok(())) => info!(%peer, link = link.0, "the other side closed the link"),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            warn!(%peer, link = link.0, %error, "dropped a link: what came is not understood");
        }
        Some(Err(error)) => info!(%peer, link = link.0, %error, "the link broke"),
    }
}

/// Tells the loop of a connection's end, however it came: whoever serves it may be told to stop in the middle.
struct Down {
    link: LinkId,
    peer: NodeId,
    inbox: Inbox,
}

impl Drop for Down {
    fn drop(&mut self) {
        let (link, peer) = (self.link, self.peer.clone());
        self.inbox.send(Input::LinkDown { link, peer });
    }
}

/// Ends when the stream ends (`Ok`), breaks, carries nonsense, or nobody listens any more (`Ok`).
async fn receive(link: LinkId, reader: &mut FrameReader, inbox: &Inbox) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(INCOMING_BYTES_MAX));
    while let Some(frame) = reader.read().await? {
        let permits = frame.len() as u32;
        let permit = room
            .clone()
            .acquire_many_owned(permits)
            .await
            .expect("it is never closed");
        let message =
            Message::decode(frame).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        if !inbox.send(Input::Message {
            link,
            message,
            permit,
        }) {
            break;
        }
    }
    Ok(())
}

/// Ends well when the loop drops its end.
async fn send(
    writer: &mut FrameWriter,
    mut queued: mpsc::Receiver<Message>,
    queued_bytes: &AtomicU64,
    pace: &[Arc<Bucket>],
) -> io::Result<()> {
    while let Some(first) = queued.recv().await {
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(message) = next {
            let weight = weight(&message);
            let encoded = message.encode().freeze();
            bytes += encoded.len() as u64;
            pace::wait(pace, encoded.len() as u64).await;
            writer.write(&[encoded]).await?;
            queued_bytes.fetch_sub(weight, Ordering::Relaxed);
            next = if bytes < GATHERED_BYTES_MAX {
                queued.try_recv().ok()
            } else {
                None
            };
        }
        writer.flush().await?;
    }
    Ok(())
}
