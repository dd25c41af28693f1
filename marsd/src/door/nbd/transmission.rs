//! How are a client's requests served, many at once and answered in any order?
//!
//! One task reads and submits, another writes answers as they come. What a client may have under way is bounded in
//! number and bytes; past that its socket is not read, which is the only back-pressure NBD knows.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mars::{GuestError, GuestRequest, Reply};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use super::ConnectionError;
use super::protocol::{
    ALLOCATION_CONTEXT_ID, EXTENTS_MAX, Errno, PAYLOAD_BYTES_MAX, REQUEST_HEADER_BYTES, RequestHeader,
    STATE_HOLE_ZERO, STRING_BYTES_MAX, chunk, put_chunk, put_simple_reply,
};
use super::request::{Shape, Terms, Verdict, errno};
use crate::door::port::Guests;

/// Requests of one connection under way.
const REQUESTS_MAX: usize = 128;

/// Bytes of payload of one connection under way.
const BYTES_MAX: u32 = 2 * PAYLOAD_BYTES_MAX;

/// Contents shorter than this are copied behind their header, so that one system call sends many answers.
const COPY_BYTES_MAX: usize = 32 * 1024;

/// Answers are sent at the latest when this much of them has gathered.
const BATCH_BYTES: usize = 256 * 1024;

/// One answer on its way to the client; gives the client's budget back when dropped.
struct Answer {
    head: BytesMut,
    data: Bytes,
    _budget: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Serves requests until the client says goodbye (all answers are then sent) or breaks off.
pub async fn run<R, W>(
    mut reader: R,
    writer: W,
    terms: Terms,
    guests: Arc<dyn Guests>,
) -> Result<(), ConnectionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    // Every answer holds a place of the budget, so there is always room.
    let (answers, to_write) = mpsc::channel(REQUESTS_MAX);
    let mut writing = AbortOnDrop(tokio::spawn(write_answers(writer, to_write)));
    let served = tokio::select! {
        served = read_requests(&mut reader, terms, guests, answers) => served,
        written = &mut writing.0 => return joined(written),
    };
    served?;
    // Said goodbye: what is under way is still answered.
    joined((&mut writing.0).await)
}

/// A task that must not outlive its connection.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn joined(written: Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<(), ConnectionError> {
    match written {
        Ok(result) => Ok(result?),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}

async fn read_requests<R: AsyncRead + Unpin>(
    reader: &mut R,
    terms: Terms,
    guests: Arc<dyn Guests>,
    answers: mpsc::Sender<Answer>,
) -> Result<(), ConnectionError> {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let bytes = Arc::new(Semaphore::new(BYTES_MAX as usize));
    loop {
        let mut header = [0; REQUEST_HEADER_BYTES];
        reader.read_exact(&mut header).await?;
        let header = RequestHeader::decode(&header)?;
        let budget = (
            requests.clone().acquire_owned().await.expect("never closed"),
            bytes
                .clone()
                .acquire_many_owned(header.held_bytes())
                .await
                .expect("never closed"),
        );
        let verdict = header.judge(&terms);
        let payload = match verdict {
            Verdict::Ask {
                request: GuestRequest::Write { .. },
                ..
            } => read_payload(reader, header.payload_bytes()).await?,
            _ => {
                skip_payload(reader, header.payload_bytes()).await?;
                Bytes::new()
            }
        };
        let answers = answers.clone();
        // A client that is gone needs no answer.
        let send = move |(head, data)| {
            drop(answers.try_send(Answer {
                head,
                data,
                _budget: budget,
            }))
        };
        match verdict {
            Verdict::Disconnect => return Ok(()),
            Verdict::Nothing => send(encode(&header, terms, Shape::Plain, Ok(Reply::Done))),
            Verdict::Refuse(errno) => send(encode_error(&header, terms, errno, "refused by the door")),
            Verdict::Ask { request, shape } => {
                let request = match request {
                    GuestRequest::Write { range, fua, .. } => GuestRequest::Write {
                        range,
                        data: payload,
                        fua,
                    },
                    other => other,
                };
                guests.ask(
                    request,
                    Box::new(move |result| send(encode(&header, terms, shape, result))),
                );
            }
        }
    }
}

async fn read_payload<R: AsyncRead + Unpin>(reader: &mut R, length: u32) -> std::io::Result<Bytes> {
    let length = length as usize;
    let mut payload = BytesMut::with_capacity(length);
    while payload.len() < length {
        let mut rest = (&mut *reader).take((length - payload.len()) as u64);
        if rest.read_buf(&mut payload).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload.freeze())
}

async fn skip_payload<R: AsyncRead + Unpin>(reader: &mut R, length: u32) -> std::io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let mut rest = reader.take(u64::from(length));
    let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if skipped == u64::from(length) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

fn encode(
    header: &RequestHeader,
    terms: Terms,
    shape: Shape,
    result: Result<Reply, GuestError>,
) -> (BytesMut, Bytes) {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return encode_error(header, terms, errno(&error, header), &error.to_string()),
    };
    let mut head = BytesMut::with_capacity(32);
    match (shape, reply) {
        (Shape::Data { .. }, Reply::Data(data)) if data.len() != header.length as usize => encode_error(
            header,
            terms,
            Errno::Io,
            "the volume answered with a wrong length",
        ),
        (Shape::Data { offset }, Reply::Data(data)) if terms.structured => {
            put_chunk(&mut head, header.cookie, chunk::OFFSET_DATA, 8 + data.len());
            head.put_u64(offset);
            (head, data)
        }
        (Shape::Data { .. }, Reply::Data(data)) => {
            put_simple_reply(&mut head, header.cookie, 0);
            (head, data)
        }
        (Shape::Plain, Reply::Done) if terms.structured => {
            put_chunk(&mut head, header.cookie, chunk::NONE, 0);
            (head, Bytes::new())
        }
        (Shape::Plain, Reply::Done) => {
            put_simple_reply(&mut head, header.cookie, 0);
            (head, Bytes::new())
        }
        (Shape::Extents { one }, Reply::Extents(extents)) => {
            let extents = extents.iter().map(|e| (e.range.len_bytes(), e.data));
            let descriptors = descriptors(extents, if one { 1 } else { EXTENTS_MAX });
            if descriptors.is_empty() {
                return encode_error(header, terms, Errno::Io, "the volume described nothing");
            }
            put_chunk(
                &mut head,
                header.cookie,
                chunk::BLOCK_STATUS,
                4 + 8 * descriptors.len(),
            );
            head.put_u32(ALLOCATION_CONTEXT_ID);
            for (length, state) in descriptors {
                head.put_u32(length);
                head.put_u32(state);
            }
            (head, Bytes::new())
        }
        (_, Reply::Done | Reply::Data(_) | Reply::Extents(_)) => {
            encode_error(header, terms, Errno::Io, "the volume answered something else")
        }
    }
}

/// Lengths and states on the wire: neighbours of one state are one descriptor, at most `count_max` of them.
fn descriptors(extents: impl Iterator<Item = (u64, bool)>, count_max: usize) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (length, data) in extents {
        let state = if data { 0 } else { STATE_HOLE_ZERO };
        let length = u32::try_from(length).expect("the range asked for is below 4 GiB");
        if let Some(last) = out.last_mut().filter(|last| last.1 == state) {
            last.0 += length;
        } else if out.len() < count_max {
            out.push((length, state));
        } else {
            break;
        }
    }
    out
}

fn encode_error(header: &RequestHeader, terms: Terms, errno: Errno, message: &str) -> (BytesMut, Bytes) {
    debug!(
        command = header.command,
        offset = header.offset,
        length = header.length,
        ?errno,
        message,
        "refused"
    );
    let mut head = BytesMut::with_capacity(64);
    if terms.structured {
        let end = message.floor_char_boundary(STRING_BYTES_MAX);
        put_chunk(&mut head, header.cookie, chunk::ERROR, 6 + end);
        head.put_u32(errno as u32);
        head.put_u16(u16::try_from(end).expect("cut to STRING_BYTES_MAX"));
        head.put_slice(&message.as_bytes()[..end]);
    } else {
        put_simple_reply(&mut head, header.cookie, errno as u32);
    }
    (head, Bytes::new())
}

/// Sends answers until nobody can produce any more; those that are ready together go together.
async fn write_answers<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut answers: mpsc::Receiver<Answer>,
) -> std::io::Result<()> {
    let mut batch = BytesMut::with_capacity(BATCH_BYTES);
    let mut ready = Vec::new();
    while answers.recv_many(&mut ready, REQUESTS_MAX).await > 0 {
        for answer in &mut ready {
            batch.put_slice(&answer.head);
            if answer.data.len() < COPY_BYTES_MAX {
                batch.put_slice(&answer.data);
            } else {
                let mut both = std::mem::take(&mut batch).chain(std::mem::take(&mut answer.data));
                writer.write_all_buf(&mut both).await?;
                batch = both.into_inner().0;
                batch.clear();
            }
            if batch.len() >= BATCH_BYTES {
                writer.write_all_buf(&mut batch).await?;
            }
        }
        ready.clear();
        if !batch.is_empty() {
            writer.write_all_buf(&mut batch).await?;
        }
        writer.flush().await?;
    }
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_state_are_one_descriptor() {
        let check = |extents: &[(u64, bool)], count_max: usize, want: &[(u32, u32)]| {
            assert_eq!(descriptors(extents.iter().copied(), count_max), want);
        };
        check(
            &[(512, true), (512, true), (1024, false)],
            10,
            &[(1024, 0), (1024, STATE_HOLE_ZERO)],
        );
        check(&[(512, true), (512, true), (1024, false)], 1, &[(1024, 0)]);
        check(&[(512, false)], 1, &[(512, STATE_HOLE_ZERO)]);
        check(&[], 1, &[]);
    }
}
