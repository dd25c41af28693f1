//! What can be said to a volume's loop, and by whom?

use crossbeam_channel::{Receiver, Sender};
use mars::{
    Admission, Answer, Command, CommandError, DiskError, Event, GuestError, GuestRequest, LinkId, Message,
    Reply, Standing, Status,
};
use model::{Epoch, NodeId, VolumeId};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::disk::{FilesAnswer, LogFiles};
use crate::door::port::{Done, PrimaryPort};
use crate::link::Outgoing;

/// Everything that reaches a volume's loop.
pub(crate) enum Input {
    Event(Event),
    Guest {
        /// Looked at when the request reaches the engine; `None` always gets through.
        admission: Option<Admission>,
        request: GuestRequest,
        done: Done,
    },
    /// Connections of doors have ended or been replaced.
    Prune,
    Command {
        command: Command,
        answer: oneshot::Sender<Result<Answer, CommandError>>,
    },
    Status {
        answer: oneshot::Sender<Status>,
    },
    LogFiles {
        rotate: bool,
        answer: FilesAnswer,
    },
    LinkUp {
        link: LinkId,
        peer: NodeId,
        dialled: bool,
        outgoing: Outgoing,
    },
    LinkDown {
        link: LinkId,
        peer: NodeId,
    },
    /// The permit holds the reader back until the loop has seen the message.
    Message {
        link: LinkId,
        message: Message,
        permit: OwnedSemaphorePermit,
    },
    Stop,
}

/// Where answers of disks and links go: the loop of one volume.
#[derive(Clone)]
pub struct Inbox(Sender<Input>);

impl Inbox {
    /// An inbox and the end that the loop reads.
    pub(crate) fn new() -> (Inbox, Receiver<Input>) {
        // Unbounded, because every sender is bounded by itself: doors by their requests in flight, disks by what the engine
        // asked for, links by the permits of their readers.
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Inbox(sender), receiver)
    }

    /// Says something; whether the loop still listens.
    pub(crate) fn send(&self, input: Input) -> bool {
        self.0.send(input).is_ok()
    }

    /// Something happened; a loop that has stopped does not care.
    pub fn event(&self, event: Event) {
        self.send(Input::Event(event));
    }

    /// A disk operation failed.
    pub(crate) fn disk_failed(&self, operation: impl Into<String>, reason: impl ToString) {
        let error = DiskError {
            operation: operation.into(),
            reason: reason.to_string(),
        };
        self.event(Event::DiskFailed { error });
    }
}

/// A volume whose replica is here, for whoever serves guests or operators. Cheap to clone.
#[derive(Clone)]
pub struct VolumeHandle {
    volume: VolumeId,
    inbox: Inbox,
    standing: watch::Receiver<Standing>,
}

impl VolumeHandle {
    pub(crate) fn new(volume: VolumeId, inbox: Inbox, standing: watch::Receiver<Standing>) -> VolumeHandle {
        VolumeHandle {
            volume,
            inbox,
            standing,
        }
    }

    /// Which volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Asks on behalf of a guest and waits for the answer.
    ///
    /// Errors: as the engine says, or a disk error when the volume stops first.
    pub async fn call(&self, request: GuestRequest) -> Result<Reply, GuestError> {
        let (sender, receiver) = oneshot::channel();
        // The receiver may be gone because the caller gave up; then nobody is interested.
        let done = Box::new(move |result| drop(sender.send(result)));
        self.inbox.send(Input::Guest {
            admission: None,
            request,
            done,
        });
        receiver
            .await
            .unwrap_or_else(|_| Err(GuestError::Disk(self.stopped())))
    }

    /// Asks on behalf of an operator and waits for the answer.
    pub async fn command(&self, command: Command) -> Result<Answer, CommandError> {
        let (answer, receiver) = oneshot::channel();
        self.inbox.send(Input::Command { command, answer });
        let stopped = |_| {
            Err(CommandError::NotInService {
                reason: self.stopped().to_string(),
            })
        };
        receiver.await.unwrap_or_else(stopped)
    }

    /// How the replica stands; `None` once the volume has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (answer, receiver) = oneshot::channel();
        self.inbox.send(Input::Status { answer });
        receiver.await.ok()
    }

    /// What the log takes; with `rotate`, once it has gone over to another segment. `None` once the volume has stopped.
    pub(crate) async fn log_files(&self, rotate: bool) -> Option<std::io::Result<LogFiles>> {
        let (answer, receiver) = oneshot::channel();
        self.inbox.send(Input::LogFiles { rotate, answer });
        receiver.await.ok()
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    fn stopped(&self) -> DiskError {
        DiskError {
            operation: format!("volume {}", self.volume),
            reason: "marsd stops serving it".to_owned(),
        }
    }
}

impl PrimaryPort for VolumeHandle {
    /// `done` runs in the loop's thread; it is dropped uncalled when the volume stops first, and whether the request was
    /// done is then unknown.
    fn submit(&self, admission: &Admission, request: GuestRequest, done: Done) {
        let admission = Some(admission.clone());
        self.inbox.send(Input::Guest {
            admission,
            request,
            done,
        });
    }

    fn prune(&self) {
        self.inbox.send(Input::Prune);
    }

    fn heard(&self, epoch: Epoch) {
        self.inbox.event(Event::Heard { epoch });
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}
