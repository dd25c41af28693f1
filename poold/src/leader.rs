//! What does the daemon do that holds the catalog? Takes wishes, hands out steps, tells how everything stands.
//!
//! Requests change the catalog and nothing else; [`reconcile`] does the rest. One task reconciles, so steps and jobs
//! are decided in one place.

pub mod doors;
pub mod drain;
pub mod errands;
pub mod jobs;
pub mod limits;
pub mod nodes;
pub mod orders;
pub mod reboot;
pub mod reconcile;
mod resize;
mod restore;
pub mod roles;
pub mod settings;
mod snapshots;
pub mod source;
pub mod split;
mod thin;
pub mod verify;
pub mod vgs;
pub mod view;
pub mod volumes;
pub mod watching;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::ApiError;
use api::pool::agent::{Report, Steps};
use tokio::sync::watch;

use crate::catalog::{Catalog, Tx};
use crate::inventory::Inventory;
use crate::tls::{Authority, Credentials};
use jobs::Board;
use reconcile::Handout;

/// Longest time that a request may ask to wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The holder of the catalog.
pub struct Leader {
    /// Its own node's name.
    pub node: String,
    /// Where the other hosts reach it.
    pub address: String,
    /// What should be.
    pub catalog: Catalog,
    /// What is.
    pub inventory: Inventory,
    authority: Authority,
    credentials: Credentials,
    /// Counts changes of the catalog and of the inventory.
    changed: watch::Sender<u64>,
    handout: watch::Sender<Arc<Handout>>,
    board: watch::Sender<Arc<Board>>,
}

impl Leader {
    /// The leader over a catalog; reconciles once [`Leader::run`] is polled.
    pub fn new(
        node: &str,
        address: &str,
        catalog: Catalog,
        authority: Authority,
        credentials: Credentials,
    ) -> Leader {
        Leader {
            node: node.to_owned(),
            address: address.to_owned(),
            catalog,
            inventory: Inventory::default(),
            authority,
            credentials,
            changed: watch::Sender::new(0),
            handout: watch::Sender::new(Arc::new(Handout::first())),
            board: watch::Sender::new(Arc::default()),
        }
    }

    /// Changes the catalog and wakes the reconciling task. Errors: those of `work`; nothing is changed then.
    pub fn change<T>(
        &self,
        dry_run: bool,
        work: impl FnOnce(&mut Tx) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let answer = blocking(|| self.catalog.change(dry_run, work))?;
        if !dry_run {
            self.wake();
        }
        Ok(answer)
    }

    /// Steps for a node once their revision is not `after`, or after `wait`.
    pub async fn agent_steps(&self, node: &str, after: u64, wait: Duration) -> Result<Steps, ApiError> {
        self.catalog.records().node(node)?;
        let mut handout = self.handout.subscribe();
        let newer = handout.wait_for(|handout| handout.revision(node) != after);
        // Nothing new is an answer too; the sender lives as long as `self`.
        let _ = tokio::time::timeout(wait.min(WAIT_MAX), newer).await;
        let steps = self.handout.borrow().steps(node);
        Ok(steps)
    }

    /// Takes a node's report.
    pub fn agent_report(&self, node: &str, report: Report) -> Result<(), ApiError> {
        let before = self.catalog.records().node(node)?.clone();
        let moved = !report.address.is_empty()
            && (&before.address, &before.peer_address) != (&report.address, &report.peer_address);
        if moved {
            self.note_address(node, &report)?;
        }
        self.inventory.report(node, report, Instant::now());
        self.wake();
        Ok(())
    }

    /// A host's own configuration decides where it is reached; its peers hear of it with their next steps.
    fn note_address(&self, node: &str, report: &Report) -> Result<(), ApiError> {
        let (address, peer_address) = (report.address.clone(), report.peer_address.clone());
        nodes::check_address(&address)?;
        nodes::check_address(&peer_address)?;
        self.change(false, |tx| {
            let mut record = tx.records.node(node)?.clone();
            tx.event(
                format!("node {node}"),
                format!("is reached at {address} now, its marsd at {peer_address}"),
            )?;
            (record.address, record.peer_address) = (address, peer_address);
            tx.put(record)
        })
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Runs work that waits for a disk without holding up the other tasks of this thread.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
