//! What does a volume's news look like in the log? One line each, as loud as it needs somebody to act.

use mars::{Level, Notice, SnapshotState};
use model::Bytes;
use tracing::{error, info, warn};

/// Writes one notice; the thread's span says which volume and node.
pub(crate) fn log(notice: Notice) {
    match notice {
        Notice::Recovered {
            end,
            replayed_bytes,
            torn_bytes,
        } => {
            info!(end = end.lsn.0, digest = %end.digest, replayed_bytes, torn_bytes, "recovered from its log");
        }
        Notice::BecamePrimary { epoch } => info!(%epoch, "became primary"),
        Notice::BecameSecondary { successor, epoch } => {
            let successor = successor.map(|node| node.to_string());
            info!(successor, %epoch, "became secondary");
        }
        Notice::TookOver {
            epoch,
            from,
            missing_bytes,
        } => {
            warn!(%epoch, from = from.lsn.0, digest = %from.digest, missing_bytes, "took over without a grant");
        }
        Notice::Streaming { source, from } => info!(%source, from = from.0, "follows a source"),
        Notice::SyncStarted {
            source,
            partial: None,
        } => info!(%source, "full sync has begun"),
        Notice::SyncStarted {
            source,
            partial: Some(compared),
        } => {
            let compared = Bytes(compared.bytes());
            info!(%source, %compared, "copies what changed while its log could not be kept");
        }
        Notice::SyncFinished { copied_bytes } => info!(copied = %Bytes(copied_bytes), "full sync has ended"),
        Notice::SyncFaked => warn!("declared whole by an operator, without a full sync"),
        Notice::CutBack { to, dropped_bytes } => {
            info!(
                to = to.0,
                dropped_bytes, "dropped log that its primary had lost in a restart"
            );
        }
        Notice::PeerDropped { peer, held_bytes } => {
            warn!(%peer, held = %Bytes(held_bytes), "no longer keeps log for a replica that is too far behind");
        }
        Notice::Pressure {
            before,
            level,
            log_bytes,
        } => {
            let log = Bytes(log_bytes);
            match level {
                Level::Normal => info!(%before, %level, %log, "there is room enough for the log again"),
                Level::Throttled => {
                    info!(%before, %level, %log, "the log needs much of its room: guests may be slowed")
                }
                Level::Dropping => {
                    warn!(%before, %level, %log, "the log has used up its room: it stops waiting for laggards")
                }
                Level::Unlogged => {
                    warn!(%before, %level, %log, "no room for a log: changes go straight to the disk, \
                    what replicas lack is remembered")
                }
                Level::Stalled => {
                    warn!(%before, %level, %log, "no room for the log: it waits until there is some")
                }
            }
        }
        Notice::Short { mode } => match mode {
            model::Mode::Sync { .. } => {
                warn!(%mode, "too few replicas keep up: guests' flushes wait for them; \
                    `volume set --mode near-sync` or `async` would let them go on");
            }
            _ => warn!(%mode, "degraded: too few replicas keep up; flushes are answered without them"),
        },
        Notice::Restored { short_micros } => {
            info!(
                short_seconds = short_micros as f64 / 1e6,
                "enough replicas keep up again"
            );
        }
        Notice::LagExceeded {
            lag_bytes,
            lag_micros,
        } => warn!(
            lag_bytes,
            lag_seconds = lag_micros as f64 / 1e6,
            "replicas are further behind than allowed"
        ),
        Notice::LagCleared { late_micros } => {
            info!(
                late_seconds = late_micros as f64 / 1e6,
                "replicas are within the allowed lag again"
            );
        }
        Notice::SplitBrain { peer, split } => {
            let (at, ours, theirs) = (split.at, split.ours, split.theirs);
            error!(%peer, at = at.lsn.0, digest = %at.digest, ?ours, ?theirs, "histories have parted (split brain)");
        }
        Notice::Fenced { epoch, primary } => {
            let primary = primary.map(|node| node.to_string());
            warn!(%epoch, primary, "is primary no more: there is a newer one");
        }
        Notice::DefectiveLog { at, reason } => error!(at = at.0, reason, "the log is damaged"),
        Notice::LogDamaged { at, reason } => {
            warn!(
                at = at.0,
                reason, "the log is damaged; whoever lacks what is there copies contents"
            );
        }
        Notice::Grown { to } => info!(%to, "the volume has grown"),
        Notice::CannotGrow { to, reason } => warn!(%to, reason, "the volume has grown, but not here"),
        Notice::Snapshot { name, state } => match state {
            SnapshotState::Failed { reason } => {
                warn!(snapshot = %name, reason, "a snapshot could not be taken here")
            }
            SnapshotState::Missing { why } => warn!(snapshot = %name, %why, "a snapshot is missing here"),
            _ => info!(snapshot = %name, "keeps a snapshot"),
        },
        Notice::VerifyStarted { from } => info!(from = from.0, "comparison of all replicas has begun"),
        Notice::Difference { node, range } => error!(%node, %range, "a replica differs from the others"),
        Notice::VerifyEnded { run } => {
            let sum = |figure: fn(&mars::VerifyNode) -> u64| Bytes(run.nodes.iter().map(figure).sum());
            let different = sum(|node| node.different_bytes);
            let repaired = sum(|node| node.repaired_bytes);
            info!(end = ?run.ended, %different, %repaired, "comparison of all replicas has ended");
        }
        Notice::Failed { error } => error!(%error, "out of service: disk or log failed"),
    }
}
