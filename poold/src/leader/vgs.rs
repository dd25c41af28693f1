//! Which volume groups belong to the pool? Each is made ready by its own host before the catalog knows it.

use std::sync::Arc;

use api::pool::agent::{PrepareVg, ReleaseVg};
use api::pool::{AddVg, Changed, LvmLayout, RemoveVg, VgKind};
use api::{ApiError, Client};

use super::Leader;
use super::thin::{checked_percent, warning};
use crate::catalog::records::{NodeRecord, VgRecord};
use crate::{host, tls};

impl Leader {
    /// `vg add`, asked on behalf of node `asking`.
    pub async fn vg_add(&self, request: &AddVg, asking: &str) -> Result<Changed, ApiError> {
        let node = request.node.as_deref().unwrap_or(asking);
        let object = format!("volume group {}", request.name);
        model::VolumeName::new(&request.name)
            .map_err(|error| ApiError::usage(error.to_string()).object(object.clone()))?;
        let records = self.catalog.records();
        let record = records.node(node)?;
        let (kind, path) = match &request.dir {
            Some(dir) => (VgKind::Directory, dir.clone()),
            None => (VgKind::Lvm, format!("/dev/{}", request.name)),
        };
        let layout = &request.layout;
        if kind == VgKind::Directory && *layout != LvmLayout::default() {
            return Err(ApiError::usage(
                "a directory has neither a thin pool nor stripes: its files are sparse anyway",
            )
            .hint("leave out `--dir` for the LVM group of that name, or `--thin-pool` and `--stripes`")
            .object(object));
        }
        let taken = |vg: &&VgRecord| vg.node == node && (vg.name == request.name || vg.path == path);
        if let Some(vg) = records.vgs.iter().find(taken) {
            let message = format!(
                "node {node} has the volume group `{}` in {} already",
                vg.name, vg.path
            );
            return Err(ApiError::refused(message)
                .hint("`poolctl vg list` shows all groups")
                .object(object));
        }
        let overcommit_percent =
            checked_percent(request.overcommit_percent).map_err(|error| error.object(object.clone()))?;
        let prepare = PrepareVg {
            name: request.name.clone(),
            kind,
            path: path.clone(),
            layout: layout.clone(),
            size_bytes: request.size_bytes,
            dry_run: request.dry_run,
        };
        let prepared = match self.client_of(record)? {
            None => host::prepare_vg(&prepare).await,
            Some(client) => client.vg_prepare(&prepare).await,
        };
        let size_bytes = prepared.map_err(|error| error.object(object.clone()))?.size_bytes;
        let group = VgRecord {
            node: node.to_owned(),
            name: request.name.clone(),
            kind,
            path: path.clone(),
            layout: layout.clone(),
            size_bytes,
            overcommit_percent,
        };
        let warning = warning(&group);
        self.change(request.dry_run, |tx| {
            tx.records.node(node)?;
            tx.put(group)?;
            tx.event(
                format!("node {node}"),
                format!("gives the volume group {} to the pool", request.name),
            )
        })?;
        let mut steps = vec![format!(
            "{} on node {node} takes up to {}",
            path,
            model::Bytes(size_bytes)
        )];
        steps.extend(warning);
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation: 0,
            steps,
            job: None,
            loss: None,
        })
    }

    /// `vg remove`, asked on behalf of node `asking`.
    pub async fn vg_remove(&self, name: &str, request: &RemoveVg, asking: &str) -> Result<Changed, ApiError> {
        let node = request.node.as_deref().unwrap_or(asking);
        let object = format!("volume group {name}");
        let records = self.catalog.records();
        let record = records.node(node)?;
        let vg = records.vg(node, name).ok_or_else(|| {
            ApiError::not_found(format!("node {node} has no volume group `{name}`"))
                .hint("`poolctl vg list` shows all groups; `--node` names the host")
                .object(object.clone())
        })?;
        let check = |volumes: &crate::catalog::Table<crate::catalog::records::VolumeRecord>| {
            let uses = volumes.iter().filter(|volume| {
                volume
                    .members
                    .iter()
                    .chain(&volume.leaving)
                    .any(|place| place.node == node && place.vg == name)
            });
            let uses: Vec<&str> = uses.map(|volume| volume.name.as_str()).collect();
            if uses.is_empty() {
                return Ok(());
            }
            let message = format!(
                "the volume group `{name}` on node {node} holds replicas of: {}",
                uses.join(", ")
            );
            let hint = format!("move them first: `poolctl migrate VOLUME --from {node} --to NODE`");
            Err(ApiError::refused(message).hint(hint).object(object.clone()))
        };
        check(&records.volumes)?;
        let release = ReleaseVg {
            name: name.to_owned(),
            kind: vg.kind,
            path: vg.path.clone(),
            dry_run: request.dry_run,
        };
        match self.client_of(record)? {
            None => host::release_vg(&release).await?,
            Some(client) => client.vg_release(&release).await.map(|_| ())?,
        }
        self.change(request.dry_run, |tx| {
            check(&tx.records.volumes)?;
            tx.remove::<VgRecord>(&format!("{node}/{name}"));
            tx.event(
                format!("node {node}"),
                format!("takes the volume group {name} out of the pool"),
            )
        })?;
        let steps = vec![format!(
            "{} on node {node} no longer belongs to the pool",
            vg.path
        )];
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation: 0,
            steps,
            job: None,
            loss: None,
        })
    }

    /// How to ask the daemon of a host; `None` for this one.
    fn client_of(&self, node: &NodeRecord) -> Result<Option<Client>, ApiError> {
        if node.name == self.node {
            return Ok(None);
        }
        let config = Arc::new(tls::client_config(&self.credentials)?);
        Client::tls(&node.address, &node.name, config).map(Some)
    }
}
