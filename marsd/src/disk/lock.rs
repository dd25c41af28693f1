//! Is somebody else using this? Advisory locks that end with the process that holds them.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Takes the exclusive lock of an open file; it lasts as long as the file is open.
///
/// Errors: `ResourceBusy` when another process (or another part of this one) holds it.
pub(crate) fn lock(file: &File, path: &Path) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "{} is in use by another marsd; stop that one first",
                path.display()
            ),
        ),
        errno => io::Error::new(
            io::Error::from(errno).kind(),
            format!("lock {}: {errno}", path.display()),
        ),
    })
}

/// Opens (and creates) the file at `path` and takes its lock.
pub(crate) fn lock_path(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(|e| io::Error::new(e.kind(), format!("open {}: {e}", path.display())))?;
    lock(&file, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock_path(&path).unwrap();
        assert_eq!(lock_path(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        lock_path(&path).unwrap();
    }
}
