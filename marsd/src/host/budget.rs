//! Who may keep how much log on this host? Each volume has a budget of its own, and the host may have one for all of them.
//!
//! The host's is divided anew each second, by what each volume uses: who uses little keeps it and may grow, and the largest
//! give up first. What nobody uses is lent to all. An operator's word holds over restarts and is stronger than the configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use api::control::{ControlErrorKind, Outcome};
use mars::{Command, Status};
use model::{Role, VolumeId};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Host, Reply, not_found, refuse};
use crate::run::VolumeHandle;

/// A volume's budget where nobody has said another.
pub(super) const LOG_BYTES_MAX: u64 = 1 << 30;

/// How often the host's budget is divided.
const DIVIDE_EVERY: Duration = Duration::from_secs(1);

/// A volume may always grow by so much at once, while there is room.
const STEP_BYTES: u64 = 64 << 20;

/// What one volume uses of the room for logs, and what it may at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    used: u64,
    most: u64,
}

/// The share of each volume: together no more than `all`, none more than its `most`.
///
/// Max-min fair, first over what each uses and a step more, then over what each may at most: nobody gets more by taking from one that
/// has less.
fn divide(all: u64, volumes: &[Use]) -> Vec<u64> {
    let near: Vec<u64> = volumes
        .iter()
        .map(|volume| volume.most.min(volume.used.saturating_add(STEP_BYTES)))
        .collect();
    let most: Vec<u64> = volumes.iter().map(|volume| volume.most).collect();
    let first = fill(all, &vec![0; volumes.len()], &near);
    let left = all - first.iter().sum::<u64>();
    fill(left, &first, &most)
}

/// Raises the lowest of `from` together, none above its place in `to`, until `left` is used up.
fn fill(mut left: u64, from: &[u64], to: &[u64]) -> Vec<u64> {
    let mut shares = from.to_vec();
    loop {
        let open: Vec<usize> = (0..shares.len()).filter(|i| shares[*i] < to[*i]).collect();
        let Some(lowest) = open.iter().map(|i| shares[*i]).min() else {
            return shares;
        };
        let rising: Vec<usize> = open.iter().copied().filter(|i| shares[*i] == lowest).collect();
        // Up to the next that rises with them, or to the first that has enough.
        let next = open
            .iter()
            .map(|i| shares[*i])
            .filter(|share| *share > lowest)
            .min();
        let stop = rising.iter().map(|i| to[*i]).chain(next).min().unwrap_or(lowest);
        let each = (stop - lowest).min(left / rising.len() as u64);
        if each == 0 {
            return shares;
        }
        for i in &rising {
            shares[*i] += each;
        }
        left -= each * rising.len() as u64;
    }
}

/// Whether a share is worth being told: not every byte.
fn is_news(before: Option<u64>, share: u64) -> bool {
    before.is_none_or(|before| before.abs_diff(share) > before / 16)
}

/// Ends the division when dropped.
#[derive(Debug)]
pub(super) struct Division(JoinHandle<()>);

impl Drop for Division {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Host {
    /// Divides the host's budget from now on.
    pub(super) fn start_division(self: &Arc<Host>) {
        let host: Weak<Host> = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(DIVIDE_EVERY);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                let Some(host) = host.upgrade() else { return };
                host.divide_room().await;
            }
        });
        self.budget().division = Some(Division(task));
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's budget, if it has one.
    pub(super) fn log_budget(&self) -> Option<u64> {
        self.limits().log_bytes_max.or(self.config.log_bytes_max)
    }

    /// Sets the budget of one volume's log here, or (`None`) the usual one.
    pub(super) async fn set_log_budget(&self, id: VolumeId, log_bytes_max: Option<u64>) -> Reply<Outcome> {
        let _changing = self.changing.lock().await;
        {
            let mut volumes = self.volumes();
            let Some(volume) = volumes.get_mut(&id) else {
                return not_found(id);
            };
            let mut spec = volume.spec.clone();
            let Some(replica) = &mut spec.replica else {
                return refuse(
                    ControlErrorKind::NotFound,
                    format!("volume {} has no replica on this host", volume.spec.name),
                );
            };
            replica.log_bytes_max = log_bytes_max;
            self.save(id, &spec)?;
            volume.spec = spec;
        }
        info!(volume = %id, log_bytes_max, "budget of a log");
        self.divide_room().await;
        Ok(Outcome::Done)
    }

    /// Tells every volume its share.
    pub(super) async fn divide_room(&self) {
        let volumes: Vec<(VolumeId, VolumeHandle, u64)> = self
            .volumes()
            .iter()
            .filter_map(|(id, volume)| {
                let most = volume.spec.replica.as_ref()?.log_bytes_max;
                Some((*id, volume.handle()?.clone(), most.unwrap_or(LOG_BYTES_MAX)))
            })
            .collect();
        let shares = match self.log_budget() {
            Some(all) => {
                let mut uses = Vec::with_capacity(volumes.len());
                for (_, handle, most) in &volumes {
                    let used = handle.status().await.map_or(0, |status| status.log_bytes);
                    uses.push(Use { used, most: *most });
                }
                divide(all, &uses)
            }
            // Nothing is shared, so nobody need be asked what it uses.
            None => volumes.iter().map(|(_, _, most)| *most).collect(),
        };
        let told = std::mem::take(&mut self.budget().told);
        let mut now_told = BTreeMap::new();
        for ((id, handle, _), bytes) in volumes.into_iter().zip(shares) {
            let before = told.get(&id).copied();
            if !is_news(before, bytes) {
                now_told.extend(before.map(|before| (id, before)));
                continue;
            }
            match handle.command(Command::SetLogBudget { bytes }).await {
                Ok(_) => drop(now_told.insert(id, bytes)),
                // It is asked again.
                Err(error) => {
                    warn!(volume = %id, %error, "cannot tell a volume its share of the room for logs")
                }
            }
        }
        self.budget().told = now_told;
    }

    /// A replica that starts knows nothing of its share yet.
    pub(super) fn forget_share(&self, id: VolumeId) {
        self.budget().told.remove(&id);
    }
}

/// What the host remembers of budgets.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Each volume's share, as it was told.
    told: BTreeMap<VolumeId, u64>,
    division: Option<Division>,
}

/// Who holds the oldest part of a log, in words; nobody, where there is none.
pub(super) fn held_by(status: &Status) -> Option<String> {
    (status.log_bytes > 0 && status.role == Role::Primary).then(|| status.log_held_by.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1 << 30;

    fn check(all: u64, volumes: &[(u64, u64)], want: &[u64]) {
        let uses: Vec<Use> = volumes
            .iter()
            .map(|(used, most)| Use {
                used: *used,
                most: *most,
            })
            .collect();
        let shares = divide(all, &uses);
        assert!(shares.iter().sum::<u64>() <= all, "{shares:?}");
        let near = |share: &u64, want: &u64| share.abs_diff(*want) <= volumes.len() as u64;
        assert!(
            shares.iter().zip(want).all(|(share, want)| near(share, want)),
            "{shares:?}, not {want:?}"
        );
    }

    #[test]
    fn with_enough_for_all_everybody_gets_what_it_may_have() {
        check(
            24 * G,
            &[(0, 8 * G), (8 * G, 8 * G), (20 * G, 8 * G)],
            &[8 * G; 3],
        );
        check(0, &[], &[]);
        check(0, &[(0, G), (G, G)], &[0, 0]);
    }

    #[test]
    fn who_uses_little_keeps_it_and_the_largest_give_up_first() {
        // Two large ones share what the small one leaves.
        let small = STEP_BYTES;
        let large = (2 * G - small) / 2;
        check(
            2 * G,
            &[(0, 8 * G), (4 * G, 8 * G), (9 * G, 8 * G)],
            &[small, large, large],
        );
        // What nobody uses is lent, to those who have least first.
        check(4 * G, &[(0, 8 * G), (0, 8 * G)], &[2 * G, 2 * G]);
        check(4 * G, &[(0, G), (0, 8 * G)], &[G, 3 * G]);
        let three = 3 * G + STEP_BYTES;
        check(4 * G, &[(3 * G, 8 * G), (0, 8 * G)], &[three, 4 * G - three]);
    }

    #[test]
    fn a_share_that_has_hardly_changed_is_no_news() {
        assert!(is_news(None, 0) && is_news(Some(16 * G), 14 * G) && is_news(Some(0), 1));
        assert!(!is_news(Some(16 * G), 15 * G) && !is_news(Some(G), G));
    }
}
