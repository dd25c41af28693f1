//! Who does what the plan says on this host? The agent: fetches steps, carries them out, reports what it sees.

pub mod dirvg;
pub mod generations;
pub mod lvm;
pub mod marsd;
pub mod vg;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::control::{HostLimits, HostStatus};
use api::pool::VgKind;
use api::pool::agent::{Action, Report, Step, StepOutcome, StepResult, Steps, VgRef, VgReport};
use api::{ApiError, Client, Repeats};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, info, info_span, warn};

use crate::leader::Leader;
use crate::tls::Credentials;
use generations::Generations;
use marsd::Marsd;

/// How often a host reports when nothing happens.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How long a poll for steps waits.
const POLL: Duration = Duration::from_secs(20);

/// After a step failed, or nobody answered.
const RETRY: Duration = Duration::from_millis(500);

/// So often a group of LVM is looked at when no step has changed anything: its tools read every disk of the host.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// When steps that succeeded are still asked for: something undid them.
const REPEAT: Duration = Duration::from_secs(5);

/// Newest orders that are remembered; each is asked for again until its report has arrived, which takes a moment.
const ORDERS_REMEMBERED: usize = 64;

/// The way to the catalog.
pub enum Uplink {
    /// It lies here.
    Local(Arc<Leader>),
    /// It lies on another host.
    Remote(Client),
}

impl Uplink {
    async fn steps(&self, node: &str, after: u64) -> Result<Steps, ApiError> {
        match self {
            Uplink::Local(leader) => leader.agent_steps(node, after, POLL).await,
            Uplink::Remote(client) => client.agent_steps(node, after, POLL).await,
        }
    }

    async fn report(&self, node: &str, report: &Report) -> Result<(), ApiError> {
        match self {
            Uplink::Local(leader) => leader.agent_report(node, report.clone()),
            Uplink::Remote(client) => client.agent_report(node, report).await.map(|_| ()),
        }
    }
}

/// Where others reach a host, as its configuration says now.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its daemon.
    pub address: String,
    /// Its marsd.
    pub peer_address: String,
}

/// The agent of a host.
pub struct Agent {
    node: String,
    place: Place,
    marsd: Marsd,
    credentials: Credentials,
    generations: Generations,
    uplink: Uplink,
    /// As the newest steps named them.
    vgs: Mutex<Vec<VgRef>>,
    /// The same; `None` until steps have come.
    revoked: Mutex<Option<Vec<String>>>,
    limits: Mutex<Option<HostLimits>>,
    /// Not yet reported.
    results: Mutex<Vec<StepResult>>,
    /// What came of orders, by job: none is carried out twice because its report was late.
    ordered: Mutex<BTreeMap<u64, StepOutcome>>,
    /// Steps begun or ended so far: what was seen before is old.
    changes: AtomicU64,
    /// What was seen last of groups that are not looked at each time, by name.
    looked: Mutex<BTreeMap<String, Looked>>,
    /// Failures told lately: a step that fails is tried again soon.
    failures: Repeats,
    /// Asks for a report at once.
    nudge: Notify,
}

/// What was seen of a volume group.
#[derive(Clone)]
struct Looked {
    vg: VgRef,
    /// How many changes there had been before.
    changes: u64,
    at: Instant,
    report: VgReport,
}

/// What became of the steps of one volume.
struct Finished {
    volume: String,
    steps: Vec<Step>,
    ok: bool,
}

/// The last time that steps of a volume were carried out.
struct Last {
    steps: Vec<Step>,
    ok: bool,
    at: Instant,
}

impl Agent {
    /// The agent of `node`.
    pub fn new(
        node: &str,
        place: Place,
        marsd: Marsd,
        credentials: Credentials,
        generations: Generations,
        uplink: Uplink,
    ) -> Agent {
        Agent {
            node: node.to_owned(),
            place,
            marsd,
            credentials,
            generations,
            uplink,
            vgs: Mutex::default(),
            revoked: Mutex::default(),
            limits: Mutex::default(),
            results: Mutex::default(),
            ordered: Mutex::default(),
            changes: AtomicU64::new(0),
            looked: Mutex::default(),
            failures: Repeats::default(),
            nudge: Notify::new(),
        }
    }

    /// Works until the task is dropped.
    pub async fn run(self: Arc<Agent>) {
        let span = info_span!("agent", node = %self.node);
        let (sender, receiver) = watch::channel(None);
        let work = async {
            tokio::join!(
                self.report_for_ever(),
                self.poll_for_ever(&sender),
                carry_out(self.clone(), receiver)
            )
        };
        work.instrument(span).await;
    }

    async fn poll_for_ever(&self, sender: &watch::Sender<Option<Steps>>) {
        let mut after = 0;
        let mut reachable = true;
        loop {
            match self.uplink.steps(&self.node, after).await {
                Ok(steps) => {
                    if !reachable {
                        info!("the catalog is reachable again");
                    }
                    reachable = true;
                    after = steps.revision;
                    lock(&self.vgs).clone_from(&steps.vgs);
                    *lock(&self.revoked) = Some(steps.revoked.clone());
                    *lock(&self.limits) = Some(steps.limits.clone());
                    self.nudge.notify_one();
                    sender.send_replace(Some(steps));
                }
                Err(error) => {
                    if reachable {
                        warn!(error = %error, "the catalog gives no steps");
                    }
                    reachable = false;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn report_for_ever(&self) {
        let mut identified = false;
        loop {
            let report = self.look(&mut identified).await;
            let results = report.results.len();
            // A report that did not arrive is followed by one that holds its results too; the poll says why.
            if self.uplink.report(&self.node, &report).await.is_ok() {
                lock(&self.results).drain(..results);
            }
            // Nudges that came meanwhile are one: the next report sees everything.
            let _ = tokio::time::timeout(REPORT_EVERY, self.nudge.notified()).await;
        }
    }

    async fn look(&self, identified: &mut bool) -> Report {
        // Before the disks: a disk that a step of an older generation is still making must not be missed by a
        // report that claims a newer one.
        let changes = self.changes.load(Ordering::SeqCst);
        let generations = self.generations.all();
        // A step that is reported as done is seen as done in all that follows.
        let results = lock(&self.results).clone();
        let marsd = self.look_at_marsd(identified).await;
        let vgs = lock(&self.vgs).clone();
        let mut seen = Vec::new();
        for vg in vgs {
            seen.extend(self.look_at_vg(vg, changes).await);
        }
        Report {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.place.address.clone(),
            peer_address: self.place.peer_address.clone(),
            marsd: marsd.map_err(|error| error.message),
            generations,
            vgs: seen,
            results,
        }
    }

    async fn look_at_vg(&self, vg: VgRef, changes: u64) -> Option<VgReport> {
        let last = lock(&self.looked).get(&vg.name).cloned();
        let still_holds =
            |last: &Looked| last.vg == vg && last.changes == changes && last.at.elapsed() < LOOK_AGAIN;
        if let Some(last) = last.filter(still_holds) {
            return Some(last.report);
        }
        let (at, asked) = (Instant::now(), vg.clone());
        let report = tokio::task::spawn_blocking(move || look_at_vg(&asked))
            .await
            .ok()?;
        if vg.kind == VgKind::Lvm && report.problem.is_none() {
            let looked = Looked {
                vg,
                changes,
                at,
                report: report.clone(),
            };
            lock(&self.looked).insert(report.name.clone(), looked);
        }
        Some(report)
    }

    async fn look_at_marsd(&self, identified: &mut bool) -> Result<HostStatus, ApiError> {
        let status = self.marsd.status().await;
        match status {
            Ok(status) if *identified && status.node.as_ref() == Some(&self.node) => {
                let revoked = lock(&self.revoked).clone();
                if let Some(revoked) = revoked.filter(|revoked| *revoked != status.revoked) {
                    self.marsd.revoked(revoked).await?;
                }
                let limits = lock(&self.limits).clone();
                if let Some(limits) = limits.filter(|limits| *limits != status.limits) {
                    self.marsd.limits(limits).await?;
                }
                Ok(status)
            }
            Ok(_) => {
                self.marsd.identity(&self.node, &self.credentials).await?;
                *identified = true;
                self.marsd.status().await
            }
            Err(error) => {
                if *identified {
                    warn!(error = %error, "marsd does not answer");
                }
                *identified = false;
                Err(error)
            }
        }
    }

    async fn perform(&self, step: &Step) -> Result<StepOutcome, ApiError> {
        let Action::Order { job, .. } = &step.action else {
            return self.marsd.perform(step).await;
        };
        if let Some(outcome) = lock(&self.ordered).get(job) {
            return Ok(outcome.clone());
        }
        let outcome = self.marsd.perform(step).await?;
        let mut ordered = lock(&self.ordered);
        ordered.insert(*job, outcome.clone());
        while ordered.len() > ORDERS_REMEMBERED {
            ordered.pop_first();
        }
        Ok(outcome)
    }

    async fn carry_out_steps(&self, volume: String, steps: Vec<Step>) -> Finished {
        let mut ok = true;
        for step in &steps {
            // Before it counts as taken up, and after it is done: what was seen until then may be otherwise now.
            self.changes.fetch_add(1, Ordering::SeqCst);
            let outcome = match self.generations.accept(step) {
                Ok(()) => self.perform(step).await,
                Err(error) => Err(error),
            };
            self.changes.fetch_add(1, Ordering::SeqCst);
            match &outcome {
                Ok(_) => info!(action = ?step.action, generation = step.generation, "step done"),
                Err(error) => {
                    let words = format!("{volume} {:?} {error}", step.action);
                    if let Some(withheld) = self.failures.withheld(words, Instant::now()) {
                        let generation = step.generation;
                        warn!(action = ?step.action, generation, withheld, error = %error, "step failed");
                    }
                }
            }
            ok = outcome.is_ok();
            lock(&self.results).push(StepResult {
                step: step.clone(),
                outcome,
            });
            if !ok {
                break;
            }
        }
        Finished { volume, steps, ok }
    }
}

/// Carries out the newest steps, those of one volume in order, those of different volumes at the same time.
async fn carry_out(agent: Arc<Agent>, mut received: watch::Receiver<Option<Steps>>) {
    let mut last: BTreeMap<String, Last> = BTreeMap::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut work: JoinSet<Finished> = JoinSet::new();
    loop {
        let groups = received
            .borrow_and_update()
            .as_ref()
            .map(group)
            .unwrap_or_default();
        last.retain(|volume, _| groups.contains_key(volume));
        for (volume, steps) in groups {
            if busy.contains(&volume) || !is_due(last.get(&volume), &steps) {
                continue;
            }
            busy.insert(volume.clone());
            let span = info_span!("steps", volume = %volume);
            let agent = agent.clone();
            work.spawn(async move { agent.carry_out_steps(volume, steps).await }.instrument(span));
        }
        tokio::select! {
            changed = received.changed() => if changed.is_err() { return },
            Some(finished) = work.join_next() => {
                let Ok(Finished { volume, steps, ok }) = finished else {
                    // A step panicked; which one is in the log. The others go on.
                    busy.clear();
                    continue;
                };
                busy.remove(&volume);
                last.insert(volume, Last { steps, ok, at: Instant::now() });
                agent.nudge.notify_one();
            }
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn group(steps: &Steps) -> BTreeMap<String, Vec<Step>> {
    let mut groups: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for step in &steps.steps {
        groups.entry(step.volume.clone()).or_default().push(step.clone());
    }
    groups
}

fn is_due(last: Option<&Last>, steps: &[Step]) -> bool {
    let Some(last) = last.filter(|last| last.steps == steps) else {
        return true;
    };
    last.at.elapsed() >= if last.ok { REPEAT } else { RETRY }
}

fn look_at_vg(vg: &VgRef) -> VgReport {
    let look = || {
        let group = vg::open(vg)?;
        Ok::<_, ApiError>((group.capacity()?, group.list()?))
    };
    match look() {
        Ok((capacity, disks)) => VgReport {
            name: vg.name.clone(),
            used_bytes: capacity.used_bytes,
            left_bytes: capacity.left_bytes,
            disks,
            problem: None,
        },
        Err(error) => VgReport {
            name: vg.name.clone(),
            used_bytes: 0,
            left_bytes: 0,
            disks: BTreeMap::new(),
            problem: Some(error.message),
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
