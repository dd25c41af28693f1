//! How does a connection begin? One frame each way: what it is for, and whether it may be.
//!
//! Hello:  magic u32 `PDH1` | protocol u16 | purpose u8 (1 stream, 2 door) | volume u128 | door: session u64, generation u64.
//! Answer: magic u32 `PDH1` | protocol u16 | code u8 (1 accepted, 2 refused) | refused: reason in UTF-8; little-endian.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::VolumeId;

use super::frame::{FrameReader, FrameWriter};

/// Version of everything spoken between two marsd; another one is refused by name.
pub(crate) const PROTOCOL: u16 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"PDH1");

/// A longer reason is cut: the frame comes from another host.
const REASON_BYTES_MAX: usize = 512;

/// The first frame of whoever dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub volume: VolumeId,
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A replica follows its source.
    Stream,
    /// A remote door serves guests of another host.
    Door { session: u64, generation: u64 },
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a hello of marsd: {what}"),
    )
}

async fn frame(reader: &mut FrameReader) -> io::Result<Bytes> {
    let ended = || {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended before its hello",
        )
    };
    reader.read().await?.ok_or_else(ended)
}

/// Takes magic and protocol off a first frame; the protocol, when it is another one.
fn head(bytes: &mut Bytes) -> io::Result<Result<(), u16>> {
    let short = |_| malformed("too short");
    if bytes.try_get_u32_le().map_err(short)? != MAGIC {
        return Err(malformed("wrong magic"));
    }
    let protocol = bytes.try_get_u16_le().map_err(short)?;
    Ok(if protocol == PROTOCOL {
        Ok(())
    } else {
        Err(protocol)
    })
}

/// Reads what the dialling side wants; the inner error is a reason to refuse it with.
pub(crate) async fn receive(reader: &mut FrameReader) -> io::Result<Result<Hello, String>> {
    let mut bytes = frame(reader).await?;
    if let Err(protocol) = head(&mut bytes)? {
        return Ok(Err(format!(
            "protocol {protocol} is spoken to a marsd that speaks {PROTOCOL}"
        )));
    }
    parse(bytes).map(Ok)
}

fn parse(mut bytes: Bytes) -> io::Result<Hello> {
    let short = |_| malformed("too short");
    let purpose = bytes.try_get_u8().map_err(short)?;
    let volume = VolumeId(bytes.try_get_u128_le().map_err(short)?);
    let purpose = match purpose {
        1 => Purpose::Stream,
        2 => {
            let session = bytes.try_get_u64_le().map_err(short)?;
            Purpose::Door {
                session,
                generation: bytes.try_get_u64_le().map_err(short)?,
            }
        }
        other => return Err(malformed(&format!("purpose {other} is unknown"))),
    };
    if bytes.has_remaining() {
        return Err(malformed("too long"));
    }
    Ok(Hello { volume, purpose })
}

/// Answers a hello: accepted, or refused for a reason.
pub(crate) async fn answer(writer: &mut FrameWriter, accepted: Result<(), &str>) -> io::Result<()> {
    let mut out = BytesMut::new();
    out.put_u32_le(MAGIC);
    out.put_u16_le(PROTOCOL);
    match accepted {
        Ok(()) => out.put_u8(1),
        Err(reason) => {
            out.put_u8(2);
            out.put_slice(&reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)]);
        }
    }
    writer.write(&[out.freeze()]).await?;
    writer.flush().await
}

/// Says hello and waits until it is accepted.
///
/// Errors: `ConnectionRefused` with the reason, `InvalidData` when the other side is no marsd.
pub(crate) async fn introduce(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    hello: Hello,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    out.put_u32_le(MAGIC);
    out.put_u16_le(PROTOCOL);
    let (purpose, door) = match hello.purpose {
        Purpose::Stream => (1, None),
        Purpose::Door { session, generation } => (2, Some((session, generation))),
    };
    out.put_u8(purpose);
    out.put_u128_le(hello.volume.0);
    if let Some((session, generation)) = door {
        out.put_u64_le(session);
        out.put_u64_le(generation);
    }
    writer.write(&[out.freeze()]).await?;
    writer.flush().await?;

    let refused = |reason: String| Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason));
    let mut bytes = frame(reader).await?;
    // Before the protocols are compared: a refusal is readable in every version.
    let protocol = head(&mut bytes)?;
    match bytes.try_get_u8() {
        Ok(1) if protocol.is_ok() => Ok(()),
        Ok(2) => {
            bytes.truncate(REASON_BYTES_MAX);
            refused(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => Err(malformed("the answer is neither yes nor no")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(hello: Hello, accepted: Result<(), &str>) -> (Hello, io::Result<()>) {
        let (a, b) = tokio::io::duplex(4096);
        let ((ar, aw), (br, bw)) = (tokio::io::split(a), tokio::io::split(b));
        let dialling = async { introduce(&mut FrameReader::new(ar), &mut FrameWriter::new(aw), hello).await };
        let accepting = async {
            let hello = receive(&mut FrameReader::new(br)).await.unwrap().unwrap();
            answer(&mut FrameWriter::new(bw), accepted).await.unwrap();
            hello
        };
        let (outcome, seen) = tokio::join!(dialling, accepting);
        (seen, outcome)
    }

    #[tokio::test]
    async fn a_hello_is_understood_and_answered() {
        for purpose in [
            Purpose::Stream,
            Purpose::Door {
                session: 7,
                generation: u64::MAX,
            },
        ] {
            let hello = Hello {
                volume: VolumeId(42),
                purpose,
            };
            let (seen, outcome) = meet(hello, Ok(())).await;
            assert_eq!(seen, hello);
            outcome.unwrap();
            let (_, outcome) = meet(hello, Err("no such volume here")).await;
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert_eq!(error.to_string(), "no such volume here");
        }
    }

    async fn received(frame: &[u8]) -> Result<Result<Hello, String>, io::ErrorKind> {
        let mut bytes = (frame.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(frame);
        receive(&mut FrameReader::new(io::Cursor::new(bytes)))
            .await
            .map_err(|e| e.kind())
    }

    #[tokio::test]
    async fn garbage_is_no_hello_and_another_protocol_is_named() {
        let ours = |rest: &[u8]| [&b"PDH1"[..], &PROTOCOL.to_le_bytes(), rest].concat();
        for frame in [
            b"x".to_vec(),
            b"GET / HTTP/1.1".to_vec(),
            ours(b"\x03aaaabbbbccccdddd"),
            ours(b"\x01short"),
        ] {
            assert_eq!(received(&frame).await, Err(io::ErrorKind::InvalidData));
        }
        let other = received(b"PDH1\x09\x00whatever comes then")
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(other, "protocol 9 is spoken to a marsd that speaks 2");
    }
}
