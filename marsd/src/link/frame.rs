//! How do messages lie on a byte stream? A length and that many bytes, again and again.
//!
//! Shape: `length` u32 little-endian, then `length` bytes; 1 ≤ length ≤ [`FRAME_BYTES_MAX`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use api::control::Member;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mars::message::MESSAGE_BYTES_MAX;
use model::VolumeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame: the longest message between engines, and room for what a door wraps around data.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64 * 1024;

/// Bytes of the length before each frame.
pub const FRAME_HEAD_BYTES: usize = 4;

/// Parts from this size on go to the stream directly; smaller ones are gathered so that they share a TLS record.
const DIRECT_BYTES_MIN: usize = 16 * 1024;

/// Gathered bytes from this size on go to the stream without waiting for a flush.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// Takes frames off a stream.
pub struct FrameReader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    idle: Option<Duration>,
}

impl FrameReader {
    /// Reads from `stream`, for as long as it takes.
    pub fn new(stream: impl AsyncRead + Send + Unpin + 'static) -> FrameReader {
        FrameReader {
            stream: Box::new(stream),
            buffer: BytesMut::with_capacity(GATHERED_BYTES_MAX),
            idle: None,
        }
    }

    /// From now on, a stream on which nothing arrives for that long is an error of kind `TimedOut`.
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
    }

    /// The next frame without its length; `None` when the stream ended between two frames.
    ///
    /// Errors: `InvalidData` for a length that cannot be, `UnexpectedEof` for an end within a frame, `TimedOut`.
    /// Cancellation: a dropped call loses nothing; the next one goes on.
    pub async fn read(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the stream ended within a frame",
                    ))
                };
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            let text = format!("a frame of {length} bytes is announced, 1 to {FRAME_BYTES_MAX} may be");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + length {
            self.buffer.reserve(FRAME_HEAD_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEAD_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(GATHERED_BYTES_MAX);
        }
        let read = self.stream.read_buf(&mut self.buffer);
        match self.idle {
            None => read.await,
            Some(idle) => tokio::time::timeout(idle, read).await.unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("nothing was heard for {idle:?}"),
                ))
            }),
        }
    }
}

/// Puts frames on a stream.
pub struct FrameWriter {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    gathered: BytesMut,
}

impl FrameWriter {
    /// Writes to `stream`.
    pub fn new(stream: impl AsyncWrite + Send + Unpin + 'static) -> FrameWriter {
        FrameWriter {
            stream: Box::new(stream),
            gathered: BytesMut::with_capacity(GATHERED_BYTES_MAX),
        }
    }

    /// One frame, whose contents are the parts behind one another; it may stay here until [`FrameWriter::flush`].
    ///
    /// Errors: `InvalidInput` for an empty or over-long frame, of which nothing is written.
    pub async fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let length = parts.iter().map(Bytes::len).sum::<usize>();
        if length == 0 || length > FRAME_BYTES_MAX {
            let text = format!("a frame of {length} bytes cannot be sent, 1 to {FRAME_BYTES_MAX} may be");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.gathered.put_u32_le(length as u32);
        for part in parts {
            if part.len() >= DIRECT_BYTES_MIN {
                self.drain().await?;
                self.stream.write_all(part).await?;
            } else {
                self.gathered.extend_from_slice(part);
            }
        }
        if self.gathered.len() >= GATHERED_BYTES_MAX {
            self.drain().await?;
        }
        Ok(())
    }

    /// Every frame written so far has left this process when this returns.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.stream.flush().await
    }

    /// Ends the stream in an orderly way: the other side reads an end, not an error.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.stream.shutdown().await
    }

    async fn drain(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.stream.write_all(&self.gathered).await?;
            self.gathered.clear();
        }
        Ok(())
    }
}

/// How a remote door introduces itself to the host of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorHello {
    /// Which volume it wants to serve.
    pub volume: VolumeId,
    /// Names the door's session, so that a new connection of it replaces the old one.
    pub session: u64,
    /// Grows with every connection of that session.
    pub generation: u64,
}

/// A dial that is under way: both halves of the connection, or why there is none.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<(FrameReader, FrameWriter)>> + Send + 'a>>;

/// Opens connections for remote doors; tests put a pipe in its place.
pub trait Dialer: Send + Sync {
    /// Connects to `peer`, proves who we are, and introduces the door; the connection is accepted when this returns.
    ///
    /// Errors: `ConnectionRefused` with the other side's reason, or whatever the network says.
    fn dial_door(&self, peer: &Member, hello: DoorHello) -> Dialling<'_>;
}

#[cfg(test)]
mod tests;
