//! What is asked of one host directly, beside its steps? To make a directory or an LVM group ready for the pool, or foreign again.

use std::path::Path;

use api::ApiError;
use api::pool::VgKind;
use api::pool::agent::{PrepareVg, PreparedVg, ReleaseVg};

use crate::agent::dirvg::DirVg;
use crate::agent::lvm::LvmVg;

/// Makes a directory or an LVM group of this host a volume group of the pool, or checks that it could be one.
pub async fn prepare_vg(request: &PrepareVg) -> Result<PreparedVg, ApiError> {
    let PrepareVg {
        name,
        kind,
        path,
        layout,
        size_bytes,
        dry_run,
    } = request.clone();
    blocking(move || {
        let size_bytes = match kind {
            VgKind::Directory => DirVg::prepare(&name, Path::new(&path), size_bytes, dry_run),
            VgKind::Lvm => LvmVg::prepare(&name, &layout, size_bytes, dry_run),
        }?;
        Ok(PreparedVg { size_bytes })
    })
    .await
}

/// Makes it foreign again.
pub async fn release_vg(request: &ReleaseVg) -> Result<(), ApiError> {
    let ReleaseVg {
        name,
        kind,
        path,
        dry_run,
    } = request.clone();
    blocking(move || match kind {
        VgKind::Directory => DirVg::release(&name, Path::new(&path), dry_run),
        VgKind::Lvm => LvmVg::release(&name, dry_run),
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::failed(format!("the work broke off: {error}")))?
}
