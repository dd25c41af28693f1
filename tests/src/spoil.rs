//! How is a file below damaged? By bits that turn over, where a test wants them.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bench::cluster::{Cluster, Host, text};

/// The newest file of the volume's log on a host.
pub fn log_end(cluster: &Cluster, host: &Host, volume: &str) -> PathBuf {
    let id = text(&cluster.volume(volume)["id"]).to_owned();
    let mut found = files(&host.marsd_dir(), &|name| name.starts_with("log-"));
    found.retain(|path| path.to_str().is_some_and(|path| path.contains(&id)));
    found.sort();
    found.pop().expect("the volume has a log")
}

/// Files below a directory whose names are wanted.
pub fn files(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if name.is_some_and(wanted) {
            found.push(path);
        }
    }
    found
}

/// Turns over one bit in every `every` bytes of `file` from `begin` to `end`.
pub fn flip_bits(file: &Path, begin: u64, end: u64, every: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    for at in (begin..end).step_by(every as usize) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 0x10;
        file.write_all_at(&byte, at).unwrap();
    }
    file.sync_all().unwrap();
}
