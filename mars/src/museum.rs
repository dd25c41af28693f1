//! Which bugs of others would be found here? Published ones, re-created in this engine, one at a time.
//!
//! A replication engine is judged by the bugs that its tests find. Each [`Mutant`] puts one that users of other systems met
//! back into ours; the simulator (`sim museum`) must find it. Only with the feature `museum` can one be let loose, in one
//! thread; without it [`is`] is a constant `false` and the hooks vanish.

#[cfg(feature = "museum")]
use std::cell::Cell;

macro_rules! mutants {
    ($($name:ident, $origin:literal, $what:literal;)*) => {
        /// A bug that somebody published.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $(#[doc = concat!($what, " (", $origin, ").")] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),*];

            /// Where it was published.
            pub fn origin(self) -> &'static str {
                match self { $(Mutant::$name => $origin,)* }
            }

            /// What goes wrong.
            pub fn what(self) -> &'static str {
                match self { $(Mutant::$name => $what,)* }
            }
        }
    };
}

mutants! {
    AckedInBuffer, "MARS, logger_completion_semantics=1", "a plain write is answered before it is in the log's page cache";
    FlushAnsweredAtOnce, "MARS, empty FLUSH", "a flush is answered without making anything durable";
    FuaIgnored, "MARS, PREFLUSH not looked at", "a FUA write is answered like a plain one";
    DiscardDropped, "MARS, discards", "a discard is answered and forgotten";
    WrittenBackUnlogged, "MARS, the rule of phase 1: only what is logged", "write-back begins before its log is durable";
    TouchedUnrecorded, "MARS, replay link saved every 2 s", "write-back begins before it is recorded how far it goes";
    WrittenBackUnflushed, "SQLite-style lost fsync, on the disk", "write-back counts as done although the disk was not flushed";
    WholeByMinimum, "MARS, syncpos by the minimum", "a copied extent is whole once the source's write-back position is passed";
    WholeWhenCopied, "linstor-server#232, data lost after a skipped sync", "a joiner counts as whole when all is copied, before replay has passed the copy";
    SyncFromAnotherPrimary, "MARS, syncfrom is never written", "a full sync goes on where it was under another primary";
    SyncRacesReplay, "piraeus#244, page changed during IO", "a copy lands on what replay has just written";
    SyncReplyUndurable, "DRBD ChangeLog 9.3.1–9.3.3, un-reconciled data", "a source sends contents that it could still lose";
    SyncSkipped, "linstor-server#216, initial sync skipped", "a joiner is taken for whole without any copy";
    ResyncCleared, "LINBIT/drbd#145 and #118", "a replica that missed writes comes back and is taken for up to date";
    SyncStuck, "linstor-server#251 and #185", "a full sync never finishes its last extent";
    TrimIgnoresPeers, "MARS, race of join and rotation", "log is given up that a replica still needs";
    TrimIgnoresAbsent, "MARS, log-delete with a member away", "log is kept for connected replicas only";
    TrimByReceived, "NATS 2.12.1, lazy fsync", "log is given up once a replica received it, durable or not";
    LogKeptForDead, "MARS, one dead member blocks deletion for all", "log is kept for a dead replica until guests stall";
    AckedUnflushed, "NATS 2.12.1, lazy fsync", "a replica acknowledges as durable what it only received";
    CommitOvertakesFlush, "MARS, one sync for all chunks collected so far", "what is appended during a flush counts as flushed";
    FlushLies, "SQLite-style lost fsync, in the log", "a flush of the log does nothing";
    ReplayUncommitted, "MARS, secondaries ahead of a crashed primary", "a replica's disk takes what its primary can still lose";
    EpochNotSaved, "DRBD ChangeLog 9.3.1–9.3.3, current UUID lost", "a primary serves before its epoch is durable";
    EpochNotBumped, "DRBD ChangeLog 9.3.1–9.3.3, UUID bump suppressed", "a primary restarts in the epoch that it crashed in";
    GrantedTooEarly, "linstor-server#341, lost while migrating", "the role is granted before giving it up is durable";
    GrantedBehind, "MARS, primary before all logs are here", "the role is granted although the successor lacks log";
    GrantedUnwhole, "MARS, primary --ignore-sync", "the role is granted to a replica in full sync";
    GrantNotRepeated, "linstor-server#112, stuck while one node is off", "a successor that missed its grant is never told again";
    GateStaysShut, "lxc/incus#3487, migration suspends I/O", "a hand-over that was given up leaves writes suspended";
    NotPrimaryIsAnError, "MARS, prosumer failover not interruption-free", "a guest is told an I/O error when the primary has moved";
    StaleRead, "MARS, read-your-writes by shadow", "reads miss what is just being written back";
    HoleOverData, "openzfs/zfs#15526, holes over dirty data", "block status calls empty what is only in memory";
    PayloadUnchecked, "NATS 2.12.1, one flipped bit", "a flipped bit in a log reaches the disk";
    WriteMisdirected, "TigerBeetle, misdirected writes", "write-back puts a block into the wrong place";
    ZeroesLost, "MARS, discards never reach a replica", "replay forgets zeroes that are shorter than an extent";
    DivergenceDropped, "DRBD ChangeLog 9.3.1–9.3.3, equal UUIDs", "a stream is opened without comparing digests";
    UnloggedUnmarked, "MARS, emergency mode remembers nothing", "what changes without a log is not durably marked for those who lack it";
    TailNotCleared, "LVM, new extents hold what was there before", "a disk that grows is not cleared: replicas differ where nobody has written";
    GrownBeforeLogged, "MARS, the size is no part of the log", "guests use the new part before the growth is durable";
    SnapshotTooEarly, "MARS, an LVM snapshot below a replica in use", "a disk takes a snapshot before write-back has reached its record";
    SnapshotUnheld, "of our own: nobody published it", "write-back goes on before the disk is asked for a snapshot";
    SnapshotNotRedone, "of our own: nobody published it", "a snapshot that a crash came into the middle of counts as taken";
    CopiesForgotten, "of our own: nobody published it", "a door does not write again what only a primary that lost power had answered";
    UnansweredLost, "of our own: nobody published it", "a door does not send again what was unanswered when its connection broke";
    UptodateUnseen, "linstor-server#75, StandAlone but UpToDate", "a replica without a source calls itself up to date";
}

#[cfg(feature = "museum")]
thread_local! {
    static LOOSE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Lets a mutant loose in this thread, or none any more.
#[cfg(feature = "museum")]
pub fn let_loose(mutant: Option<Mutant>) {
    LOOSE.set(mutant);
}

/// Whether this mutant is loose.
#[cfg(feature = "museum")]
pub fn is(mutant: Mutant) -> bool {
    LOOSE.get() == Some(mutant)
}

/// Whether this mutant is loose: never, without the feature.
#[cfg(not(feature = "museum"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}
