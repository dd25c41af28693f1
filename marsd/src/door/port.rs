//! What does a door need from the rest of marsd? Two narrow traits, so that doors are tested without an engine.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mars::{Admission, Gate, GuestError, GuestRequest, Reply, Standing};
use model::{Epoch, VolumeId};
use tokio::sync::watch;

/// Called once with the answer to a request, from any thread; must not block.
pub type Done = Box<dyn FnOnce(Result<Reply, GuestError>) + Send>;

/// Resolves when all is quiet.
pub type Quiet = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a door's guests send their requests: a volume that is always there, wherever its primary is.
pub trait Guests: Send + Sync + 'static {
    /// Asks; the range is on the volume and data has its length. `done` may be called before this returns.
    fn ask(&self, request: GuestRequest, done: Done);

    /// A guest is there, until as many [`Guests::left`] have been said.
    fn came(&self);

    /// A guest has left; what it has not flushed is flushed, what it was not answered may still be done.
    fn left(&self);

    /// Resolves when nothing that was asked can be done any more, or other guests are there and it does not matter.
    fn quiet(&self) -> Quiet;

    /// Longest time any request has waited while the primary moved, in microseconds.
    fn pause_micros_max(&self) -> u64;
}

/// The replica here, behind the loop that drives its engine.
pub trait PrimaryPort: Send + Sync + 'static {
    /// Hands a request to the engine; `done` gets its answer, from any thread, perhaps before this returns.
    ///
    /// The loop asks [`Admission::admits`] with the engine's role of that very moment, directly before the engine sees
    /// the request, and answers `NotPrimary { hint, granted: None }` instead when it does not admit; so a connection that
    /// has been replaced does nothing more, and neither does one from an earlier time as primary.
    fn submit(&self, admission: &Admission, request: GuestRequest, done: Done);

    /// Connections have ended or been replaced ([`Admission::is_over`]): what they asked for and is still waiting is withdrawn.
    fn prune(&self);

    /// Somebody has heard of this epoch: if it is of a newer term, a primary here is one no more.
    fn heard(&self, epoch: Epoch);

    /// How the replica stands ([`mars::Engine::standing`] after each batch of events), and every change of it.
    fn standing(&self) -> watch::Receiver<Standing>;
}

/// The gates of all sessions that have connections here.
#[derive(Debug, Default)]
pub struct Gates(Mutex<HashMap<(VolumeId, u64), Weak<Gate>>>);

impl Gates {
    /// The gate of a session. It is forgotten with the last connection and request that hold it: until then anything
    /// that came over an older connection could still be on its way, afterwards nothing can.
    pub fn of(&self, volume: VolumeId, session: u64) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        let known = gates.get(&(volume, session)).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let gate = Arc::new(Gate::default());
            gates.insert((volume, session), Arc::downgrade(&gate));
            gate
        })
    }
}
