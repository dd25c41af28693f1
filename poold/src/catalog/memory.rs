//! How does a catalog live without a disk? In a map; for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::store::{Change, Store, StoreError, Stored};

/// A store that ends with the process.
pub struct MemoryStore {
    records: Mutex<BTreeMap<String, Stored>>,
    revision: watch::Sender<u64>,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore {
            records: Mutex::default(),
            revision: watch::Sender::new(0),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let range = records
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        Ok(range.map(|(key, stored)| (key.clone(), stored.clone())).collect())
    }

    fn commit(&self, changes: &[Change]) -> Result<u64, StoreError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let found = records.get(&change.key).map_or(0, |stored| stored.revision);
            if found != change.expected {
                let (key, expected) = (change.key.clone(), change.expected);
                return Err(StoreError::Conflict { key, expected, found });
            }
        }
        let revision = *self.revision.borrow() + 1;
        for change in changes {
            match &change.value {
                Some(value) => records.insert(
                    change.key.clone(),
                    Stored {
                        revision,
                        value: value.clone(),
                    },
                ),
                None => records.remove(&change.key),
            };
        }
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
