//! What kind of cluster, and what kind of trouble? Chosen by the seed, so that no two runs are alike.

use crate::guest::Habits;
use crate::link::Quality;
use crate::rng::Rng;

/// One kind of trouble, or of work for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Kill,
    PowerCut,
    /// A host is down for long: longer than its log is kept, with luck.
    Absence,
    PowerCutAll,
    CutLink,
    HalfOpen,
    SlowDisk,
    SlowNetwork,
    LossyNetwork,
    BitFlip,
    LostLogWrite,
    MisdirectedLogWrite,
    DiskFails,
    /// The disk below has no room for a longer volume, for a while.
    NoRoom,
    /// Something else fills the file system of a log for a while.
    LogFull,
    /// An operator changes the budget of a log.
    LogBudget,
    ClockJump,
    OldMembers,
    WrongVerb,
    /// An operator's verb, and a fault right after it.
    VerbStruck,
    HandOver,
    /// A hand-over, and a fault in the middle of it.
    HandOverStruck,
    Join,
    /// A host joins, and a fault or a hand-over in the middle of its full sync.
    JoinStruck,
    Leave,
    Checksum,
    /// A bit turns on a disk.
    Rot,
    Verify,
    Compression,
    /// What nobody needs of a log is given up at once.
    Trim,
    /// A host lets other full syncs go first, for a while.
    Turn,
    Mood,
    Mode,
    Pause,
    Detach,
    FakeSync,
    Limit,
    /// The volume gets longer, perhaps more than a disk has room for.
    Grow,
    /// A snapshot is taken, perhaps where there is no room for it, or dropped.
    Snapshot,
    /// A replica takes over, whether the primary is gone or not.
    TakeOver,
    /// The primary steps down for nobody; later somebody takes over.
    StepDown,
    Sources,
    /// Of the guest's door, where it has one.
    Door(DoorTrouble),
}

/// One kind of trouble for a guest that is not where its primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoorTrouble {
    /// The daemon on the door's host dies.
    Kill,
    PowerCut,
    /// The door's host and the primary's cannot reach each other.
    Cut,
    /// The connection dies without anybody noticing.
    HalfOpen,
    /// The primary dies while the session holds copies.
    Primary,
    PrimaryPower,
    /// The role comes to the door's host.
    HandOverHere,
    /// The role goes on, and the connection or one of its ends is struck in the middle.
    HandOverStruck,
    /// The primary is gone, and another member takes over.
    TakeOver,
    /// The guest ends, and another begins.
    Leave,
    /// The guest goes to another host.
    Move,
}

impl DoorTrouble {
    const ALL: &[(DoorTrouble, u64)] = &[
        (DoorTrouble::Kill, 8),
        (DoorTrouble::PowerCut, 4),
        (DoorTrouble::Cut, 8),
        (DoorTrouble::HalfOpen, 8),
        (DoorTrouble::Primary, 6),
        (DoorTrouble::PrimaryPower, 8),
        (DoorTrouble::HandOverHere, 6),
        (DoorTrouble::HandOverStruck, 8),
        (DoorTrouble::TakeOver, 3),
        (DoorTrouble::Leave, 5),
        (DoorTrouble::Move, 5),
    ];

    /// What is to happen to the door, decided before the first moment.
    pub fn script(chaos_micros: u64, rng: &mut Rng) -> Vec<Action> {
        let mut likely = DoorTrouble::ALL.to_vec();
        likely.retain(|_| rng.chance(70));
        let total: u64 = likely.iter().map(|(_, weight)| weight).sum();
        let count = if total == 0 { 0 } else { rng.spread(1, 60) };
        let one = |_| {
            let mut roll = rng.below(total);
            let found = likely.iter().find(|(_, weight)| {
                let here = roll < *weight;
                roll = roll.saturating_sub(*weight);
                here
            });
            let (trouble, _) = *found.expect("the roll is below the sum of all weights");
            Action {
                at_micros: rng.below(chaos_micros),
                trouble: Trouble::Door(trouble),
                roll: rng.bits(),
            }
        };
        let mut script: Vec<Action> = (0..count).map(one).collect();
        script.sort_by_key(|action| action.at_micros);
        script
    }
}

impl Trouble {
    /// What operators do.
    pub const VERBS: &[Trouble] = &[
        Trouble::HandOver,
        Trouble::Join,
        Trouble::Leave,
        Trouble::Checksum,
        Trouble::Mode,
        Trouble::Verify,
        Trouble::Grow,
        Trouble::Snapshot,
        Trouble::TakeOver,
    ];

    /// What goes wrong.
    pub const FAULTS: &[Trouble] = &[
        Trouble::Kill,
        Trouble::PowerCut,
        Trouble::CutLink,
        Trouble::HalfOpen,
        Trouble::SlowDisk,
        Trouble::LossyNetwork,
        Trouble::BitFlip,
        Trouble::Rot,
        Trouble::LostLogWrite,
        Trouble::MisdirectedLogWrite,
        Trouble::DiskFails,
        Trouble::LogFull,
        Trouble::NoRoom,
        Trouble::ClockJump,
        Trouble::OldMembers,
        Trouble::WrongVerb,
    ];

    const ALL: &[(Trouble, u64)] = &[
        (Trouble::Kill, 10),
        (Trouble::PowerCut, 7),
        (Trouble::Absence, 4),
        (Trouble::PowerCutAll, 2),
        (Trouble::CutLink, 8),
        (Trouble::HalfOpen, 4),
        (Trouble::SlowDisk, 4),
        (Trouble::SlowNetwork, 3),
        (Trouble::LossyNetwork, 3),
        (Trouble::BitFlip, 2),
        (Trouble::LostLogWrite, 2),
        (Trouble::MisdirectedLogWrite, 2),
        (Trouble::DiskFails, 3),
        (Trouble::NoRoom, 2),
        (Trouble::LogFull, 12),
        (Trouble::LogBudget, 8),
        (Trouble::ClockJump, 3),
        (Trouble::OldMembers, 2),
        (Trouble::WrongVerb, 5),
        (Trouble::VerbStruck, 25),
        (Trouble::HandOver, 20),
        (Trouble::HandOverStruck, 10),
        (Trouble::Join, 3),
        (Trouble::JoinStruck, 4),
        (Trouble::Leave, 3),
        (Trouble::Checksum, 6),
        (Trouble::Rot, 4),
        (Trouble::Verify, 8),
        (Trouble::Compression, 4),
        (Trouble::Trim, 5),
        (Trouble::Turn, 4),
        (Trouble::Mood, 6),
        (Trouble::Mode, 6),
        (Trouble::Pause, 8),
        (Trouble::Detach, 3),
        (Trouble::FakeSync, 6),
        (Trouble::Limit, 4),
        (Trouble::Grow, 6),
        (Trouble::Snapshot, 8),
        (Trouble::TakeOver, 5),
        (Trouble::StepDown, 2),
        (Trouble::Sources, 5),
    ];
}

/// One trouble at its moment. All its choices come from `roll`, so that it stays what it is when others are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// When, in microseconds.
    pub at_micros: u64,
    pub trouble: Trouble,
    /// Seed of its own choices: whom, how long, how much.
    pub roll: u64,
}

/// A cluster before anything has happened, and what is to happen to it.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Hosts, with a replica or without.
    pub(crate) hosts: usize,
    /// Hosts with a replica at the beginning; the first is primary.
    pub(crate) members: Vec<usize>,
    /// Members at most.
    pub(crate) members_max: usize,
    pub(crate) sectors: u64,
    pub(crate) shadow_bytes_max: u64,
    pub(crate) log_bytes_max: u64,
    pub(crate) habits: Habits,
    /// A guest asks again after this, in microseconds: at least, and at most.
    pub(crate) think_micros: (u64, u64),
    pub(crate) quality: Quality,
    /// Trouble comes after this, in microseconds: at least, and at most.
    pub(crate) peace_micros: (u64, u64),
    pub(crate) troubles: Vec<(Trouble, u64)>,
    /// How long trouble lasts, in microseconds.
    pub(crate) chaos_micros: u64,
}

impl Profile {
    /// A quiet cluster on good hosts and a good network, for tests that make trouble by themselves.
    pub fn calm(nodes: usize) -> Profile {
        Profile {
            hosts: nodes + 2,
            members: (0..nodes).collect(),
            members_max: nodes + 2,
            sectors: 512,
            shadow_bytes_max: 256 << 10,
            log_bytes_max: 1 << 20,
            habits: Habits {
                depth: 8,
                write_percent: 50,
                zero_percent: 5,
                flush_percent: 5,
                status_percent: 2,
                fua_percent: 10,
                sectors_max: 16,
                working_set: u64::MAX,
            },
            think_micros: (100, 2000),
            quality: Quality {
                latency_micros: (50, 300),
                bytes_per_milli: (20_000, 100_000),
                loss_percent: 0,
            },
            peace_micros: (10_000, 100_000),
            troubles: Vec::new(),
            chaos_micros: 1_000_000,
        }
    }

    /// The same, with room for so much log only.
    pub fn with_log_bytes_max(mut self, log_bytes_max: u64) -> Profile {
        self.log_bytes_max = log_bytes_max;
        self
    }

    /// The same with a volume of so many sectors, of which the guest uses only the first `working_set`.
    pub fn with_sectors(mut self, sectors: u64, working_set: u64) -> Profile {
        self.sectors = sectors;
        self.habits.working_set = working_set;
        self
    }

    /// One volume of a cluster of so many hosts.
    pub(crate) fn random(rng: &mut Rng, hosts: usize) -> Profile {
        let members_max = hosts.min(5);
        // Two or three replicas are what people have; one and five are where the corners are.
        let count = [2, 2, 3, 3, 2, 3, 1, 4, 5, 2][rng.below(10) as usize];
        let mut members: Vec<usize> = (0..hosts).collect();
        for place in 0..hosts {
            let other = rng.between(place as u64, hosts as u64 - 1) as usize;
            members.swap(place, other);
        }
        members.truncate(count.min(members_max));
        let sectors = match rng.below(100) {
            // More than one piece of a full sync.
            0..4 => rng.between(256, 1280) * 8,
            4..14 => rng.between(64, 256) * 8,
            _ => rng.between(8, 64) * 8,
        };
        let slow_network = rng.chance(15);
        let quality = Quality {
            latency_micros: (
                20,
                if slow_network {
                    60_000
                } else {
                    rng.spread(50, 5000)
                },
            ),
            bytes_per_milli: if slow_network { (50, 1000) } else { (1000, 200_000) },
            loss_percent: 0,
        };
        let habits = Habits {
            depth: rng.between(1, 16) as usize,
            write_percent: rng.between(20, 70),
            zero_percent: rng.between(0, 10),
            flush_percent: rng.between(0, 10),
            status_percent: rng.between(0, 4),
            fua_percent: rng.between(0, 30),
            sectors_max: rng.spread(1, 64),
            working_set: if rng.chance(30) {
                rng.between(8, 64)
            } else {
                u64::MAX
            },
        };
        // Not every kind of trouble in every run: what one hides, the absence of it may show.
        let mut troubles: Vec<_> = Trouble::ALL.iter().copied().filter(|_| rng.chance(65)).collect();
        if troubles.is_empty() {
            troubles.push((Trouble::HandOver, 1));
        }
        // Long enough for what takes ten seconds to notice and thirty to give up.
        let chaos_micros = rng.spread(3_000_000, 60_000_000);
        let peace = (chaos_micros / rng.spread(8, 200)).max(10_000);
        let think = chaos_micros / rng.spread(500, 8000);
        Profile {
            hosts,
            members,
            members_max,
            sectors,
            shadow_bytes_max: rng.spread(16 << 10, 1 << 20),
            log_bytes_max: rng.spread(64 << 10, 8 << 20),
            habits,
            think_micros: (think / 4 + 1, think * 4),
            quality,
            peace_micros: (peace / 4 + 1, peace * 4),
            troubles,
            chaos_micros,
        }
    }

    /// What is to happen when, decided before the first moment.
    pub(crate) fn script(&self, rng: &mut Rng) -> Vec<Action> {
        let mut script = Vec::new();
        let total: u64 = self.troubles.iter().map(|(_, weight)| weight).sum();
        let (low, high) = self.peace_micros;
        let mut at_micros = 10_000;
        while total > 0 && at_micros < self.chaos_micros {
            let mut roll = rng.below(total);
            let found = self.troubles.iter().find(|(_, weight)| {
                let here = roll < *weight;
                roll = roll.saturating_sub(*weight);
                here
            });
            let (trouble, _) = *found.expect("the roll is below the sum of all weights");
            script.push(Action {
                at_micros,
                trouble,
                roll: rng.bits(),
            });
            at_micros += rng.between(low, high);
        }
        script
    }
}
