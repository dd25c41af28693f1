//! How does the agent get its marsd to do something? Steps become control calls, their errors ours.

use std::path::Path;
use std::time::Duration;

use api::control::{Call, ControlError, ControlErrorKind, HostLimits, HostStatus, Outcome};
use api::control_client::ControlClient;
use api::pool::agent::{Action, Order, Step, StepOutcome};
use api::{ApiError, ErrorKind};
use model::Bytes;

use super::vg;
use crate::tls::Credentials;

/// For calls that only look or that change little.
const PATIENCE: Duration = Duration::from_secs(10);

/// For a hand-over beyond the time that the gate may be closed: what is still to be shipped before.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(30);

/// For what a replica does once: a whole log may have to be replayed first.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// For clearing what a disk has been extended by.
const RESIZE_PATIENCE: Duration = Duration::from_secs(3600);

/// The marsd of this host.
pub struct Marsd {
    control: ControlClient,
}

impl Marsd {
    /// The marsd behind a control socket; it may be started later.
    pub fn new(socket: &Path) -> Marsd {
        Marsd {
            control: ControlClient::new(socket),
        }
    }

    /// How everything stands there.
    pub async fn status(&self) -> Result<HostStatus, ApiError> {
        match self.call(Call::Status { volume: None }, PATIENCE).await? {
            Outcome::Status(status) => Ok(status),
            other => Err(strange(&other)),
        }
    }

    /// Tells it who it is and how peers recognise it.
    pub async fn identity(&self, node: &str, credentials: &Credentials) -> Result<(), ApiError> {
        let call = Call::Identity {
            node: node.to_owned(),
            ca_pem: credentials.ca_pem.clone(),
            cert_pem: credentials.cert_pem.clone(),
            key_pem: credentials.key_pem.clone(),
        };
        self.call(call, PATIENCE).await.map(|_| ())
    }

    /// Tells it whose certificates count no more.
    pub async fn revoked(&self, serials: Vec<String>) -> Result<(), ApiError> {
        self.call(Call::Revoked { serials }, PATIENCE).await.map(|_| ())
    }

    /// Tells it what replication may take of this host.
    pub async fn limits(&self, limits: HostLimits) -> Result<(), ApiError> {
        self.call(Call::HostLimits { limits }, PATIENCE).await.map(|_| ())
    }

    /// Carries out a step; nothing happens where things are so already.
    pub async fn perform(&self, step: &Step) -> Result<StepOutcome, ApiError> {
        let volume = step.volume.clone();
        let call = match &step.action {
            Action::DiskCreate { vg, size_bytes } => {
                let (vg, size_bytes) = (vg.clone(), *size_bytes);
                return blocking(move || vg::open(&vg)?.create(&volume, size_bytes).map(|_| ())).await;
            }
            Action::DiskResize { vg, size_bytes } => {
                let (vg, size_bytes) = (vg.clone(), *size_bytes);
                return blocking(move || vg::open(&vg)?.resize(&volume, size_bytes)).await;
            }
            Action::Resize { size_bytes } => Call::VolumeResize {
                volume,
                size_bytes: *size_bytes,
            },
            Action::DiskRemove { vg } => {
                let vg = vg.clone();
                return blocking(move || vg::open(&vg)?.remove(&volume)).await;
            }
            Action::ReplicaCreate {
                vg,
                name,
                size_bytes,
                birth,
                members,
            } => Call::VolumeCreate {
                disk: vg::open(vg)?.path(&volume).display().to_string(),
                volume,
                name: name.clone(),
                size_bytes: *size_bytes,
                birth: *birth,
                members: members.clone(),
                log_bytes_max: None,
            },
            Action::RemoteCreate {
                name,
                size_bytes,
                members,
            } => Call::VolumeRemote {
                volume,
                name: name.clone(),
                size_bytes: *size_bytes,
                members: members.clone(),
            },
            Action::SetMembers { members } => Call::VolumeMembers {
                volume,
                members: members.clone(),
            },
            Action::HandOver { to, gate_millis_max } => Call::VolumeHandOver {
                volume,
                to: to.clone(),
                gate_millis_max: *gate_millis_max,
            },
            Action::DoorOpen { door } => Call::DoorOpen {
                volume,
                door: door.clone(),
            },
            Action::DoorClose { door } => Call::DoorClose {
                volume,
                door: door.clone(),
            },
            Action::Forget => Call::VolumeForget { volume },
            Action::Settings { settings } => Call::VolumeSettings {
                volume,
                settings: *settings,
            },
            Action::LogBudget { bytes } => Call::VolumeLogBudget {
                volume,
                log_bytes_max: *bytes,
            },
            Action::Limits { limits } => Call::VolumeLimits {
                volume,
                limits: *limits,
            },
            Action::Compression { compressed } => Call::VolumeCompression {
                volume,
                compressed: *compressed,
            },
            Action::Switch { switch, on } => Call::VolumeSwitch {
                volume,
                switch: *switch,
                on: *on,
            },
            Action::Sources { sources } => Call::VolumeSources {
                volume,
                sources: sources.clone(),
            },
            Action::VerifyCancel => Call::VolumeVerifyCancel { volume },
            Action::SnapshotTake { snapshot } => Call::VolumeSnapshot {
                volume,
                name: snapshot.clone(),
            },
            Action::SnapshotDrop {
                snapshot,
                at_lsn,
                at_digest,
            } => Call::VolumeSnapshotDrop {
                volume,
                name: snapshot.clone(),
                at_lsn: *at_lsn,
                at_digest: at_digest.clone(),
            },
            Action::Restore {
                snapshot,
                at_lsn,
                at_digest,
                job,
            } => Call::VolumeRestore {
                volume,
                name: snapshot.clone(),
                at_lsn: *at_lsn,
                at_digest: at_digest.clone(),
                run: *job,
            },
            Action::RestoreCancel => Call::VolumeRestoreCancel { volume },
            Action::Order { job, order } => return self.order(volume, *job, order).await,
        };
        let patience = match &step.action {
            Action::HandOver { gate_millis_max, .. } => {
                HAND_OVER_PATIENCE + Duration::from_millis(*gate_millis_max)
            }
            // New extents of a block device are cleared first.
            Action::Resize { .. } => RESIZE_PATIENCE,
            _ => PATIENCE,
        };
        let outcome = match (self.call(call, patience).await, &step.action) {
            // Not there: so it is forgotten or closed.
            (Err(error), Action::Forget | Action::DoorClose { .. }) if error.kind == ErrorKind::NotFound => {
                return Ok(StepOutcome::Done);
            }
            (outcome, _) => outcome?,
        };
        match (outcome, &step.action) {
            (Outcome::HandedOver { gate_micros, .. }, _) => Ok(StepOutcome::HandedOver { gate_micros }),
            (Outcome::Done | Outcome::Door { .. } | Outcome::Snapshot { .. }, _) => Ok(StepOutcome::Done),
            (other, _) => Err(strange(&other)),
        }
    }

    async fn order(&self, volume: String, job: u64, order: &Order) -> Result<StepOutcome, ApiError> {
        let call = match order {
            Order::TakeOver { term } => Call::VolumeTakeOver { volume, term: *term },
            Order::StepDown => Call::VolumeSecondary { volume },
            Order::Invalidate { keep } => Call::VolumeInvalidate { volume, keep: *keep },
            Order::FakeSync => Call::VolumeFakeSync { volume },
            Order::LogRotate => Call::VolumeLogRotate { volume },
            Order::LogTrim => Call::VolumeLogTrim { volume },
            Order::DropKept { history } => Call::KeptDrop {
                volume,
                history: history.clone(),
            },
            Order::Verify {
                repair,
                bytes_per_second_max,
            } => Call::VolumeVerify {
                volume,
                repair: *repair,
                bytes_per_second_max: *bytes_per_second_max,
            },
        };
        let note = match self.call(call, ORDER_PATIENCE).await? {
            Outcome::TookOver { term, from_lsn } => {
                format!("is primary in term {term}, from position {from_lsn} of the log on")
            }
            Outcome::Kept { path } => format!("keeps its former log in {path} until somebody removes it"),
            Outcome::Log {
                files,
                bytes,
                given_back_bytes,
                held_by,
            } => {
                let back = match given_back_bytes {
                    0 => String::new(),
                    back => format!("gave {} back, ", Bytes(back)),
                };
                let bytes = Bytes(bytes);
                format!("{back}keeps {bytes} of log in {files} files, the oldest for {held_by}")
            }
            Outcome::Dropped { histories, bytes } => {
                format!("removed {histories} histories, {}", Bytes(bytes))
            }
            Outcome::Done | Outcome::HandedOver { .. } => String::new(),
            other => return Err(strange(&other)),
        };
        Ok(StepOutcome::Ordered { job, note })
    }

    async fn call(&self, call: Call, patience: Duration) -> Result<Outcome, ApiError> {
        self.control
            .call(call, patience)
            .await
            .map_err(|error| translate(&error))
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), ApiError> + Send + 'static,
) -> Result<StepOutcome, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::failed(format!("the step broke off: {error}")))??;
    Ok(StepOutcome::Done)
}

fn translate(error: &ControlError) -> ApiError {
    let kind = match error.kind {
        ControlErrorKind::Usage => ErrorKind::Usage,
        ControlErrorKind::NotFound => ErrorKind::NotFound,
        ControlErrorKind::Refused => ErrorKind::Refused,
        ControlErrorKind::Busy => ErrorKind::Unavailable,
        ControlErrorKind::TimedOut => ErrorKind::TimedOut,
        ControlErrorKind::Failed => ErrorKind::Failed,
    };
    ApiError::new(kind, error.message.clone())
}

fn strange(outcome: &Outcome) -> ApiError {
    ApiError::failed(format!(
        "marsd gave an answer that does not fit the question: {outcome:?}"
    ))
    .hint("use the same version of poold and marsd")
}
