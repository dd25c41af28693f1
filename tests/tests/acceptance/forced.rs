//! F: after a forced switch, does the version that was chosen live on whole, and nothing of the other one with it?
//!
//! MARS's matrix `switch2primary_force`, as a product of its words. The catalog stands on a third host, as a takeover needs it;
//! the network that is cut is the one between the data planes. Each case writes on both sides to the same sectors, so that
//! whatever of the losing side reached the winner would be found there as foreign.
//!
//! `make test` runs a sample in which every two words meet that can; `make test-all` (`POOLD_TESTS=all`) runs all of them.
//! `POOLD_CASE=words` runs those whose name contains the words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bench::verify::Model;
use tests::spoil::{flip_bits, log_end};
use tests::{Condition, Summary, Target, Writer, array, until, wait_for_answers};

use crate::pair::{NAME, P, Pair, S, SIZE_BYTES, write_to};

/// Cases under way at one time: most of a case is waiting for time-outs.
const AT_ONCE: usize = 4;

/// The host with the catalog; it holds no replica.
const CATALOG: &str = "c";

/// Parts of the volume, a quarter each.
#[derive(Clone, Copy)]
enum Part {
    /// Both sides write here.
    Fought = 0,
    /// Written before anything happens, never again.
    Before = 1,
    /// The winner writes here while the loser is thrown out.
    After = 2,
}

/// Defines a word of a case's name: what it may be, in the order of [`Word::ALL`].
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name {
            $($(#[$inner])* $value,)*
        }

        impl $name {
            const ALL: &[$name] = &[$($name::$value,)*];

            fn word(self) -> &'static str {
                match self {
                    $($name::$value => $text,)*
                }
            }
        }
    };
}

words! {
    /// The network between P and S while S is forced.
    Link {
        Cut = "not_connected",
        Whole = "connected",
    }
}

words! {
    /// The guest at P while S is forced.
    Guest {
        /// Writes on.
        Stays = "in_use",
        /// Had left, and comes back to P afterwards.
        Returns = "not_in_use",
        /// Had left, and does not come back before all is over.
        Rests = "at_rest",
    }
}

words! {
    /// Whose version lives on in the end.
    Winner {
        S = "secon_becomes_prim",
        P = "orig_prim_becomes_prim",
    }
}

words! {
    /// The log at S behind what is on its disk.
    Log {
        Whole = "full_replay",
        Destroyed = "no_full_replay",
    }
}

words! {
    /// When the network is whole again.
    Reconnect {
        BeforeForce = "reconnect_before_new_prim",
        AfterForce = "reconnect_after_new_prim",
    }
}

words! {
    /// The network while the loser is thrown out.
    Eviction {
        Connected = "stay_connected",
        Cut = "disconnect_before_leave_resource",
    }
}

words! {
    /// Whose log goes over to new files, and is given up as far as nobody needs it, three times each.
    Rotation {
        Nowhere = "no_logrot",
        /// P's, before and after S is forced.
        Orig = "logrot_orig_prim",
        /// P's, while both sides write.
        SplitOrig = "logrot_spl_brain_orig_prim",
        /// S's, while both sides write.
        SplitSecond = "logrot_spl_brain_orig_secon",
        /// All of that.
        Everywhere = "logrot_everywhere",
    }
}

words! {
    /// How the loser becomes a replica again.
    Cure {
        Invalidate = "invalidate",
        LeaveJoin = "leave_and_join",
        Resolve = "resolve",
        /// It need not be told.
        Nothing = "by_itself",
    }
}

/// One path through MARS's matrix.
#[derive(Clone, Copy, Debug)]
struct Case {
    link: Link,
    guest: Guest,
    winner: Winner,
    log: Log,
    rotation: Rotation,
    reconnect: Reconnect,
    eviction: Eviction,
    cure: Cure,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

impl Case {
    fn words(&self) -> [&'static str; 8] {
        [
            self.link.word(),
            self.guest.word(),
            self.winner.word(),
            self.log.word(),
            self.rotation.word(),
            self.reconnect.word(),
            self.eviction.word(),
            self.cure.word(),
        ]
    }

    /// The whole product, sense or not.
    fn product() -> Vec<Case> {
        /// Each case once with every value of one more word.
        fn times<T: Copy>(cases: Vec<Case>, values: &[T], set: impl Fn(&mut Case, T)) -> Vec<Case> {
            let with = |case: Case| {
                let set = &set;
                values.iter().map(move |value| {
                    let mut case = case;
                    set(&mut case, *value);
                    case
                })
            };
            cases.into_iter().flat_map(with).collect()
        }
        let first = Case {
            link: Link::Cut,
            guest: Guest::Stays,
            winner: Winner::S,
            log: Log::Whole,
            rotation: Rotation::Nowhere,
            reconnect: Reconnect::BeforeForce,
            eviction: Eviction::Connected,
            cure: Cure::Invalidate,
        };
        let cases = times(vec![first], Link::ALL, |case, link| case.link = link);
        let cases = times(cases, Guest::ALL, |case, guest| case.guest = guest);
        let cases = times(cases, Winner::ALL, |case, winner| case.winner = winner);
        let cases = times(cases, Log::ALL, |case, log| case.log = log);
        let cases = times(cases, Rotation::ALL, |case, rotation| case.rotation = rotation);
        let cases = times(cases, Reconnect::ALL, |case, reconnect| {
            case.reconnect = reconnect
        });
        let cases = times(cases, Eviction::ALL, |case, eviction| case.eviction = eviction);
        times(cases, Cure::ALL, |case, cure| case.cure = cure)
    }

    /// Whether both sides have written what the other has not.
    fn parts(&self) -> bool {
        self.link == Link::Cut
            && self.log == Log::Whole
            && (self.winner == Winner::P || self.guest != Guest::Rests)
    }

    /// Why a combination of words is no case of its own.
    fn reason_meaningless(&self) -> Option<&'static str> {
        let forced_twice = self.parts() && self.winner == Winner::P;
        let rotates_both = !matches!(self.rotation, Rotation::Nowhere | Rotation::Orig);
        if self.log == Log::Destroyed && self.winner == Winner::S {
            Some("a replica with a damaged log is no version that could win")
        } else if self.guest == Guest::Rests && (self.link == Link::Whole || self.log == Log::Destroyed) {
            Some("where S is not forced, a guest that rests is one that returns later")
        } else if rotates_both && !self.parts() {
            Some("there is no time in which both sides write")
        } else if !forced_twice && self.reconnect == Reconnect::BeforeForce {
            Some("there is no last force: the winner is primary already")
        } else if forced_twice && self.guest == Guest::Rests && self.reconnect == Reconnect::BeforeForce {
            Some("P has written nothing, so it follows S once it hears of it: nothing is left to choose")
        } else if self.cure == Cure::Resolve && !self.parts() {
            Some("no histories have parted")
        } else if self.cure == Cure::Nothing && (self.parts() || self.log == Log::Destroyed) {
            Some("what has parted or is damaged waits for an operator")
        } else {
            None
        }
    }

    fn loser(&self) -> &'static str {
        match self.winner {
            Winner::S => P,
            Winner::P => S,
        }
    }

    fn winner(&self) -> &'static str {
        match self.winner {
            Winner::S => S,
            Winner::P => P,
        }
    }
}

/// Few of them, in which any two words meet that meet in any: each time the one that brings most pairs which were not there yet.
fn spread(cases: &[Case]) -> Vec<Case> {
    let pairs = |case: &Case| {
        let words: Vec<_> = case.words().into_iter().enumerate().collect();
        let mut pairs = BTreeSet::new();
        for (index, first) in words.iter().enumerate() {
            pairs.extend(words[index + 1..].iter().map(|second| (*first, *second)));
        }
        pairs
    };
    let mut missing: BTreeSet<_> = cases.iter().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let gain = |case: &&Case| pairs(case).intersection(&missing).count();
        // The first of the best, whatever `max_by_key` would take.
        let best = cases
            .iter()
            .rev()
            .max_by_key(gain)
            .expect("pairs come from cases");
        missing.retain(|pair| !pairs(best).contains(pair));
        chosen.push(*best);
    }
    chosen
}

/// A side that guests write to.
struct Side {
    door: Target,
    writer: Option<Writer>,
    /// What its last guest was told, once it has left.
    model: Option<Model>,
}

impl Side {
    fn at(door: Target) -> Side {
        Side {
            door,
            writer: None,
            model: None,
        }
    }

    fn write(&mut self) {
        self.writer = Some(writer(&self.door, Part::Fought));
    }

    /// Its guest leaves, if there is one; nothing that it was told may have been untrue.
    fn leave(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.model = Some(leave(writer));
        }
    }

    /// Whoever is there notices nothing.
    fn is_served(&self) {
        if let Some(writer) = &self.writer {
            wait_for_answers(writer, 100);
        }
    }
}

fn writer(door: &Target, part: Part) -> Writer {
    let length_bytes = SIZE_BYTES / 4;
    write_to(door, part as u64 * length_bytes, length_bytes, 1000.0)
}

fn leave(writer: Writer) -> Model {
    wait_for_answers(&writer, 50);
    let (summary, model): (Summary, _) = writer.stop();
    assert!(summary.is_clean(), "the writer found errors: {summary:#?}");
    assert_eq!(summary.reconnects, 0, "a door was closed");
    model
}

/// A case on its way.
struct Run {
    case: Case,
    pair: Pair,
    p: Side,
    s: Side,
    before: Model,
}

impl Run {
    fn new(case: Case) -> Run {
        let pair = Pair::of(&[CATALOG, P, S]);
        if case.parts() {
            pair.cluster.expect_in_logs("histories have parted");
        }
        let (mut p, s) = (
            Side::at(pair.door.clone()),
            Side::at(pair.cluster.attach(NAME, S)),
        );
        let before = leave(writer(&p.door, Part::Before));
        p.write();
        Run {
            case,
            pair,
            p,
            s,
            before,
        }
    }

    fn force(&self, node: &str) {
        let job = self.pair.ok(&["volume", "primary", NAME, node, "--force"]);
        assert!(job["state"].is_null() || job["state"] == "done", "{job:#}");
    }

    fn refuse_force(&self, node: &str) {
        let answer = self
            .pair
            .cluster
            .ctl(CATALOG, &["volume", "primary", NAME, node, "--force"]);
        answer.assert_error(4, "refused");
    }

    /// A log is gone through new files under load, and given up as far as nobody needs it.
    fn rotate(&self, node: &str, when: &[Rotation]) {
        if self.case.rotation != Rotation::Everywhere && !when.contains(&self.case.rotation) {
            return;
        }
        for _ in 0..3 {
            for verb in ["rotate", "trim"] {
                self.pair.ok(&["volume", "log", verb, NAME, "--node", node]);
            }
        }
    }

    fn cut(&self) {
        self.pair.cluster.set_network(Condition::Cut);
    }

    fn reconnect(&self) {
        self.pair.cluster.set_network(Condition::Whole);
    }

    /// A replica that has failed takes it up once it has begun anew.
    fn resume(&self) {
        self.pair.ok(&["volume", "resume", NAME, "replay", "--node", S]);
    }

    fn wait_for_state(&self, node: &str, wanted: &str) {
        until(&format!("{node} is {wanted}"), || {
            (self.pair.state(node) == wanted).then_some(())
        });
    }

    /// The door of the side that wins.
    fn door(&self) -> &Target {
        match self.case.winner {
            Winner::S => &self.s.door,
            Winner::P => &self.p.door,
        }
    }

    fn run(mut self) {
        self.rotate(P, &[Rotation::Orig]);
        match (self.case.log, self.case.link) {
            (Log::Destroyed, _) => self.force_on_a_damaged_log(),
            (Log::Whole, Link::Whole) => self.switch_while_connected(),
            (Log::Whole, Link::Cut) => self.switch_while_cut(),
        }
        let after = self.cure();
        self.check(after);
    }

    /// MARS fails after a time-out, and has the operator make a new resource at S; ours says why, and P stays what it is.
    fn force_on_a_damaged_log(&mut self) {
        self.pair.cluster.expect_in_logs("the log is damaged");
        self.pair.ok(&["volume", "pause", NAME, "replay", "--node", S]);
        self.wait_for_state(S, "paused");
        self.p.is_served();
        if self.case.guest != Guest::Stays {
            self.p.leave();
        }
        until("S has log that is not on its disk", || {
            let row = self.pair.replica(S);
            (row["appended"].as_u64() > row["written_back"].as_u64()).then_some(())
        });
        let log = log_end(&self.pair.cluster, self.pair.cluster.host(S), NAME);
        flip_bits(&log, 0, std::fs::metadata(&log).expect("it is there").len(), 512);
        if self.case.link == Link::Cut {
            self.cut();
            self.wait_for_state(S, "unreachable");
        } else {
            let planned = self.pair.cluster.ctl(CATALOG, &["volume", "primary", NAME, S]);
            planned.assert_error(4, "refused");
        }
        let forced = self
            .pair
            .cluster
            .ctl(CATALOG, &["volume", "primary", NAME, S, "--force"]);
        assert!([1, 4].contains(&forced.code), "{forced:#?}");
        let words = forced.json["error"]["message"].as_str().unwrap_or_default();
        if words.contains("nothing has to be forced") {
            // P did not know of the pause yet. Then the damage is found when replay goes on.
            self.resume();
        }
        until("S says that its log is damaged", || {
            let row = self.pair.replica(S);
            let damaged = row["state"] == "defective-log" && row["role"] == "secondary";
            damaged.then_some(())
        });
        assert_eq!(self.pair.cluster.volume(NAME)["primary"], P);
        if self.case.guest == Guest::Returns {
            self.p.write();
        }
        self.p.is_served();
        self.reconnect();
        self.p.is_served();
    }

    /// MARS forces as well; ours says that nothing has to be forced, and a hand-over does what is wanted.
    fn switch_while_connected(&mut self) {
        if self.case.guest != Guest::Stays {
            self.p.leave();
        }
        for node in match self.case.winner {
            Winner::S => &[S][..],
            Winner::P => &[S, P],
        } {
            self.pair.cluster.wait_for_uptodate(NAME);
            self.refuse_force(node);
            self.pair.ok(&["volume", "primary", NAME, node]);
            self.rotate(P, &[Rotation::Orig]);
        }
        if self.case.guest == Guest::Returns {
            self.p.write();
        }
        self.p.is_served();
        if self.case.winner == Winner::S {
            // Whoever is at P writes to S, and would wait while the network is cut.
            self.p.leave();
            self.holds(&self.s.door, &self.p);
            self.s.write();
        }
    }

    fn switch_while_cut(&mut self) {
        if self.case.guest != Guest::Stays {
            self.p.leave();
            self.pair.cluster.wait_for_uptodate(NAME);
        }
        self.cut();
        self.wait_for_state(S, "unreachable");
        self.force(S);
        if self.case.guest != Guest::Stays {
            // It had everything, so it has it still.
            self.holds(&self.s.door, &self.p);
        }
        self.s.write();
        if self.case.guest == Guest::Returns {
            self.p.write();
        }
        self.p.is_served();
        self.rotate(P, &[Rotation::Orig, Rotation::SplitOrig]);
        self.rotate(S, &[Rotation::SplitSecond]);
        match (self.case.winner, self.case.reconnect) {
            (Winner::S, _) => {
                self.p.leave();
                self.force(S);
                self.s.is_served();
                self.reconnect();
            }
            (Winner::P, Reconnect::AfterForce) => {
                self.force(P);
                self.p.is_served();
                self.s.leave();
                self.reconnect();
            }
            (Winner::P, Reconnect::BeforeForce) => {
                self.p.leave();
                self.reconnect();
                self.wait_for_state(P, "split-brain");
                self.s.is_served();
                self.s.leave();
                self.force(P);
            }
        }
        if self.case.parts() {
            self.is_reported();
        } else {
            self.pair.cluster.wait_for_uptodate(NAME);
        }
    }

    /// Both sides say where the histories part, and what is behind it here and there.
    fn is_reported(&self) {
        until("both sides report the split brain", || {
            let shown = self.pair.ok(&["volume", "split-brain", "show", NAME]);
            let counted = |node: &str| {
                let row = array(&shown["pairs"]).iter().find(|row| row["node"] == node)?;
                let bytes = |side: &str| row[side]["bytes"].as_u64().filter(|bytes| *bytes > 0);
                Some((bytes("here")?, bytes("there")?))
            };
            let both = counted(P).is_some() && counted(S).is_some();
            (both && shown["parted"] == true && shown["primary"] == self.case.winner()).then_some(())
        });
        self.wait_for_state(self.case.loser(), "split-brain");
    }

    /// The loser becomes a replica of the winner, which serves its guests as if nothing were the matter.
    fn cure(&self) -> Writer {
        let (loser, cut) = (self.case.loser(), self.case.eviction == Eviction::Cut);
        if cut {
            self.cut();
        }
        let after = writer(self.door(), Part::After);
        match self.case.cure {
            Cure::Invalidate => drop(self.pair.ok(&["volume", "invalidate", NAME, loser, "--no-wait"])),
            Cure::Resolve => drop(
                self.pair
                    .ok(&["volume", "split-brain", "resolve", NAME, "--no-wait"]),
            ),
            Cure::LeaveJoin => drop(self.pair.ok(&["volume", "leave", NAME, loser])),
            Cure::Nothing => {}
        }
        wait_for_answers(&after, 100);
        if cut {
            self.reconnect();
        }
        if self.case.cure == Cure::LeaveJoin {
            self.pair.ok(&["volume", "join", NAME, loser]);
        }
        if self.case.log == Log::Destroyed {
            self.resume();
        }
        after
    }

    /// What the winner's guests were told is true, on both replicas.
    fn check(mut self, after: Writer) {
        let after = leave(after);
        let mut winner = match self.case.winner {
            Winner::S => std::mem::replace(&mut self.s, Side::at(self.p.door.clone())),
            Winner::P => std::mem::replace(&mut self.p, Side::at(self.s.door.clone())),
        };
        winner.leave();
        self.pair.assert_equal();
        let shown = self.pair.cluster.volume(NAME);
        assert_eq!(shown["primary"], self.case.winner(), "{shown:#}");
        self.holds(&winner.door, &winner);
        is_true(&winner.door, &self.before);
        is_true(&winner.door, &after);
        for host in self.pair.cluster.hosts() {
            assert!(host.marsd().is_running() && host.poold().is_running());
        }
    }

    /// What a side's guests were told is true at this door.
    fn holds(&self, door: &Target, side: &Side) {
        is_true(door, side.model.as_ref().expect("a guest has been there"));
    }
}

fn is_true(door: &Target, model: &Model) {
    let checked = bench::writer::check(door, model, 8, false).expect("the door is open");
    assert!(checked.is_clean(), "not what the guest was told: {checked:#?}");
}

/// Runs cases, some at one time; a table of them, and those that failed.
fn run(cases: &[Case]) -> Vec<String> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let ended = catch_unwind(AssertUnwindSafe(|| Run::new(*case).run()));
                    let (passed, seconds) = (ended.is_ok(), began.elapsed().as_secs_f64());
                    let word = if passed { "ok" } else { "FAILED" };
                    println!("{word:6} {seconds:5.1} s  {case}");
                    let mut rows = rows.lock().expect("nobody panics with it");
                    rows.push((passed, case.to_string()));
                }
            });
        }
    });
    let rows = rows.into_inner().expect("nobody panics with it");
    let failed = rows.into_iter().filter(|(passed, _)| !passed);
    failed.map(|(_, case)| case).collect()
}

#[test]
fn the_version_that_wins_lives_on_whole_and_alone() {
    let (cases, left_out): (Vec<Case>, Vec<Case>) = Case::product()
        .into_iter()
        .partition(|case| case.reason_meaningless().is_none());
    let all = std::env::var("POOLD_TESTS").is_ok_and(|what| what == "all");
    let chosen = match std::env::var("POOLD_CASE") {
        Ok(words) => cases
            .iter()
            .copied()
            .filter(|case| case.to_string().contains(&words))
            .collect(),
        Err(_) if all => cases.clone(),
        Err(_) => spread(&cases),
    };
    println!("{} of {} cases", chosen.len(), cases.len());
    let began = Instant::now();
    let failed = run(&chosen);
    if all {
        let mut reasons = BTreeMap::<_, usize>::new();
        for reason in left_out.iter().filter_map(Case::reason_meaningless) {
            *reasons.entry(reason).or_default() += 1;
        }
        for (reason, count) in reasons {
            println!("none   {count} combinations: {reason}");
        }
    }
    println!("{} failed, {:.0} s", failed.len(), began.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
}
