//! How does a guest get in? Doors are wishes too; whoever asks for one waits until it is open, or it is not wanted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::ApiError;
use api::pool::{Attach, Attached, Changed, Detach, DoorKind};
use migrate::desired::{Door, DoorAt};
use migrate::plan::same_door;
use model::NodeId;

use super::Leader;
use super::jobs::refusal;
use super::volumes::desired;
use crate::catalog::Tx;
use crate::catalog::records::{VolumeRecord, kind_desired};
use crate::inventory::{door_seen, opens_door};

/// How long a door may take to open or close.
const DOOR_PATIENCE: Duration = Duration::from_secs(30);

impl Leader {
    /// `volume attach`.
    pub async fn volume_attach(&self, name: &str, request: &Attach) -> Result<Attached, ApiError> {
        let object = format!("volume {name}");
        let about = |error: ApiError| error.object(object.clone());
        let at = door_at(request).map_err(about)?;
        let snapshot = self.inventory.snapshot();
        let (door, generation, remote) = self.change(request.dry_run, |tx| {
            let mut volume = tx.records.volume(name)?.clone();
            let now = Instant::now();
            let primary = snapshot.primary(&volume.id, now).map(|(node, _)| node.to_owned());
            let host = request
                .node
                .clone()
                .or(primary)
                .unwrap_or_else(|| volume.primary.clone());
            tx.records.node(&host)?;
            if let Err(blind) = snapshot.marsd(&host, now) {
                return Err(about(
                    ApiError::refused(format!("node {host} cannot open a door: it {blind}"))
                        .hint("choose another --node, or bring it back first"),
                ));
            }
            let node = NodeId::new(&host).map_err(|error| ApiError::usage(error.to_string()))?;
            let before = desired(&volume)?;
            let door = Door {
                node,
                kind: kind_desired(request.door),
                at: at.clone(),
                read_only: request.read_only,
            };
            let remote = !before.has_member(&door.node);
            if !before.doors.contains(&door) {
                let mut doors = before.doors.clone();
                // The same place with another access is not a second door.
                if doors.iter().any(|other| same_place(other, &door)) {
                    let message = format!("another door is open at the same place on node {host}");
                    let hint = format!("`poolctl volume detach {name} --node {host}` first");
                    return Err(about(ApiError::refused(message).hint(hint)));
                }
                doors.push(door.clone());
                let next = before.with_doors(doors).map_err(|error| refusal(&error, name))?;
                volume.set(&next);
                tx.event(&object, format!("a door on node {host} is wanted"))?;
                tx.put(volume.clone())?;
            }
            Ok((door, volume.generation, remote))
        })?;
        let attached = |path: &str, uri: &str| Attached {
            volume: name.to_owned(),
            node: door.node.to_string(),
            kind: request.door,
            path: path.to_owned(),
            uri: uri.to_owned(),
            remote,
            dry_run: request.dry_run,
        };
        if request.dry_run {
            return Ok(attached("", ""));
        }
        match self.wait_for_door(name, &door, generation).await {
            Ok((path, uri)) => Ok(attached(&path, &uri)),
            Err(error) => {
                // A door that could not be opened is no longer wanted: the request changed nothing.
                self.change(false, |tx| {
                    drop_doors(tx, name, |other| *other == door).map(|_| ())
                })?;
                Err(about(error))
            }
        }
    }

    async fn wait_for_door(
        &self,
        name: &str,
        door: &Door,
        generation: u64,
    ) -> Result<(String, String), ApiError> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + DOOR_PATIENCE;
        loop {
            changed.mark_unchanged();
            let records = self.catalog.records();
            let volume = records.volume(name)?;
            let wanted = desired(volume)?;
            let snapshot = self.inventory.snapshot();
            let known = snapshot.volume(door.node.as_str(), &volume.id, Instant::now());
            let open = known.and_then(|known| {
                known
                    .doors
                    .iter()
                    .find(|open| same_door(door, &door_seen(&door.node, &open.door), &wanted))
            });
            if let Some(open) = open {
                return Ok((open.path.clone(), open.uri.clone()));
            }
            let trouble = snapshot.troubles.get(&(volume.id.clone(), door.node.to_string()));
            if let Some(trouble) =
                trouble.filter(|trouble| trouble.step.generation >= generation && opens_door(&trouble.step))
            {
                let message = format!(
                    "the door cannot be opened on node {}: {}",
                    door.node, trouble.error
                );
                return Err(
                    ApiError::new(trouble.error.kind, message).hint("choose another place for the door")
                );
            }
            if tokio::time::timeout_at(deadline, changed.changed())
                .await
                .is_err()
            {
                let why = trouble
                    .map(|trouble| format!(": {}", trouble.error))
                    .unwrap_or_default();
                let message = format!(
                    "the door on node {} did not open within {DOOR_PATIENCE:?}{why}",
                    door.node
                );
                return Err(ApiError::timed_out(message).hint(format!(
                    "`poolctl volume show {name}` says how its replicas stand"
                )));
            }
        }
    }

    /// `volume detach`.
    pub async fn volume_detach(&self, name: &str, request: &Detach) -> Result<Changed, ApiError> {
        let object = format!("volume {name}");
        let chosen = |door: &Door| {
            request
                .node
                .as_ref()
                .is_none_or(|node| door.node.as_str() == node)
        };
        let (closing, generation) = self.change(request.dry_run, |tx| {
            if let Some(node) = &request.node {
                tx.records.node(node)?;
            }
            let (closing, volume) = drop_doors(tx, name, chosen)?;
            if !closing.is_empty() {
                tx.event(&object, format!("{} doors are to be closed", closing.len()))?;
            }
            Ok((closing, volume.generation))
        })?;
        let steps = closing
            .iter()
            .map(|door| format!("the door on node {} is closed", door.node))
            .collect();
        if !request.dry_run {
            self.wait_for_closing(name, &chosen).await?;
        }
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation,
            steps,
            job: None,
            loss: None,
        })
    }

    async fn wait_for_closing(&self, name: &str, chosen: &impl Fn(&Door) -> bool) -> Result<(), ApiError> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + DOOR_PATIENCE;
        loop {
            changed.mark_unchanged();
            let records = self.catalog.records();
            let volume = records.volume(name)?;
            let snapshot = self.inventory.snapshot();
            let still_open = records.nodes.iter().find(|node| {
                let (Ok(id), Some(known)) = (
                    NodeId::new(&node.name),
                    snapshot.volume(&node.name, &volume.id, Instant::now()),
                ) else {
                    return false;
                };
                known.doors.iter().any(|door| chosen(&door_seen(&id, &door.door)))
            });
            let Some(node) = still_open else { return Ok(()) };
            if tokio::time::timeout_at(deadline, changed.changed())
                .await
                .is_err()
            {
                let message = format!(
                    "the door on node {} did not close within {DOOR_PATIENCE:?}",
                    node.name
                );
                return Err(ApiError::timed_out(message)
                    .hint("it is no longer wanted and will be closed as soon as its node can")
                    .object(format!("volume {name}")));
            }
        }
    }
}

/// Whether one of them is in the other's way; the default sockets of different kinds are not.
fn same_place(one: &Door, other: &Door) -> bool {
    let kinds = one.at != DoorAt::UnixDefault || one.kind == other.kind;
    kinds && one.node == other.node && one.at == other.at
}

fn drop_doors(
    tx: &mut Tx,
    name: &str,
    chosen: impl Fn(&Door) -> bool,
) -> Result<(Vec<Door>, VolumeRecord), ApiError> {
    let mut volume = tx.records.volume(name)?.clone();
    let before = desired(&volume)?;
    let (closing, staying): (Vec<Door>, Vec<Door>) = before.doors.iter().cloned().partition(chosen);
    if !closing.is_empty() {
        let next = before
            .with_doors(staying)
            .map_err(|error| refusal(&error, name))?;
        volume.set(&next);
        tx.put(volume.clone())?;
    }
    Ok((closing, volume))
}

fn door_at(request: &Attach) -> Result<DoorAt, ApiError> {
    match (&request.tcp, &request.path) {
        (None, None) => Ok(DoorAt::UnixDefault),
        (Some(_), _) if request.door == DoorKind::VhostUserBlk => Err(ApiError::usage(
            "a vhost-user-blk door shares the guest's memory, which TCP cannot do",
        )
        .hint("leave --tcp out; on other hosts, open a door of their own: `--node`")),
        (Some(_), Some(_)) => {
            Err(ApiError::usage("a door has either a TCP address or a path").hint("give --tcp or --path"))
        }
        (None, Some(path)) if path.starts_with('/') => Ok(DoorAt::Unix(path.clone())),
        (None, Some(path)) => {
            Err(ApiError::usage(format!("`{path}` is not an absolute path"))
                .hint("give the path from `/` on"))
        }
        (Some(addr), None) => {
            let parsed: SocketAddr = addr.parse().map_err(|_| {
                ApiError::usage(format!("`{addr}` is not a TCP address"))
                    .hint("write it as in 127.0.0.1:10809")
            })?;
            if !parsed.ip().is_loopback() {
                return Err(ApiError::refused(format!(
                    "`{addr}` can be reached from other hosts, in plain text"
                ))
                .hint("use a loopback address; other hosts get a door of their own: `--node`"));
            }
            Ok(DoorAt::Tcp(addr.clone()))
        }
    }
}
