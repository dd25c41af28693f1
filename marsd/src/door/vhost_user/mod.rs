//! How does a virtual machine reach a volume? vhost-user-blk: its front end (QEMU and others) shares the guest's memory with us.
//!
//! ```text
//! front end ──socket──► Device (messages)      a thread per connection
//! guest     ──memory──► Queue ──► session      a thread per queue
//! ```
//!
//! What is under way is also written down in memory that the front end keeps (`inflight`): after the death of marsd it
//! connects again, gives that memory to the next marsd, and what had no answer is begun again; the guest has waited, no more.

mod chain;
mod device;
mod dirty;
mod inflight;
mod mapping;
mod memory;
mod queue;
mod request;
mod ring;
mod space;
mod tally;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tracing::{Span, debug, error, warn};
use vhost::vhost_user::BackendReqHandler;

use super::port::Guests;
use super::{Counted, Offer, pause_accepting};
use crate::thread;
use device::Device;
use tally::{Predecessors, Tally};

/// Front ends of one door at a time: one is usual, two while a guest migrates on one host.
const FRONT_ENDS_MAX: usize = 16;

/// How often the thread of an ended connection looks whether its door closes.
const CLOSING_EVERY: Duration = Duration::from_millis(50);

/// Of a message: request u32, flags u32, size of the body u32.
const HEADER_BYTES: usize = 12;

/// Longest body that a message may have.
const BODY_BYTES_MAX: usize = 4096;

/// The front end gives us a socket for what we have to say.
const SET_BACKEND_REQ_FD: u32 = 21;
/// We say: the configuration space is another one.
const BACKEND_CONFIG_CHANGE: u32 = 2;

const FLAG_VERSION: u32 = 1;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;

/// What all front ends of a door have in common.
pub struct Context {
    offer: Offer,
    guests: Arc<dyn Guests>,
    predecessors: Predecessors,
    closing: AtomicBool,
}

impl Context {
    /// Whether the door closes: nobody waits for anything any more.
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// One connected front end.
struct FrontEnd {
    /// To cut it off.
    stream: UnixStream,
    /// Where it hears from us, once it has said so.
    ear: Ear,
    /// Resolves when its thread has ended.
    ended: oneshot::Receiver<()>,
}

type Ear = Arc<Mutex<Option<UnixStream>>>;

/// Admits front ends until told to stop (or forgotten); nobody is connected when this returns.
pub async fn admit_all(
    listener: UnixListener,
    mut stop: oneshot::Receiver<()>,
    offer: Offer,
    guests: Arc<dyn Guests>,
    count: Arc<AtomicU64>,
) {
    let mut length = offer.length.watch();
    let context = Arc::new(Context {
        offer,
        guests,
        predecessors: Predecessors::default(),
        closing: AtomicBool::new(false),
    });
    let mut connected: Vec<FrontEnd> = Vec::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = length.changed() => {
                connected.iter().for_each(FrontEnd::tell_of_change);
                continue;
            }
            _ = &mut stop => break,
        };
        connected.retain_mut(|one| one.ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let admitted = match accepted {
            Ok(_) if connected.len() >= FRONT_ENDS_MAX => {
                warn!(
                    front_ends = FRONT_ENDS_MAX,
                    "the door is full; a front end is turned away"
                );
                continue;
            }
            Ok((stream, _)) => admit(stream, &context, &count),
            Err(error) => Err(error),
        };
        match admitted {
            Ok(one) => connected.push(one),
            Err(error) => pause_accepting(&error).await,
        }
    }
    context.closing.store(true, Ordering::Release);
    for one in connected {
        // It may have left by itself.
        let _ = one.stream.shutdown(Shutdown::Both);
        // Either way it has ended.
        let _ = one.ended.await;
    }
}

fn admit(
    stream: tokio::net::UnixStream,
    context: &Arc<Context>,
    count: &Arc<AtomicU64>,
) -> io::Result<FrontEnd> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let to_cut = stream.try_clone()?;
    let ear = Ear::default();
    let (end, ended) = oneshot::channel();
    let counted = Counted::new(count.clone(), context.guests.clone());
    let body = {
        let (context, ear) = (context.clone(), ear.clone());
        move || {
            serve(stream, &context, &ear);
            drop(counted);
            // Whoever closes the door may be gone.
            let _ = end.send(());
        }
    };
    thread::spawn("marsd-vhost-conn", Span::current(), body)?;
    Ok(FrontEnd {
        stream: to_cut,
        ear,
        ended,
    })
}

/// Serves one front end until it leaves and nothing that it asked is under way.
fn serve(stream: UnixStream, context: &Arc<Context>, ear: &Ear) {
    let tally = Arc::new(Tally::default());
    let device = Arc::new(Mutex::new(Device::new(context.clone(), tally.clone())));
    // Nothing here is more than this one guest's: a message that trips over an oversight must not cost the others theirs.
    let conversing = AssertUnwindSafe(|| converse(&stream, device.clone(), ear));
    match catch_unwind(conversing) {
        Ok(Ok(())) => debug!("a front end left"),
        Ok(Err(error)) => debug!(%error, "a front end was dropped"),
        Err(_) => error!("a front end was dropped: its message found a mistake of ours"),
    }
    // Whoever may cut it off has a copy, which would keep it open; it may have left by itself.
    let _ = stream.shutdown(Shutdown::Both);
    device.lock().unwrap_or_else(PoisonError::into_inner).end();
    context.predecessors.add(tally.clone());
    while tally.is_busy() && !context.is_closing() {
        tally.wait(CLOSING_EVERY);
    }
}

fn converse(stream: &UnixStream, device: Arc<Mutex<Device>>, ear: &Ear) -> io::Result<()> {
    let mut handler = BackendReqHandler::from_stream(stream.try_clone()?, device);
    loop {
        let mut header = [0; HEADER_BYTES];
        let flags = RecvFlags::PEEK | RecvFlags::WAITALL;
        let (_, len) = rustix::net::recv(stream, &mut header[..], flags)?;
        if len < HEADER_BYTES {
            return match len {
                0 => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let [r0, r1, r2, r3, ..] = header;
        if u32::from_le_bytes([r0, r1, r2, r3]) == SET_BACKEND_REQ_FD {
            let theirs = take_ear(stream)?;
            *ear.lock().unwrap_or_else(PoisonError::into_inner) = Some(theirs);
        } else {
            handler
                .handle_request()
                .map_err(|error| device::told_by(&error))?;
        }
    }
}

/// Receives the socket for what we have to say. By hand, since the library has no words for a change of configuration.
fn take_ear(mut stream: &UnixStream) -> io::Result<UnixStream> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut header = [0; HEADER_BYTES];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut header)];
    let received = rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != HEADER_BYTES || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(bad("a message came in pieces"));
    }
    let mut files: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    let [_, _, _, _, f0, f1, f2, f3, s0, s1, s2, s3] = header;
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    if size > BODY_BYTES_MAX {
        return Err(bad("a message is too long"));
    }
    let mut body = vec![0; size];
    stream.read_exact(&mut body)?;
    let file = files
        .pop()
        .filter(|_| files.is_empty())
        .ok_or_else(|| bad("not exactly one socket came"))?;
    let domain = rustix::net::sockopt::socket_domain(file.as_fd())?;
    if domain != rustix::net::AddressFamily::UNIX {
        return Err(bad("what came is no Unix socket"));
    }
    let theirs = UnixStream::from(file);
    // A front end that does not listen must not hold us up.
    theirs.set_nonblocking(true)?;
    if flags & FLAG_NEED_REPLY != 0 {
        let words = [SET_BACKEND_REQ_FD, FLAG_VERSION | FLAG_REPLY, 8, 0, 0];
        stream.write_all(&encode(&words))?;
    }
    Ok(theirs)
}

fn encode(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl FrontEnd {
    /// The guest should look at its disk's length again.
    fn tell_of_change(&self) {
        let ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut stream) = ear.as_ref() else { return };
        if let Err(error) = stream.write_all(&encode(&[BACKEND_CONFIG_CHANGE, FLAG_VERSION, 0])) {
            debug!(%error, "a front end does not hear that its disk has grown");
        }
    }
}
