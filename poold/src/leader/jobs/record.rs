//! What does a job of each kind do, as the planner and as people see it?

use std::collections::{BTreeMap, BTreeSet};

use api::ApiError;
use api::pool::{Job, JobKind, JobState};
use migrate::desired::Placement;
use migrate::job::{Phase, Work};
use model::NodeId;

use super::{COMPARE_PHASE, DRAIN_PHASE, ORDER_PHASE};
use crate::catalog::records::{JobRecord, PlaceRecord, VolumeRecord};
use crate::clock;
use crate::leader::resize::GROW_PHASE;
use crate::leader::restore::RESTORE_PHASE;
use crate::leader::snapshots::TAKE_PHASE;

impl JobRecord {
    /// A job at its first phase; its number comes with
    /// [`crate::catalog::Tx::add_job`].
    pub fn new(kind: JobKind, volume: &VolumeRecord, phase: &str) -> JobRecord {
        JobRecord {
            volume: volume.id.clone(),
            volume_name: volume.name.clone(),
            ..JobRecord::on_host(kind, phase)
        }
    }

    /// The same job, at its end.
    pub fn ended(&self, state: JobState, error: Option<ApiError>) -> JobRecord {
        JobRecord {
            state,
            error,
            ended: Some(clock::now()),
            ..self.clone()
        }
    }

    /// The same for work on a host.
    pub fn on_host(kind: JobKind, phase: &str) -> JobRecord {
        JobRecord {
            number: 0,
            kind,
            volume: String::new(),
            volume_name: String::new(),
            state: JobState::Running,
            phase: phase.to_owned(),
            from: None,
            to: None,
            moves_primary: false,
            gate_micros_max: None,
            order: None,
            losers: Vec::new(),
            evacuate: false,
            children: BTreeSet::new(),
            stuck: BTreeMap::new(),
            note: None,
            snapshot: None,
            verify: None,
            error: None,
            created: clock::now(),
            ended: None,
        }
    }

    /// On what it works.
    pub fn object(&self) -> String {
        match (&self.from, self.volume.is_empty()) {
            (Some(node), true) => format!("node {node}"),
            _ => format!("volume {}", self.volume_name),
        }
    }

    /// What the planner has to decide about; `None` for an order and a resize. Errors: what in the record makes no sense.
    pub(super) fn work(&self) -> Result<Option<Work>, String> {
        let node = |name: &Option<String>| {
            let name = name.as_deref().ok_or("the job lacks a node")?;
            NodeId::new(name).map_err(|error| error.to_string())
        };
        let to = || {
            let to = self.to.as_ref().ok_or("the job lacks its target")?;
            let node = NodeId::new(&to.node).map_err(|error| error.to_string())?;
            Ok::<_, String>(Placement {
                node,
                vg: to.vg.clone(),
            })
        };
        Ok(match self.kind {
            JobKind::Create => Some(Work::Create),
            JobKind::Delete => Some(Work::Delete),
            JobKind::Join => Some(Work::Join { to: to()? }),
            JobKind::Leave => Some(Work::Leave {
                from: node(&self.from)?,
            }),
            JobKind::Primary => Some(Work::Primary {
                from: node(&self.from)?,
                to: to()?.node,
            }),
            JobKind::Migrate => Some(Work::Migrate {
                from: node(&self.from)?,
                to: to()?,
            }),
            JobKind::Replicas => Some(Work::Replicas),
            JobKind::Verify
            | JobKind::TakeOver
            | JobKind::Secondary
            | JobKind::Invalidate
            | JobKind::Resolve
            | JobKind::Resize
            | JobKind::Snapshot
            | JobKind::Restore
            | JobKind::FakeSync
            | JobKind::LogRotate
            | JobKind::LogTrim
            | JobKind::DropKept
            | JobKind::Drain => None,
        })
    }

    pub(super) fn phases(&self) -> Vec<String> {
        match self.work() {
            Ok(Some(work)) => work
                .phases(self.moves_primary)
                .iter()
                .map(|phase| phase.word().to_owned())
                .collect(),
            Ok(None) if matches!(self.kind, JobKind::Invalidate | JobKind::Resolve) => {
                vec![ORDER_PHASE.to_owned(), Phase::Sync.word().to_owned()]
            }
            Ok(None) if self.kind == JobKind::Drain => vec![DRAIN_PHASE.to_owned()],
            Ok(None) if self.kind == JobKind::Verify => {
                vec![ORDER_PHASE.to_owned(), COMPARE_PHASE.to_owned()]
            }
            Ok(None) if self.kind == JobKind::Resize => vec![GROW_PHASE.to_owned()],
            Ok(None) if self.kind == JobKind::Snapshot => vec![TAKE_PHASE.to_owned()],
            Ok(None) if self.kind == JobKind::Restore => vec![RESTORE_PHASE.to_owned()],
            Ok(None) | Err(_) => vec![ORDER_PHASE.to_owned()],
        }
    }

    /// The same job with the order to the next host, if there is one.
    pub fn next_loser(&self) -> Option<JobRecord> {
        let (next, rest) = self.losers.split_first()?;
        Some(JobRecord {
            phase: ORDER_PHASE.to_owned(),
            to: Some(PlaceRecord {
                node: next.clone(),
                vg: String::new(),
            }),
            losers: rest.to_vec(),
            ..self.clone()
        })
    }

    /// The host that an order goes to: the one that gets something, else the one that gives something up.
    pub fn order_node(&self) -> Option<&str> {
        self.to
            .as_ref()
            .map(|to| to.node.as_str())
            .or(self.from.as_deref())
    }

    /// What there is to be said once it has ended.
    pub(super) fn last_words(&self) -> Option<String> {
        let note = self.note.as_ref().filter(|note| !note.is_empty());
        let words = match &self.error {
            Some(error) => error.message.clone(),
            None => note.cloned().unwrap_or_else(|| self.state.word().to_owned()),
        };
        self.state.ended().then_some(words)
    }

    /// As the API shows it, without progress.
    pub(super) fn show(&self, total_bytes: u64) -> Job {
        let done = self.state == JobState::Done;
        Job {
            id: self.number.to_string(),
            kind: self.kind,
            volume: self.volume_name.clone(),
            state: self.state,
            phase: self.phase.clone(),
            phases: self.phases(),
            from: self.from.clone(),
            to: self.to.as_ref().map(|to| to.node.clone()),
            percent: if done { 100.0 } else { 0.0 },
            done_bytes: if done { total_bytes } else { 0 },
            total_bytes,
            copied_bytes: 0,
            rate_bytes_per_second: 0,
            eta_seconds: None,
            gate_micros_max: self.gate_micros_max,
            message: self.last_words().unwrap_or_default(),
            error: self.error.clone(),
            verify: self.verify.clone(),
            created: self.created.clone(),
            ended: self.ended.clone(),
            revision: 0,
        }
    }
}
