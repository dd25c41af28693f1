//! How does one volume run? A loop in a thread of its own: drain what has happened, apply it, perform what follows.
//!
//! The engine decides, this loop only carries: inputs come from doors, disks, links and operators through one channel
//! and everything that is ready is applied before the first effect is taken, so load turns into batches. Nothing here
//! blocks on a disk or a link.

mod input;
mod notice;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use mars::{
    Admission, Answer, Birth, Command, CommandError, CommandId, Effect, Engine, Event, GuestError, LinkId,
    Meta, RequestTag, Standing,
};
use model::{NodeId, Tick, VolumeId};
use tokio::sync::{oneshot, watch};
use tracing::{Span, info};

pub(crate) use input::Input;
pub use input::{Inbox, VolumeHandle};

use crate::disk::Disk;
use crate::door::port::Done;
use crate::length::Length;
use crate::link::Outgoing;
use crate::thread;
use crate::turns::Turns;

/// Starts a connection to a member; answered by `LinkUp` or `LinkDown` in the volume's inbox.
pub(crate) type Dial = Box<dyn Fn(NodeId) + Send>;

/// How the engine begins.
pub(crate) enum Begin {
    /// With what it remembers.
    Open(Box<Meta>),
    /// Without any state.
    Create(Birth),
}

/// What a volume shares with the rest of its host.
pub(crate) struct Shared {
    /// Who may sync.
    pub turns: Arc<Turns>,
    /// The volume's length, as doors and operators see it.
    pub length: Length,
}

/// The thread of a running volume.
pub(crate) struct Running {
    handle: VolumeHandle,
    thread: JoinHandle<()>,
}

impl Running {
    /// Starts the loop; `inputs` is the other end of the inbox that `disk` and all others were given.
    ///
    /// Errors: there is no room for a thread.
    pub fn start(
        config: mars::Config,
        begin: Begin,
        inbox: Inbox,
        inputs: Receiver<Input>,
        disk: Box<dyn Disk>,
        dial: Dial,
        shared: Shared,
    ) -> io::Result<Running> {
        let engine = match begin {
            Begin::Open(meta) => Engine::open(Tick(0), config.clone(), *meta),
            Begin::Create(birth) => Engine::create(Tick(0), config.clone(), birth),
        };
        let (standing, watched) = watch::channel(engine.standing());
        let Shared { turns, length } = shared;
        let turn = Turn {
            volume: config.volume,
            inbox: inbox.clone(),
            turns,
            wants: false,
        };
        let handle = VolumeHandle::new(config.volume, inbox, watched);
        let body = move || Loop::new(engine, disk, dial, standing, turn, length).run(&inputs);
        let thread = thread::spawn("marsd-loop", Span::current(), body)?;
        Ok(Running { handle, thread })
    }

    /// For doors and operators.
    pub fn handle(&self) -> &VolumeHandle {
        &self.handle
    }

    /// Ends the loop and waits until the disk has carried out what it was asked. Blocks.
    pub fn stop(self) {
        self.handle.inbox().send(Input::Stop);
        self.thread.join().expect("a panic there has ended the process");
    }
}

/// Refused commands remembered, at most.
const REFUSED_MAX: usize = 100;

/// A command until it is answered.
struct Commanded {
    words: String,
    answer: oneshot::Sender<Result<Answer, CommandError>>,
}

struct Loop {
    engine: Engine,
    started: Instant,
    disk: Box<dyn Disk>,
    dial: Dial,
    links: HashMap<LinkId, (NodeId, Outgoing)>,
    standing: watch::Sender<Standing>,
    length: Length,
    guests: HashMap<RequestTag, (Done, Option<Admission>)>,
    commands: HashMap<CommandId, Commanded>,
    /// Commands that were refused when they were given last: they are given again and again, and told once.
    refused: HashSet<String>,
    turn: Turn,
    next_tag: u64,
    stopping: bool,
}

/// The volume's place among those of the host that sync.
struct Turn {
    volume: VolumeId,
    inbox: Inbox,
    turns: Arc<Turns>,
    wants: bool,
}

impl Turn {
    fn want(&mut self, wants: bool) {
        if self.wants != wants {
            self.wants = wants;
            self.turns.want(self.volume, wants, &self.inbox);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.want(false);
    }
}

impl Loop {
    fn new(
        mut engine: Engine,
        disk: Box<dyn Disk>,
        dial: Dial,
        standing: watch::Sender<Standing>,
        turn: Turn,
        length: Length,
    ) -> Loop {
        // Its turn comes when it is told so.
        engine.handle(Tick(0), Event::SyncTurn { granted: false });
        Loop {
            engine,
            turn,
            started: Instant::now(),
            disk,
            dial,
            links: HashMap::new(),
            standing,
            length,
            guests: HashMap::new(),
            commands: HashMap::new(),
            refused: HashSet::new(),
            next_tag: 0,
            stopping: false,
        }
    }

    fn run(mut self, inputs: &Receiver<Input>) {
        while !self.stopping {
            while let Some(effect) = self.engine.poll_effect() {
                self.perform(effect);
            }
            self.show_standing();
            let Some(first) = self.wait(inputs) else { continue };
            self.engine.set_clock(self.now(), unix_micros());
            self.apply(first);
            // Only what is ready now: a flood of requests must not keep effects from being performed.
            for _ in 0..inputs.len() {
                if let Ok(input) = inputs.try_recv() {
                    self.apply(input);
                }
            }
        }
    }

    fn now(&self) -> Tick {
        Tick(self.started.elapsed().as_micros() as u64)
    }

    /// The next input, or `None` after the engine's timer was due and was told.
    fn wait(&mut self, inputs: &Receiver<Input>) -> Option<Input> {
        let Some(due) = self.engine.poll_timeout() else {
            // The loop holds no inbox, but its disk does: the channel cannot close before the loop ends.
            return inputs.recv().ok().or(Some(Input::Stop));
        };
        let now = self.now();
        if now >= due {
            self.engine.handle(now, Event::Timer);
            return inputs.try_recv().ok();
        }
        match inputs.recv_timeout(Duration::from_micros(due.micros_since(now))) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Input::Stop),
        }
    }

    fn show_standing(&mut self) {
        self.length.raise(self.engine.size());
        let now = self.engine.standing();
        self.turn.want(now.wants_sync);
        self.standing.send_if_modified(|shown| {
            let changed = *shown != now;
            *shown = now;
            changed
        });
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn apply(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Event(event) => self.engine.handle(now, event),
            Input::Guest {
                admission,
                request,
                done,
            } => {
                let primary_in = self.engine.primary_in();
                if admission
                    .as_ref()
                    .is_some_and(|admission| !admission.admits(primary_in))
                {
                    let hint = self.engine.standing().primary;
                    return done(Err(GuestError::NotPrimary { hint, granted: None }));
                }
                let tag = RequestTag(self.tag());
                self.guests.insert(tag, (done, admission));
                self.engine.handle(now, Event::Guest { tag, request });
            }
            Input::Prune => {
                let is_over =
                    |admission: &Option<Admission>| admission.as_ref().is_some_and(Admission::is_over);
                let over = self
                    .guests
                    .iter()
                    .filter(|(_, (_, admission))| is_over(admission));
                let tags: Vec<RequestTag> = over.map(|(tag, _)| *tag).collect();
                if !tags.is_empty() {
                    self.engine.handle(now, Event::Withdrawn { tags });
                }
            }
            Input::Command { command, answer } => {
                let id = CommandId(self.tag());
                let words = format!("{command:?}");
                // Shares of a budget come by themselves, all the time.
                let by_itself = matches!(command, Command::SetLogBudget { .. });
                if !by_itself && !self.refused.contains(&words) {
                    info!(?command, "asked by an operator");
                }
                self.commands.insert(id, Commanded { words, answer });
                self.engine.handle(now, Event::Command { id, command });
            }
            // Whoever asked may have given up.
            Input::Status { answer } => drop(answer.send(self.engine.status(now))),
            Input::LogFiles { rotate, answer } => self.disk.log_files(rotate, answer),
            Input::LinkUp {
                link,
                peer,
                dialled,
                outgoing,
            } => {
                self.links.insert(link, (peer.clone(), outgoing));
                self.engine.handle(now, Event::LinkUp { link, peer, dialled });
            }
            Input::LinkDown { link, peer } => {
                // A link that the engine closed itself is not there any more.
                if self.links.remove(&link).is_some() {
                    self.engine.handle(
                        now,
                        Event::LinkDown {
                            link: Some(link),
                            peer,
                        },
                    );
                }
            }
            Input::Message {
                link,
                message,
                permit,
            } => {
                if self.links.contains_key(&link) {
                    self.engine.handle(now, Event::Message { link, message });
                }
                drop(permit);
            }
            Input::Stop => self.stopping = true,
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::AppendLog { at, bytes } => self.disk.append_log(at, bytes),
            Effect::FlushLog { up_to } => self.disk.flush_log(up_to),
            Effect::ReadLog { id, at, bytes_max } => self.disk.read_log(id, at, bytes_max),
            Effect::ResetLog { id, at, keep } => self.disk.reset_log(id, at, keep),
            Effect::TrimLog { up_to } => self.disk.trim_log(up_to),
            Effect::AskRoom { id, bytes } => self.disk.ask_room(id, bytes),
            Effect::ReadVolume { id, range } => self.disk.read_volume(id, range),
            Effect::VolumeStatus { id, range } => self.disk.volume_status(id, range),
            Effect::WriteVolume { id, range, data } => self.disk.write_volume(id, range, data),
            Effect::FlushVolume { id } => self.disk.flush_volume(id),
            Effect::GrowVolume { id, from, to } => self.disk.grow_volume(id, from, to),
            Effect::TakeSnapshot { id, name, at, size } => self.disk.take_snapshot(id, name, at, size),
            Effect::DropSnapshot { id, name, at } => self.disk.drop_snapshot(id, name, at),
            Effect::SaveMeta { generation, meta } => self.disk.save_meta(generation, meta),
            Effect::SaveTrack { id, peer, track } => self.disk.save_track(id, peer, track),
            Effect::LoadTracks { id } => self.disk.load_tracks(id),
            Effect::Dial { peer } => (self.dial)(peer),
            Effect::Send { link, message } => {
                if let Some((peer, outgoing)) = self.links.get(&link)
                    && !outgoing.send(message)
                {
                    let peer = peer.clone();
                    self.links.remove(&link);
                    let now = self.now();
                    self.engine.handle(
                        now,
                        Event::LinkDown {
                            link: Some(link),
                            peer,
                        },
                    );
                }
            }
            Effect::Close { link } => {
                self.links.remove(&link);
            }
            Effect::Complete { tag, result } => {
                if let Some((done, _)) = self.guests.remove(&tag) {
                    done(result);
                }
            }
            Effect::Answer { id, result } => {
                if let Some(Commanded { words, answer }) = self.commands.remove(&id) {
                    if result.is_ok() || self.refused.len() >= REFUSED_MAX {
                        self.refused.remove(&words);
                    } else {
                        self.refused.insert(words);
                    }
                    // Whoever asked may have given up.
                    drop(answer.send(result));
                }
            }
            Effect::Notice(notice) => notice::log(*notice),
        }
    }
}

/// What the wall clock shows; 0 when it stands before 1970.
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests;
