//! How does a small file change so that a crash leaves the old or the new one? Write aside, sync, rename, sync.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts a file with these contents at `path`, durably, in place of what was there; only its owner may read it.
///
/// Errors: as the system says; then the old file is as it was. The caller knows the path.
pub(crate) fn create_atomically(path: &Path, contents: &[u8]) -> io::Result<File> {
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    sync_directory(directory)?;
    Ok(file)
}

/// Makes names created in or removed from a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory with its parents, durably: each new name in its parent.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        if !parent.as_os_str().is_empty() {
            create_directory(parent)?;
        }
        match std::fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
        if !parent.as_os_str().is_empty() {
            sync_directory(parent)?;
        }
    }
    Ok(())
}
