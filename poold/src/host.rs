//! What is asked of one host directly, beside its steps? To make a directory ready for the pool, or foreign again.

use std::path::Path;

use api::ApiError;
use api::pool::agent::{PrepareVg, PreparedVg, ReleaseVg};

use crate::agent::dirvg::DirVg;

/// Makes a directory of this host a volume group, or checks that it could be one.
pub async fn prepare_vg(request: &PrepareVg) -> Result<PreparedVg, ApiError> {
    let request = request.clone();
    blocking(move || {
        let PrepareVg {
            name,
            path,
            size_bytes,
            dry_run,
        } = request;
        let size_bytes = DirVg::prepare(&name, Path::new(&path), size_bytes, dry_run)?;
        Ok(PreparedVg { size_bytes })
    })
    .await
}

/// Makes a directory of this host foreign again.
pub async fn release_vg(request: &ReleaseVg) -> Result<(), ApiError> {
    let request = request.clone();
    blocking(move || DirVg::release(&request.name, Path::new(&request.path), request.dry_run)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::failed(format!("the work broke off: {error}")))?
}
