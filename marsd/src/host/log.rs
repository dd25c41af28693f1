//! What can be done about the log of a volume on this host? Another file for it, and giving back what nobody needs.

use api::control::{ControlErrorKind, Outcome};
use mars::Command;
use model::VolumeId;

use super::{Host, Reply, answered, failed, refuse};
use crate::disk::LogFiles;
use crate::run::VolumeHandle;

impl Host {
    pub(super) async fn rotate_log(&self, id: VolumeId) -> Reply<Outcome> {
        let handle = self.replica_handle(id)?;
        let files = files(&handle, true).await?;
        outcome(&handle, files, files).await
    }

    pub(super) async fn trim_log(&self, id: VolumeId) -> Reply<Outcome> {
        let handle = self.replica_handle(id)?;
        let before = files(&handle, false).await?;
        // What is at the end of a file can be given back only with the file.
        files(&handle, true).await?;
        answered(handle.command(Command::TrimLog).await)?;
        let after = files(&handle, false).await?;
        outcome(&handle, before, after).await
    }
}

async fn files(handle: &VolumeHandle, rotate: bool) -> Reply<LogFiles> {
    match handle.log_files(rotate).await {
        Some(files) => files.map_err(|error| failed("look after the log's files", &error)),
        None => stopped(),
    }
}

async fn outcome(handle: &VolumeHandle, before: LogFiles, after: LogFiles) -> Reply<Outcome> {
    let Some(status) = handle.status().await else {
        return stopped();
    };
    Ok(Outcome::Log {
        files: after.count,
        bytes: after.bytes,
        given_back_bytes: before.bytes.saturating_sub(after.bytes),
        held_by: status.log_held_by.to_string(),
    })
}

fn stopped<T>() -> Reply<T> {
    refuse(ControlErrorKind::Busy, "the volume is being stopped; ask again")
}
