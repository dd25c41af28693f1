//! How does the catalog lie on disk? One redb file; a checksum on every record; nothing damaged is ever written to.
//!
//! Shape: table `records`: key → revision u64 | first 8 bytes of SHA-256 over key, revision and value | value;
//! table `meta`: `format` → 1, `revision` → newest revision. Integers little-endian.

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::store::{Change, Store, StoreError, Stored};

const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const HEAD_BYTES: usize = 16;

/// A store in one file.
pub struct FileStore {
    path: PathBuf,
    database: Database,
    revision: watch::Sender<u64>,
}

impl FileStore {
    /// A new, empty catalog. Errors: `Failed` when the file exists or cannot be made.
    pub fn create(path: &Path) -> Result<FileStore, StoreError> {
        let failed = |what: &dyn ToString| StoreError::Failed {
            path: path.to_owned(),
            what: what.to_string(),
        };
        if path.exists() {
            return Err(failed(
                &"the file exists already; move it away if it is not needed",
            ));
        }
        let database = Database::create(path).map_err(|error| failed(&error))?;
        let store = FileStore {
            path: path.to_owned(),
            database,
            revision: watch::Sender::new(0),
        };
        store.write(|meta, _| {
            meta.insert("format", FORMAT)?;
            meta.insert("revision", 0)?;
            Ok(Ok(()))
        })?;
        Ok(store)
    }

    /// Opens a catalog after every byte of it was found sound, on a copy, so that a damaged one stays as it is for
    /// whoever wants to save something from it. Errors: `Damaged`, or `Failed` when it cannot be read at all.
    pub fn open(path: &Path) -> Result<FileStore, StoreError> {
        let failed = |what: &dyn ToString| StoreError::Failed {
            path: path.to_owned(),
            what: what.to_string(),
        };
        let copy = path.with_extension("check");
        std::fs::copy(path, &copy).map_err(|error| failed(&error))?;
        // redb trusts pages whose checksum it has not looked at, and may panic on what they say; a panic while
        // looking at a copy is a finding like any other.
        let checked = std::panic::catch_unwind(|| check_copy(&copy, path));
        let removed = std::fs::remove_file(&copy);
        checked.unwrap_or_else(|_| {
            Err(StoreError::Damaged {
                path: path.to_owned(),
                what: "its pages make no sense".to_owned(),
            })
        })?;
        removed.map_err(|error| failed(&format!("{}: {error}", copy.display())))?;
        let database = Database::open(path).map_err(|error| sort(path, error))?;
        let store = FileStore {
            path: path.to_owned(),
            database,
            revision: watch::Sender::new(0),
        };
        let revision = store.newest()?;
        store.revision.send_replace(revision);
        Ok(store)
    }

    fn newest(&self) -> Result<u64, StoreError> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            Ok(meta.get("revision")?.map(|value| value.value()))
        };
        read()
            .map_err(|error| self.failed(&error))?
            .ok_or_else(|| self.damaged("it has no revision"))
    }

    fn failed(&self, what: &dyn ToString) -> StoreError {
        StoreError::Failed {
            path: self.path.clone(),
            what: what.to_string(),
        }
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn write<T>(
        &self,
        work: impl FnOnce(
            &mut redb::Table<'_, &'static str, u64>,
            &mut redb::Table<'_, &'static str, &'static [u8]>,
        ) -> Result<Result<T, StoreError>, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<Result<T, StoreError>, redb::Error> {
            let transaction = self.database.begin_write()?;
            let result = {
                let mut meta = transaction.open_table(META)?;
                let mut records = transaction.open_table(RECORDS)?;
                work(&mut meta, &mut records)?
            };
            match result {
                Ok(value) => {
                    transaction.commit()?;
                    Ok(Ok(value))
                }
                Err(error) => {
                    transaction.abort()?;
                    Ok(Err(error))
                }
            }
        };
        run().map_err(|error| self.failed(&error))?
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let transaction = self.database.begin_read()?;
            work(&transaction.open_table(RECORDS)?)
        };
        run().map_err(|error| self.failed(&error))
    }

    fn unpack(&self, key: &str, bytes: &[u8]) -> Result<Stored, StoreError> {
        unpack(key, bytes).ok_or_else(|| self.damaged(&format!("the checksum of record `{key}` is wrong")))
    }
}

impl Store for FileStore {
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let bytes = self.read(|table| Ok(table.get(key)?.map(|value| value.value().to_vec())))?;
        bytes.map(|bytes| self.unpack(key, &bytes)).transpose()
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        let rows = self.read(|table| {
            let mut rows = Vec::new();
            for row in table.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        let unpacked = rows
            .into_iter()
            .map(|(key, bytes)| Ok((key.clone(), self.unpack(&key, &bytes)?)));
        unpacked.collect()
    }

    fn commit(&self, changes: &[Change]) -> Result<u64, StoreError> {
        let revision = self.write(|meta, records| {
            let revision = meta.get("revision")?.map_or(0, |value| value.value()) + 1;
            for change in changes {
                let found = records
                    .get(change.key.as_str())?
                    .map(|value| unpack(&change.key, value.value()));
                let found = match found {
                    None => 0,
                    Some(Some(stored)) => stored.revision,
                    Some(None) => return Ok(Err(self.damaged(&format!("record `{}`", change.key)))),
                };
                if found != change.expected {
                    let (key, expected) = (change.key.clone(), change.expected);
                    return Ok(Err(StoreError::Conflict { key, expected, found }));
                }
                match &change.value {
                    Some(value) => {
                        records.insert(change.key.as_str(), pack(&change.key, revision, value).as_slice())?;
                    }
                    None => {
                        records.remove(change.key.as_str())?;
                    }
                }
            }
            meta.insert("revision", revision)?;
            Ok(Ok(revision))
        })?;
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

fn check_copy(copy: &Path, path: &Path) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged {
        path: path.to_owned(),
        what,
    };
    let mut database = Database::open(copy).map_err(|error| sort(path, error))?;
    let sound = database.check_integrity().map_err(|error| sort(path, error))?;
    if !sound {
        return Err(damaged("a checksum of its pages is wrong".to_owned()));
    }
    let read = || -> Result<Result<(), StoreError>, redb::Error> {
        let transaction = database.begin_read()?;
        let format = transaction
            .open_table(META)?
            .get("format")?
            .map(|value| value.value());
        if format != Some(FORMAT) {
            return Ok(Err(damaged(format!(
                "format {format:?} is not known to this poold, which reads {FORMAT}"
            ))));
        }
        for row in transaction.open_table(RECORDS)?.iter()? {
            let (key, value) = row?;
            if unpack(key.value(), value.value()).is_none() {
                return Ok(Err(damaged(format!(
                    "the checksum of record `{}` is wrong",
                    key.value()
                ))));
            }
        }
        Ok(Ok(()))
    };
    read().map_err(|error| damaged(error.to_string()))?
}

/// Tells a damaged file from one that another process holds or that may not be read.
fn sort(path: &Path, error: DatabaseError) -> StoreError {
    let what = error.to_string();
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Failed { path, what },
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Failed { path, what }
        }
        _ => StoreError::Damaged { path, what },
    }
}

fn sum(key: &str, revision: u64, value: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(revision.to_le_bytes());
    hash.update(value);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.finalize()[..8]);
    sum
}

fn pack(key: &str, revision: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + value.len());
    bytes.extend_from_slice(&revision.to_le_bytes());
    bytes.extend_from_slice(&sum(key, revision, value));
    bytes.extend_from_slice(value);
    bytes
}

fn unpack(key: &str, bytes: &[u8]) -> Option<Stored> {
    let (head, value) = bytes.split_at_checked(HEAD_BYTES)?;
    let (revision, written) = head.split_at(8);
    let revision = u64::from_le_bytes(revision.try_into().ok()?);
    (written == sum(key, revision, value)).then(|| Stored {
        revision,
        value: value.to_vec(),
    })
}
