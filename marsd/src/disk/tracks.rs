//! How is it kept what peers lack? One small file per peer beside the meta, replaced atomically.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use model::NodeId;

use crate::persist;

const PREFIX: &str = "track-";

/// What is written aside ends otherwise.
const SUFFIX: &str = ".map";

/// Longer files were not written by us.
const BYTES_MAX: u64 = 1 << 20;

/// The files of one replica.
pub(crate) struct TrackFiles {
    directory: PathBuf,
}

impl TrackFiles {
    /// The files in `directory`, which holds the replica's meta.
    pub fn in_directory(directory: PathBuf) -> TrackFiles {
        TrackFiles { directory }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn file(&self, peer: &NodeId) -> PathBuf {
        self.directory.join(format!("{PREFIX}{peer}{SUFFIX}"))
    }

    /// Replaces what is kept of `peer`, durably.
    pub fn save(&self, peer: &NodeId, track: &[u8]) -> io::Result<()> {
        persist::create_atomically(&self.file(peer), track).map(drop)
    }

    /// Removes what is kept of `peer`, durably: one that came back after a power cut would lack what changed since.
    pub fn remove(&self, peer: &NodeId) -> io::Result<()> {
        match std::fs::remove_file(self.file(peer)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => persist::sync_directory(&self.directory),
        }
    }

    /// Removes all of them, durably: they belonged to a replica that is no more.
    pub fn clear(&self) -> io::Result<()> {
        let peers = self.peers()?;
        peers.iter().try_for_each(|peer| self.remove(peer))
    }

    /// Everything kept, with whom it is about.
    pub fn load(&self) -> io::Result<Vec<(NodeId, Bytes)>> {
        let mut tracks = Vec::new();
        for peer in self.peers()? {
            let path = self.file(&peer);
            let track = match std::fs::metadata(&path)?.len() {
                // Damage: the engine finds that it is no track, and has it removed.
                length if length > BYTES_MAX => Bytes::new(),
                _ => Bytes::from(std::fs::read(&path)?),
            };
            tracks.push((peer, track));
        }
        Ok(tracks)
    }

    fn peers(&self) -> io::Result<Vec<NodeId>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut peers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let peer = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            peers.extend(peer.and_then(|peer| NodeId::new(peer).ok()));
        }
        peers.sort();
        Ok(peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn what_was_saved_last_is_loaded_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = TrackFiles::in_directory(dir.path().to_owned());
        assert_eq!(files.load().unwrap(), []);
        files.save(&node("b"), b"one").unwrap();
        files.save(&node("a"), b"other").unwrap();
        files.save(&node("b"), b"two").unwrap();
        std::fs::write(dir.path().join("meta"), b"no track").unwrap();
        let (a, b) = ((node("a"), Bytes::from("other")), (node("b"), Bytes::from("two")));
        assert_eq!(files.load().unwrap(), [a, b.clone()]);
        files.remove(&node("a")).unwrap();
        files.remove(&node("a")).unwrap();
        assert_eq!(files.load().unwrap(), [b]);
        files.clear().unwrap();
        assert_eq!(files.load().unwrap(), []);
    }
}
