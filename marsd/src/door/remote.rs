//! How does a door reach a primary on another host, and how is it served there?

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::control::Member;
use mars::{Admission, GuestError, GuestRequest, Reply, Standing};
use model::{Epoch, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tracing::debug;

use super::port::{Done, Gates, PrimaryPort};
use super::wire::{DATA_BYTES_MAX, ToDoor, ToPrimary, WIRE_VERSION};
use crate::link::frame::{Dialer, DoorHello, FrameReader, FrameWriter};

/// How often either side says that it is still here.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// A side that says nothing for this long is gone: a host without power sends no farewell.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Time to connect and be let in; a door has other nodes to try.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long a successor makes a door wait until it is primary, rather than send it away.
pub const PATIENCE: Duration = Duration::from_millis(1000);

/// Requests of one door under way here.
const REQUESTS_MAX: usize = 1024;

/// Bytes of one door under way here; past that its connection is not read.
const BYTES_MAX: usize = 64 << 20;

/// Waits until the replica serves in an epoch of at least this, as long as there is hope; `None` when it does not.
async fn serving(
    mut standing: watch::Receiver<Standing>,
    at_least: Epoch,
    patience: Duration,
) -> Option<Epoch> {
    let until = Instant::now() + patience;
    let ready = standing.wait_for(|view| view.serving && view.epoch >= at_least);
    match timeout_at(until, ready).await {
        Ok(Ok(view)) => Some(view.epoch),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Serves one remote door until it leaves, is replaced by a newer connection, or breaks off.
///
/// Errors: what the connection said, or `InvalidData` for a peer that does not speak our language.
pub async fn serve(
    mut reader: FrameReader,
    mut writer: FrameWriter,
    port: Arc<dyn PrimaryPort>,
    hello: DoorHello,
    gates: &Gates,
) -> io::Result<()> {
    reader.set_idle(Some(SILENCE_MAX));
    let (at_least, epoch_seen) = match next(&mut reader, ToPrimary::decode).await? {
        Some(ToPrimary::Enter {
            version: WIRE_VERSION,
            at_least,
            epoch_seen,
        }) => (at_least, epoch_seen),
        Some(ToPrimary::Enter { version, .. }) => {
            let text =
                format!("the door speaks version {version}, we speak {WIRE_VERSION}: update the older host");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Some(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the door did not ask to enter",
            ));
        }
        None => return Ok(()),
    };
    port.heard(epoch_seen);
    let patience = if at_least.is_some() {
        PATIENCE
    } else {
        Duration::ZERO
    };
    let epoch = serving(port.standing(), at_least.unwrap_or(Epoch::NONE), patience).await;
    let gate = gates.of(hello.volume, hello.session);
    let Some((epoch, admission)) = epoch.and_then(|e| Some((e, Admission::new(gate, hello.generation, e)?)))
    else {
        let Standing { primary, known, .. } = port.standing().borrow().clone();
        let elsewhere = ToDoor::Elsewhere { hint: primary, known };
        writer.write(&elsewhere.encode()).await?;
        writer.flush().await?;
        return writer.shutdown().await;
    };
    port.prune();
    let admitted = Admitted {
        port: &*port,
        admission,
    };
    writer.write(&ToDoor::Welcome { epoch }.encode()).await?;
    writer.flush().await?;
    // Every answer holds a place of the budget, so there is always room.
    let (answers, to_write) = mpsc::channel(REQUESTS_MAX);
    tokio::select! {
        read = read_requests(&mut reader, &admitted, answers) => read,
        written = write_answers(&mut writer, to_write) => written,
    }
}

/// A connection that was let in; what it asked for and still waits is withdrawn when it ends.
struct Admitted<'a> {
    port: &'a dyn PrimaryPort,
    admission: Admission,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.admission.end();
        self.port.prune();
    }
}

/// One answer on its way to the door; gives the door's budget back when dropped.
struct Outgoing {
    seq: u64,
    result: Result<Reply, GuestError>,
    _budget: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

async fn read_requests(
    reader: &mut FrameReader,
    admitted: &Admitted<'_>,
    answers: mpsc::Sender<Outgoing>,
) -> io::Result<()> {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let bytes = Arc::new(Semaphore::new(BYTES_MAX));
    while let Some(message) = next(reader, ToPrimary::decode).await? {
        let (seq, request) = match message {
            ToPrimary::Request { seq, request } => (seq, request),
            ToPrimary::Alive => continue,
            ToPrimary::Enter { .. } => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the door enters a second time",
                ));
            }
        };
        let held = match &request {
            GuestRequest::Read { range } | GuestRequest::Write { range, .. } => range.len_bytes(),
            _ => 0,
        };
        let held = u32::try_from(held.min(DATA_BYTES_MAX)).expect("DATA_BYTES_MAX is small");
        let budget = (
            requests.clone().acquire_owned().await.expect("never closed"),
            bytes
                .clone()
                .acquire_many_owned(held)
                .await
                .expect("never closed"),
        );
        let answers = answers.clone();
        // A door that is gone needs no answer.
        let done = move |result| {
            drop(answers.try_send(Outgoing {
                seq,
                result,
                _budget: budget,
            }))
        };
        admitted.port.submit(&admitted.admission, request, answered(done));
    }
    Ok(())
}

async fn write_answers(writer: &mut FrameWriter, mut answers: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut alive = alive();
    let mut ready = Vec::new();
    loop {
        tokio::select! {
            count = answers.recv_many(&mut ready, REQUESTS_MAX) => if count == 0 {
                return Ok(());
            },
            _ = alive.tick() => writer.write(&ToDoor::Alive.encode()).await?,
        }
        for Outgoing { seq, result, _budget } in ready.drain(..) {
            writer.write(&ToDoor::Answer { seq, result }.encode()).await?;
        }
        writer.flush().await?;
    }
}

/// A completion that answers `NotPrimary` by itself when a replica that stops drops it: whoever asked will ask again.
pub fn answered(done: impl FnOnce(Result<Reply, GuestError>) + Send + 'static) -> Done {
    struct Obligation<F: FnOnce(Result<Reply, GuestError>)>(Option<F>);
    impl<F: FnOnce(Result<Reply, GuestError>)> Drop for Obligation<F> {
        fn drop(&mut self) {
            if let Some(done) = self.0.take() {
                done(Err(GuestError::NotPrimary {
                    hint: None,
                    granted: None,
                }));
            }
        }
    }
    let mut obligation = Obligation(Some(done));
    Box::new(move |result| {
        if let Some(done) = obligation.0.take() {
            done(result);
        }
    })
}

/// Why a node did not let a door in.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// It could not be reached, or not understood.
    #[error("connecting failed")]
    Io(#[from] io::Error),
    /// It is not primary.
    #[error("it is not primary")]
    Elsewhere {
        /// Who is, as far as it knows.
        hint: Option<NodeId>,
        /// The highest epoch that it has heard of.
        known: Epoch,
    },
}

/// Connects to a member and asks to be let in.
pub async fn enter(
    dialer: &dyn Dialer,
    member: &Member,
    hello: DoorHello,
    at_least: Option<Epoch>,
    epoch_seen: Epoch,
) -> Result<(Epoch, FrameReader, FrameWriter), EnterError> {
    let entering = async {
        let (mut reader, mut writer) = dialer.dial_door(member, hello).await?;
        writer
            .write(
                &ToPrimary::Enter {
                    version: WIRE_VERSION,
                    at_least,
                    epoch_seen,
                }
                .encode(),
            )
            .await?;
        writer.flush().await?;
        match next(&mut reader, ToDoor::decode).await? {
            Some(ToDoor::Welcome { epoch }) => {
                reader.set_idle(Some(SILENCE_MAX));
                Ok((epoch, reader, writer))
            }
            Some(ToDoor::Elsewhere { hint, known }) => Err(EnterError::Elsewhere { hint, known }),
            Some(ToDoor::Answer { .. } | ToDoor::Alive) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the primary did not say its epoch first",
            )
            .into()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    };
    timeout(CONNECT_MAX, entering)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Carries requests and answers of one connection until it breaks; returns when it has.
pub async fn carry(
    mut reader: FrameReader,
    mut writer: FrameWriter,
    mut requests: mpsc::UnboundedReceiver<(u64, GuestRequest)>,
    answer: impl Fn(u64, Result<Reply, GuestError>),
) {
    let reading = async {
        loop {
            match next(&mut reader, ToDoor::decode).await? {
                Some(ToDoor::Answer { seq, result }) => answer(seq, result),
                Some(ToDoor::Alive) => {}
                Some(ToDoor::Welcome { .. } | ToDoor::Elsewhere { .. }) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the primary greets a second time",
                    ));
                }
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
    };
    let writing = async {
        let mut alive = alive();
        let mut ready = Vec::new();
        loop {
            tokio::select! {
                count = requests.recv_many(&mut ready, REQUESTS_MAX) => if count == 0 {
                    return writer.shutdown().await;
                },
                _ = alive.tick() => writer.write(&ToPrimary::Alive.encode()).await?,
            }
            for (seq, request) in ready.drain(..) {
                writer
                    .write(&ToPrimary::Request { seq, request }.encode())
                    .await?;
            }
            writer.flush().await?;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        read = reading => read,
        written = writing => written,
    };
    if let Err(error) = ended {
        debug!(%error, "the connection to the primary ended");
    }
}

fn alive() -> tokio::time::Interval {
    let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive
}

async fn next<T>(
    reader: &mut FrameReader,
    decode: impl FnOnce(bytes::Bytes) -> Result<T, super::wire::WireError>,
) -> io::Result<Option<T>> {
    let Some(frame) = reader.read().await? else {
        return Ok(None);
    };
    decode(frame)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
