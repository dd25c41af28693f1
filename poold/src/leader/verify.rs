//! Are all replicas equal? Digests taken at the same position of the log, at a moment without writes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::ApiError;
use api::pool::agent::{Action, Step};
use api::pool::{JobKind, JobState, ReplicaDigest, Verdict, VerifyReport};

use super::Leader;
use crate::catalog::Records;
use crate::catalog::records::{JobRecord, VolumeRecord};
use crate::clock;
use crate::inventory::{Checksum, Snapshot};

/// Which attempt each running verification is at; begun anew when the daemon restarts.
#[derive(Default)]
pub struct Attempts {
    running: Mutex<BTreeMap<u64, Attempt>>,
}

#[derive(Clone, Copy)]
struct Attempt {
    number: u64,
    began: Instant,
}

/// What the digests so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// Some are still missing.
    Missing(Vec<String>),
    /// Something was written meanwhile, or the replicas are not at the same position.
    Unsettled,
    /// All at the same position.
    Settled(Verdict),
}

impl Attempts {
    fn of(&self, job: u64) -> Attempt {
        // Begins with the time, so that a digest of before a restart is never taken for one of this attempt.
        let first = || Attempt {
            number: clock::unix_seconds() << 20,
            began: Instant::now(),
        };
        *self.lock().entry(job).or_insert_with(first)
    }

    fn again(&self, job: u64) {
        if let Some(attempt) = self.lock().get_mut(&job) {
            attempt.number += 1;
        }
    }

    fn forget(&self, job: u64) {
        self.lock().remove(&job);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Attempt>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// The digests that running verifications still need.
    pub fn checksum_steps(
        &self,
        records: &Records,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<(String, Step)> {
        let mut steps = Vec::new();
        for job in records.jobs.iter().filter(|job| is_verifying(job)) {
            let Some(volume) = records.volumes.get(&job.volume) else {
                continue;
            };
            let attempt = self.attempts.of(job.number).number;
            for member in &volume.members {
                let taken = snapshot.checksums.get(&(volume.id.clone(), member.node.clone()));
                let has_replica = snapshot
                    .volume(&member.node, &volume.id, now)
                    .is_some_and(|known| known.replica.is_some());
                if has_replica && taken.is_none_or(|checksum| checksum.attempt != attempt) {
                    let action = Action::Checksum { attempt };
                    let (volume, generation) = (volume.id.clone(), volume.generation);
                    steps.push((
                        member.node.clone(),
                        Step {
                            volume,
                            generation,
                            action,
                        },
                    ));
                }
            }
        }
        steps
    }

    /// Decides about a running verification. Answers the changed job, if it changed.
    pub fn advance_verify(
        &self,
        job: &JobRecord,
        volume: Option<&VolumeRecord>,
        snapshot: &Snapshot,
    ) -> Option<JobRecord> {
        let end = |state, verify, error| {
            self.attempts.forget(job.number);
            let ended = Some(clock::now());
            Some(JobRecord {
                state,
                verify,
                error,
                ended,
                ..job.clone()
            })
        };
        let Some(volume) = volume else {
            return end(
                JobState::Failed,
                None,
                Some(ApiError::not_found("the volume was deleted")),
            );
        };
        if job.state == JobState::Cancelling {
            return end(JobState::Cancelled, None, None);
        }
        let attempt = self.attempts.of(job.number);
        let late = attempt.began.elapsed() >= Duration::from_secs(job.limit_seconds);
        let taken: Vec<(String, Option<&Checksum>)> = volume
            .members
            .iter()
            .map(|member| {
                let checksum = snapshot.checksums.get(&(volume.id.clone(), member.node.clone()));
                (member.node.clone(), checksum)
            })
            .collect();
        match find(attempt.number, &taken) {
            Finding::Settled(verdict) => end(JobState::Done, Some(report(verdict, &taken)), None),
            Finding::Unsettled if late => {
                let error =
                    ApiError::timed_out("writes never paused for long enough to compare the replicas")
                        .hint("pause the guest, or give a longer --limit")
                        .object(format!("volume {}", volume.name));
                end(JobState::Failed, Some(report(Verdict::Busy, &taken)), Some(error))
            }
            Finding::Unsettled => {
                self.attempts.again(job.number);
                None
            }
            Finding::Missing(nodes) if late => {
                let error = ApiError::timed_out(format!("no digest came from: {}", nodes.join(", ")))
                    .hint(format!(
                        "`poolctl volume show {}` says how its replicas stand",
                        volume.name
                    ))
                    .object(format!("volume {}", volume.name));
                end(JobState::Failed, None, Some(error))
            }
            Finding::Missing(_) => None,
        }
    }
}

/// Whether a job is a verification at work.
pub fn is_verifying(job: &JobRecord) -> bool {
    job.kind == JobKind::Verify && !job.state.ended()
}

fn find(attempt: u64, taken: &[(String, Option<&Checksum>)]) -> Finding {
    let of_attempt =
        |checksum: &Option<&Checksum>| checksum.is_some_and(|checksum| checksum.attempt == attempt);
    let missing: Vec<String> = taken
        .iter()
        .filter(|(_, checksum)| !of_attempt(checksum))
        .map(|(node, _)| node.clone())
        .collect();
    if !missing.is_empty() {
        return Finding::Missing(missing);
    }
    let checksums: Vec<&Checksum> = taken.iter().filter_map(|(_, checksum)| *checksum).collect();
    let Some(first) = checksums.first() else {
        return Finding::Missing(Vec::new());
    };
    if checksums
        .iter()
        .any(|checksum| checksum.from_lsn != first.from_lsn || checksum.to_lsn != first.from_lsn)
    {
        return Finding::Unsettled;
    }
    let equal = checksums.iter().all(|checksum| checksum.digest == first.digest);
    Finding::Settled(if equal { Verdict::Equal } else { Verdict::Different })
}

fn report(verdict: Verdict, taken: &[(String, Option<&Checksum>)]) -> VerifyReport {
    let digest = |(node, checksum): &(String, Option<&Checksum>)| {
        checksum.map(|checksum| ReplicaDigest {
            node: node.clone(),
            digest: checksum.digest.clone(),
            from_lsn: checksum.from_lsn,
            to_lsn: checksum.to_lsn,
        })
    };
    VerifyReport {
        verdict,
        replicas: taken.iter().filter_map(digest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_count_only_at_the_same_quiet_position() {
        let sum = |attempt, digest: &str, from_lsn, to_lsn| Checksum {
            attempt,
            digest: digest.to_owned(),
            from_lsn,
            to_lsn,
        };
        let check = |a: Option<Checksum>, b: Option<Checksum>, want: Finding| {
            let taken = [("a".to_owned(), a.as_ref()), ("b".to_owned(), b.as_ref())];
            assert_eq!(find(7, &taken), want);
        };
        let good = || Some(sum(7, "x", 10, 10));
        check(good(), good(), Finding::Settled(Verdict::Equal));
        check(
            good(),
            Some(sum(7, "y", 10, 10)),
            Finding::Settled(Verdict::Different),
        );
        check(good(), Some(sum(7, "x", 9, 9)), Finding::Unsettled);
        check(good(), Some(sum(7, "x", 10, 11)), Finding::Unsettled);
        check(
            good(),
            Some(sum(6, "x", 10, 10)),
            Finding::Missing(vec!["b".to_owned()]),
        );
        check(None, good(), Finding::Missing(vec!["a".to_owned()]));
    }
}
