//! What must a store be able to do to hold the catalog? Get, list, and change several keys at once or not at all.

use std::path::PathBuf;

/// A value and the revision of the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Grows with every commit; 0 stands for "absent".
    pub revision: u64,
    /// The value.
    pub value: Vec<u8>,
}

/// One change of a commit; done only if the key's revision is the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Revision that the key must have; 0: it must be absent.
    pub expected: u64,
    /// The new value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

/// Why a store did not do as asked; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the key meanwhile.
    #[error("the record `{key}` was changed by somebody else (revision {found}, expected {expected})")]
    Conflict {
        /// The key.
        key: String,
        /// As the change expected it.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// What lies there is no catalog, or no longer one.
    #[error("the catalog {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The system below failed.
    #[error("the catalog {} cannot be used: {what}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What failed.
        what: String,
    },
}

/// A place for the catalog. Calls may block for as long as a disk needs.
pub trait Store: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError>;

    /// All keys that begin with `prefix`, in order.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError>;

    /// All changes or none; durable when it returns. The answer is the revision that the changed keys have now.
    fn commit(&self, changes: &[Change]) -> Result<u64, StoreError>;

    /// Tells the newest revision, and every later one.
    fn watch(&self) -> tokio::sync::watch::Receiver<u64>;
}
