//! How does an NBD client reach a volume? Our server: negotiation, then requests, many at once.

pub mod handshake;
pub mod protocol;
pub mod request;
pub mod transmission;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::{VolumeName, VolumeSize};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};

use crate::door::port::Guests;
use crate::length::Length;
use handshake::Outcome;

/// Time for a client to get through negotiation: strangers that say nothing must not hold places for ever.
const HANDSHAKE_SECONDS_MAX: u64 = 30;

/// Requests are small and come in bursts: one system call brings many.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What a door offers, as long as it is open.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What clients call it; the empty name means it too.
    pub name: VolumeName,
    /// Its length: a client sees what it is when it connects, and never more.
    pub length: Length,
    /// Whether writing is refused.
    pub read_only: bool,
}

impl Offer {
    /// To a client that connects now.
    pub fn now(&self) -> Export {
        Export {
            name: self.name.clone(),
            size: self.length.now(),
            read_only: self.read_only,
        }
    }
}

/// What one client is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// What clients call it; the empty name means it too.
    pub name: VolumeName,
    /// Its length.
    pub size: VolumeSize,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Why a connection ended other than by goodbye.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed or ended in the middle of a message.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client does not speak NBD as we know it.
    #[error("the client broke the protocol")]
    Protocol(#[from] protocol::ProtocolError),
    /// The client asked for something without leaving room for a polite refusal.
    #[error("the client asked for {what}")]
    Unacceptable {
        /// What.
        what: String,
    },
    /// The client did not finish negotiation in time.
    #[error("the client did not choose an export within {HANDSHAKE_SECONDS_MAX} s")]
    HandshakeTimedOut,
}

/// Serves one client until it leaves.
pub async fn serve<R, W>(
    reader: R,
    mut writer: W,
    export: &Export,
    guests: Arc<dyn Guests>,
) -> Result<(), ConnectionError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let negotiation = handshake::negotiate(&mut reader, &mut writer, export);
    let outcome = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), negotiation)
        .await
        .map_err(|_| ConnectionError::HandshakeTimedOut)??;
    match outcome {
        Outcome::Left => Ok(()),
        Outcome::Begin(terms) => transmission::run(reader, writer, terms, guests).await,
    }
}
