//! How does a comparison of all replicas read on the control socket?

use api::control::{
    DifferenceStatus, Outcome, VerifiedStatus, VerifyEndWord, VerifyNodeStatus, VerifyStatus,
};
use mars::{Command, Verified, VerifyEnd, VerifyRun};
use model::VolumeId;

use super::{Host, Reply, answered};

impl Host {
    pub(super) async fn verify(
        &self,
        id: VolumeId,
        repair: bool,
        bytes_per_second_max: Option<u64>,
    ) -> Reply<Outcome> {
        let command = Command::Verify {
            repair,
            bytes_per_second_max: bytes_per_second_max.unwrap_or(0),
            unix_seconds: crate::run::unix_micros() / 1_000_000,
        };
        answered(self.replica_handle(id)?.command(command).await)
    }
}

pub(super) fn when(verified: Verified) -> VerifiedStatus {
    VerifiedStatus {
        from_lsn: verified.from.0,
        unix_seconds: verified.unix_seconds,
    }
}

pub(super) fn shown(run: &VerifyRun, size_bytes: u64) -> VerifyStatus {
    VerifyStatus {
        began: when(run.began),
        percent: 100.0 * run.next.bytes() as f64 / size_bytes as f64,
        repair: run.repair,
        ended: run.ended.map(|end| match end {
            VerifyEnd::Finished => VerifyEndWord::Finished,
            VerifyEnd::Cancelled => VerifyEndWord::Cancelled,
            VerifyEnd::RoleMoved => VerifyEndWord::RoleMoved,
        }),
        nodes: run
            .nodes
            .iter()
            .map(|node| VerifyNodeStatus {
                node: node.node.to_string(),
                left_out: node.left_out,
                different_bytes: node.different_bytes,
                repaired_bytes: node.repaired_bytes,
            })
            .collect(),
        differences: run
            .differences
            .iter()
            .map(|difference| DifferenceStatus {
                node: difference.node.to_string(),
                offset_bytes: difference.range.start.bytes(),
                length_bytes: difference.range.len_bytes(),
                repaired: difference.repaired,
            })
            .collect(),
    }
}
