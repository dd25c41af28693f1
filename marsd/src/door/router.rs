//! How do a host's guests reach the primary, wherever it is? Drives a [`Session`] with real connections.
//!
//! Whoever has news (a door with a request, an engine or a link with an answer, the clock) puts it into the inbox; whoever
//! then gets hold of the session works off the whole inbox, so a request costs no switch of tasks on its way to a
//! local engine, and a burst of them becomes a batch. Outputs are performed at once; none of them blocks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use api::control::Member;
use bytes::{Bytes, BytesMut};
use mars::session::COPIES_BYTES_MAX;
use mars::{
    Admission, Gate, GuestError, GuestRequest, Input, Output, Reply, RequestTag, Session, SessionStatus,
    Standing,
};
use model::{Epoch, NodeId, Tick, VolumeId};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, info, info_span};

use super::port::{Done, Guests, PrimaryPort, Quiet};
use super::remote::{EnterError, PATIENCE, answered, carry, enter};
use super::wire::{DATA_BYTES_MAX, pieces};
use crate::link::frame::{Dialer, DoorHello};

/// All guests of one volume on this host; closing it (dropping the last one) leaves open requests unanswered.
pub struct Router {
    core: Arc<Core>,
}

struct Core {
    volume: VolumeId,
    node: NodeId,
    /// Names this host's session to the hosts of primaries, the same after every restart: what an earlier life of ours
    /// has left in a socket must not be done after what we send.
    session: u64,
    /// What generations are counted from; later lives count from later on.
    generation_base: u64,
    dialer: Arc<dyn Dialer>,
    runtime: tokio::runtime::Handle,
    began: Instant,
    inbox: Mutex<Vec<News>>,
    machine: Mutex<Machine>,
    pause_micros_max: AtomicU64,
    /// Whether nothing is under way, or somebody is there to whom it belongs.
    quiet: watch::Sender<bool>,
    deadline: watch::Sender<Option<Instant>>,
}

/// What can happen.
enum News {
    Guest {
        request: GuestRequest,
        done: Done,
    },
    /// One guest more, or one less.
    Came,
    Left,
    Members {
        members: Vec<Member>,
    },
    Local {
        port: Option<Arc<dyn PrimaryPort>>,
    },
    Connected {
        generation: u64,
        epoch: Epoch,
        link: Link,
    },
    Session(Input),
}

/// A way to the primary.
enum Link {
    Local {
        port: Arc<dyn PrimaryPort>,
        admission: Admission,
    },
    Remote {
        requests: mpsc::UnboundedSender<(u64, GuestRequest)>,
    },
}

struct Machine {
    session: Session,
    members: Vec<Member>,
    local: Option<Arc<dyn PrimaryPort>>,
    /// Of our own connections to the local replica.
    gate: Arc<Gate>,
    link: Option<Link>,
    /// Which generation the link or attempt is of, and whether it goes to the local replica.
    generation: u64,
    is_local: bool,
    /// The task that connects or carries.
    task: Option<AbortHandle>,
    open: HashMap<RequestTag, Done>,
    next_tag: u64,
    /// Guests that came less those that left; news of both may overtake each other.
    guests: i64,
}

impl Router {
    /// Begins to look for the primary of `volume` among `members`; `local` is the replica here, if there is one.
    /// Must be called within a tokio runtime.
    pub fn new(
        volume: VolumeId,
        node: NodeId,
        members: Vec<Member>,
        local: Option<Arc<dyn PrimaryPort>>,
        dialer: Arc<dyn Dialer>,
    ) -> Router {
        let (deadline, deadlines) = watch::channel(None);
        let core = Arc::new(Core {
            volume,
            session: session_name(&node),
            generation_base: micros_of_clock(),
            dialer,
            runtime: tokio::runtime::Handle::current(),
            began: Instant::now(),
            inbox: Mutex::default(),
            machine: Mutex::new(Machine {
                session: Session::new(Tick(0), node.clone(), nodes(&members), COPIES_BYTES_MAX),
                members,
                local,
                gate: Arc::default(),
                link: None,
                generation: 0,
                is_local: false,
                task: None,
                open: HashMap::new(),
                next_tag: 0,
                guests: 0,
            }),
            node,
            pause_micros_max: AtomicU64::new(0),
            quiet: watch::Sender::new(true),
            deadline,
        });
        let timer = keep_time(Arc::downgrade(&core), deadlines);
        core.runtime
            .spawn(timer.instrument(info_span!("session", volume = %core.volume, node = %core.node)));
        core.post(News::Session(Input::Timer));
        Router { core }
    }

    /// The volume has replicas on these nodes now.
    pub fn set_members(&self, members: Vec<Member>) {
        self.core.post(News::Members { members });
    }

    /// There is a replica here now, or not any more.
    pub fn set_local(&self, port: Option<Arc<dyn PrimaryPort>>) {
        self.core.post(News::Local { port });
    }

    /// How the session stands.
    pub fn status(&self) -> SessionStatus {
        self.core.look(|machine| machine.session.status())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.core.lock().hang_up();
    }
}

impl Guests for Router {
    fn ask(&self, request: GuestRequest, done: Done) {
        let range = match &request {
            GuestRequest::Read { range } | GuestRequest::Write { range, .. } => *range,
            _ => return self.core.post(News::Guest { request, done }),
        };
        if range.len_bytes() <= DATA_BYTES_MAX {
            return self.core.post(News::Guest { request, done });
        }
        let parts: Vec<GuestRequest> = pieces(range)
            .map(|piece| match &request {
                GuestRequest::Write { data, fua, .. } => {
                    let from = usize::try_from(piece.start.bytes() - range.start.bytes())
                        .expect("within a buffer that exists");
                    let length = usize::try_from(piece.len_bytes()).expect("DATA_BYTES_MAX is small");
                    GuestRequest::Write {
                        range: piece,
                        data: data.slice(from..from + length),
                        fua: *fua,
                    }
                }
                _ => GuestRequest::Read { range: piece },
            })
            .collect();
        let gathering = Arc::new(Mutex::new(Gathering {
            replies: vec![None; parts.len()],
            missing: parts.len(),
            done: Some(done),
        }));
        for (index, request) in parts.into_iter().enumerate() {
            let gathering = gathering.clone();
            let done = Box::new(move |result| Gathering::take(&gathering, index, result));
            self.core.post(News::Guest { request, done });
        }
    }

    fn came(&self) {
        self.core.post(News::Came);
    }

    fn left(&self) {
        self.core.post(News::Left);
    }

    fn quiet(&self) -> Quiet {
        let mut quiet = self.core.look(|_| self.core.quiet.subscribe());
        Box::pin(async move {
            // A session that ended does nothing any more.
            let _ = quiet.wait_for(|quiet| *quiet).await;
        })
    }

    fn pause_micros_max(&self) -> u64 {
        self.core.pause_micros_max.load(Ordering::Relaxed)
    }
}

/// The answers to the pieces of a large request.
struct Gathering {
    replies: Vec<Option<Result<Reply, GuestError>>>,
    missing: usize,
    done: Option<Done>,
}

impl Gathering {
    fn take(this: &Mutex<Gathering>, index: usize, result: Result<Reply, GuestError>) {
        let mut gathering = this.lock().unwrap_or_else(PoisonError::into_inner);
        gathering.replies[index] = Some(result);
        gathering.missing -= 1;
        if gathering.missing > 0 {
            return;
        }
        let replies: Result<Vec<Reply>, GuestError> = std::mem::take(&mut gathering.replies)
            .into_iter()
            .flatten()
            .collect();
        let done = gathering.done.take();
        drop(gathering);
        if let Some(done) = done {
            done(replies.map(join));
        }
    }
}

fn join(replies: Vec<Reply>) -> Reply {
    let mut data: Vec<Bytes> = Vec::with_capacity(replies.len());
    for reply in replies {
        match reply {
            Reply::Data(piece) => data.push(piece),
            Reply::Done | Reply::Extents(_) => return Reply::Done,
        }
    }
    let mut whole = BytesMut::with_capacity(data.iter().map(Bytes::len).sum());
    data.iter().for_each(|piece| whole.extend_from_slice(piece));
    Reply::Data(whole.freeze())
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(self: &Arc<Core>, news: News) {
        self.inbox().push(news);
        self.drive();
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<News>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works off the inbox, unless somebody else is at it: then that one looks again before it leaves.
    fn drive(self: &Arc<Core>) {
        while !self.inbox().is_empty() {
            match self.machine.try_lock() {
                Ok(mut machine) => self.work_off(&mut machine),
                Err(TryLockError::Poisoned(poisoned)) => self.work_off(&mut poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => return,
            }
        }
    }

    fn work_off(self: &Arc<Core>, machine: &mut Machine) {
        loop {
            let news = std::mem::take(&mut *self.inbox());
            if news.is_empty() {
                break;
            }
            for news in news {
                machine.apply(self, news);
            }
        }
        self.note(machine);
    }

    /// Looks at the session after all that has been said so far. Not from within an answer.
    fn look<T>(self: &Arc<Core>, at: impl FnOnce(&Machine) -> T) -> T {
        let mut machine = self.lock();
        self.work_off(&mut machine);
        let seen = at(&machine);
        drop(machine);
        // News that came meanwhile found the session taken and relies on us.
        self.drive();
        seen
    }

    fn note(&self, machine: &Machine) {
        let status = machine.session.status();
        self.pause_micros_max
            .store(status.pause_micros_max, Ordering::Relaxed);
        let quiet = status.waiting_requests == 0 || machine.guests > 0;
        self.quiet
            .send_if_modified(|was| std::mem::replace(was, quiet) != quiet);
        let wanted = machine
            .session
            .poll_timeout()
            .map(|tick| self.began + std::time::Duration::from_micros(tick.0));
        self.deadline.send_if_modified(|deadline| {
            let changed = *deadline != wanted;
            *deadline = wanted;
            changed
        });
    }

    fn now(&self) -> Tick {
        Tick(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Tells the session when its time has come, for as long as there is one.
async fn keep_time(core: Weak<Core>, mut deadlines: watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = *deadlines.borrow_and_update();
        let come = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = come => match core.upgrade() {
                Some(core) => {
                    core.deadline.send_if_modified(|d| {
                        // Not a second time for the same moment; the session asks again if it wants to.
                        if *d == deadline { *d = None; }
                        false
                    });
                    core.post(News::Session(Input::Timer));
                }
                None => return,
            },
            changed = deadlines.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

impl Machine {
    fn apply(&mut self, core: &Arc<Core>, news: News) {
        let input = match news {
            News::Guest { request, done } => {
                self.next_tag += 1;
                let tag = RequestTag(self.next_tag);
                self.open.insert(tag, done);
                Input::Guest { tag, request }
            }
            News::Came => {
                self.guests += 1;
                if self.guests != 1 {
                    return;
                }
                Input::Guests { present: true }
            }
            News::Left => {
                self.guests -= 1;
                if self.guests != 0 {
                    return;
                }
                Input::Guests { present: false }
            }
            News::Members { members } => {
                self.members = members;
                Input::Members {
                    members: nodes(&self.members),
                }
            }
            News::Local { port } => {
                self.local = port;
                if !self.is_local {
                    return;
                }
                // Whatever the old one had under way it will not answer any more.
                self.hang_up();
                Input::Disconnected {
                    generation: self.generation,
                    hint: None,
                }
            }
            News::Connected {
                generation,
                epoch,
                link,
            } => {
                if generation != self.generation {
                    return;
                }
                debug!(%epoch, local = self.is_local, "the primary is found");
                self.link = Some(link);
                Input::Connected { generation, epoch }
            }
            News::Session(input) => input,
        };
        self.session.handle(core.now(), input);
        while let Some(output) = self.session.poll_output() {
            self.perform(core, output);
        }
    }

    fn perform(&mut self, core: &Arc<Core>, output: Output) {
        match output {
            Output::Connect {
                generation,
                node,
                at_least,
                epoch_seen,
            } => {
                self.hang_up();
                self.generation = generation;
                self.is_local = node == core.node;
                if self.is_local {
                    self.connect_here(core, generation, at_least, epoch_seen);
                } else {
                    self.connect_there(core, generation, node, (at_least, epoch_seen));
                }
            }
            Output::Disconnect { generation } => {
                if generation == self.generation {
                    self.hang_up();
                }
            }
            Output::Send {
                generation,
                seq,
                request,
            } => match &self.link {
                Some(Link::Local { port, admission }) => {
                    let core = Arc::downgrade(core);
                    let done = answered(move |result| post_answer(&core, generation, seq, result));
                    port.submit(admission, request, done);
                }
                // A carrier that has ended says so by itself.
                Some(Link::Remote { requests }) => drop(requests.send((seq, request))),
                None => {}
            },
            Output::Forget { tag } => drop(self.open.remove(&tag)),
            Output::Complete { tag, result } => {
                if let Some(done) = self.open.remove(&tag) {
                    done(result);
                }
            }
        }
    }

    fn hang_up(&mut self) {
        if let Some(Link::Local { port, admission }) = self.link.take() {
            admission.end();
            port.prune();
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn connect_here(
        &mut self,
        core: &Arc<Core>,
        generation: u64,
        at_least: Option<Epoch>,
        epoch_seen: Epoch,
    ) {
        let Some(port) = self.local.clone() else {
            core.inbox().push(disconnected(generation, None));
            return;
        };
        port.heard(epoch_seen);
        let mut standing = port.standing();
        let known = standing.borrow().known;
        core.inbox().push(News::Session(Input::Heard { epoch: known }));
        let at_least = at_least.unwrap_or(Epoch::NONE);
        let (gate, node) = (self.gate.clone(), core.node.clone());
        // It may be recovering, or about to be promoted; if it knows of another primary there is nothing to wait for.
        let decide = move |view: &Standing| {
            if view.serving && view.epoch >= at_least {
                let epoch = view.epoch;
                let admission = Admission::new(gate.clone(), generation, epoch);
                let link = admission.map(|admission| Link::Local {
                    port: port.clone(),
                    admission,
                });
                let connected = |link| News::Connected {
                    generation,
                    epoch,
                    link,
                };
                return Some(link.map_or_else(|| disconnected(generation, None), connected));
            }
            let elsewhere = view.primary.clone().filter(|primary| *primary != node);
            (at_least == Epoch::NONE && elsewhere.is_some()).then(|| disconnected(generation, elsewhere))
        };
        if let Some(news) = decide(&standing.borrow_and_update()) {
            core.inbox().push(news);
            return;
        }
        let weak = Arc::downgrade(core);
        let waiting = async move {
            let deciding = async {
                loop {
                    // A replica that stops is one that is not there.
                    if standing.changed().await.is_err() {
                        return None;
                    }
                    let news = decide(&standing.borrow_and_update());
                    if news.is_some() {
                        return news;
                    }
                }
            };
            let news = timeout(PATIENCE, deciding).await.ok().flatten();
            if let Some(core) = weak.upgrade() {
                core.post(news.unwrap_or_else(|| disconnected(generation, None)));
            }
        };
        self.task = Some(core.runtime.spawn(waiting.in_current_span()).abort_handle());
    }

    fn connect_there(
        &mut self,
        core: &Arc<Core>,
        generation: u64,
        node: NodeId,
        (at_least, epoch_seen): (Option<Epoch>, Epoch),
    ) {
        let Some(member) = self.members.iter().find(|m| m.node == node.as_str()).cloned() else {
            core.inbox().push(disconnected(generation, None));
            return;
        };
        let hello = DoorHello {
            volume: core.volume,
            session: core.session,
            generation: core.generation_base.saturating_add(generation),
        };
        let dialer = core.dialer.clone();
        let weak = Arc::downgrade(core);
        let span = info_span!("remote-door", volume = %core.volume, node = %core.node, primary = %node);
        let connection = async move {
            let (epoch, reader, writer) = match enter(&*dialer, &member, hello, at_least, epoch_seen).await {
                Ok(entered) => entered,
                Err(error) => {
                    let (hint, known) = match error {
                        EnterError::Elsewhere { hint, known } => (hint, known),
                        EnterError::Io(cause) => {
                            debug!(error = %cause, "not let in");
                            (None, Epoch::NONE)
                        }
                    };
                    if let Some(core) = weak.upgrade() {
                        core.post(News::Session(Input::Heard { epoch: known }));
                        core.post(disconnected(generation, hint));
                    }
                    return;
                }
            };
            info!(%epoch, "connected to the primary");
            #[expect(
                clippy::disallowed_methods,
                reason = "the session holds every request until it is answered; doors bound how many there are"
            )]
            let (requests, to_send) = mpsc::unbounded_channel();
            match weak.upgrade() {
                Some(core) => {
                    core.post(News::Connected {
                        generation,
                        epoch,
                        link: Link::Remote { requests },
                    });
                }
                None => return,
            }
            let answers = weak.clone();
            carry(reader, writer, to_send, move |seq, result| {
                post_answer(&answers, generation, seq, result);
            })
            .await;
            if let Some(core) = weak.upgrade() {
                core.post(disconnected(generation, None));
            }
        };
        self.task = Some(core.runtime.spawn(connection.instrument(span)).abort_handle());
    }
}

fn post_answer(core: &Weak<Core>, generation: u64, seq: u64, result: Result<Reply, GuestError>) {
    if let Some(core) = core.upgrade() {
        core.post(News::Session(Input::Answer {
            generation,
            seq,
            result,
        }));
    }
}

fn disconnected(generation: u64, hint: Option<NodeId>) -> News {
    News::Session(Input::Disconnected { generation, hint })
}

/// A number for a host's name (FNV-1a): the same in every life, different from all others' of a volume.
fn session_name(node: &NodeId) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    node.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A later life counts from later on. If the clock was set back, the primary's host lets us in as soon as it has seen the
/// end of our old connection.
fn micros_of_clock() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The members' names; marsd's control door has checked them.
fn nodes(members: &[Member]) -> Vec<NodeId> {
    members.iter().filter_map(|m| NodeId::new(&m.node).ok()).collect()
}
