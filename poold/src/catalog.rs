//! What should be? The pool's desired state, whole in memory, every change durable before it is seen.
//!
//! One writer at a time: [`Catalog::change`] works on a copy and commits all of it or nothing, each record against
//! the revision it was read with. A dry run is a change that is not committed.

pub mod file;
pub mod memory;
pub mod records;
pub mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{ApiError, ErrorKind};

use records::{
    EventRecord, JobRecord, LifeRecord, NodeRecord, PoolRecord, Record, RevokedRecord, TokenRecord, VgRecord,
    VolumeRecord,
};
use store::{Change, Store, StoreError};

use crate::clock;

/// Events that are remembered.
pub const EVENTS_MAX: u64 = 10_000;

/// Ended jobs that are remembered.
pub const JOBS_MAX: usize = 1_000;

/// Records of one kind by key.
#[derive(Clone, Debug)]
pub struct Table<R> {
    rows: Arc<BTreeMap<String, Row<R>>>,
}

#[derive(Clone, Debug)]
struct Row<R> {
    revision: u64,
    record: Arc<R>,
}

impl<R> Default for Table<R> {
    fn default() -> Table<R> {
        Table { rows: Arc::default() }
    }
}

impl<R: Record> Table<R> {
    /// The record of that key.
    pub fn get(&self, key: &str) -> Option<&R> {
        self.rows.get(key).map(|row| &*row.record)
    }

    /// All records by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> + Clone {
        self.rows.values().map(|row| &*row.record)
    }

    /// Those whose key comes after `key`.
    pub fn after(&self, key: &str) -> impl Iterator<Item = &R> {
        let range = (
            std::ops::Bound::Excluded(key.to_owned()),
            std::ops::Bound::Unbounded,
        );
        self.rows.range(range).map(|(_, row)| &*row.record)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn load(store: &dyn Store) -> Result<Table<R>, StoreError>
    where
        R: Record,
    {
        let mut rows = BTreeMap::new();
        for (key, stored) in store.list(R::PREFIX)? {
            let record = records::decode::<R>(&key, &stored.value).map_err(|what| StoreError::Damaged {
                path: "records".into(),
                what,
            })?;
            rows.insert(
                record.key(),
                Row {
                    revision: stored.revision,
                    record: Arc::new(record),
                },
            );
        }
        Ok(Table { rows: Arc::new(rows) })
    }
}

/// Everything that the catalog remembers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The pool itself.
    pub pool: Table<PoolRecord>,
    /// Hosts.
    pub nodes: Table<NodeRecord>,
    /// Certificates that count no more.
    pub revoked: Table<RevokedRecord>,
    /// Volume groups.
    pub vgs: Table<VgRecord>,
    /// Volumes.
    pub volumes: Table<VolumeRecord>,
    /// Jobs.
    pub jobs: Table<JobRecord>,
    /// Tokens.
    pub tokens: Table<TokenRecord>,
    /// Events.
    pub events: Table<EventRecord>,
}

/// Finds the table of a kind of record.
pub trait InRecords: Record {
    /// The table.
    fn table(records: &mut Records) -> &mut Table<Self>;
}

macro_rules! in_records {
    ($($record:ty => $field:ident),* $(,)?) => {
        $(impl InRecords for $record {
            fn table(records: &mut Records) -> &mut Table<Self> {
                &mut records.$field
            }
        })*
    };
}

in_records! {
    PoolRecord => pool,
    NodeRecord => nodes,
    RevokedRecord => revoked,
    VgRecord => vgs,
    VolumeRecord => volumes,
    JobRecord => jobs,
    TokenRecord => tokens,
    EventRecord => events,
}

impl Records {
    /// A host's group.
    pub fn vg(&self, node: &str, name: &str) -> Option<&VgRecord> {
        self.vgs.get(&format!("{node}/{name}"))
    }

    /// Volumes that are neither being made nor being deleted.
    pub fn live_volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes
            .iter()
            .filter(|volume| volume.life == LifeRecord::Live)
    }

    /// The pool. Errors: a catalog without one is damaged.
    pub fn the_pool(&self) -> Result<&PoolRecord, ApiError> {
        self.pool
            .get("self")
            .ok_or_else(|| ApiError::failed("the catalog holds no pool"))
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Result<&VolumeRecord, ApiError> {
        self.volumes
            .iter()
            .find(|volume| volume.name == name)
            .ok_or_else(|| {
                ApiError::not_found(format!("there is no volume `{name}`"))
                    .hint("`poolctl volume list` shows all volumes")
                    .object(format!("volume {name}"))
            })
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&NodeRecord, ApiError> {
        self.nodes.get(name).ok_or_else(|| {
            ApiError::not_found(format!("there is no node `{name}` in the pool"))
                .hint("`poolctl node list` shows all nodes")
                .object(format!("node {name}"))
        })
    }

    /// The job of that id.
    pub fn job(&self, id: &str) -> Result<&JobRecord, ApiError> {
        let number = id.parse::<u64>().ok();
        number
            .and_then(|number| self.jobs.get(&format!("{number:016}")))
            .ok_or_else(|| {
                ApiError::not_found(format!("there is no job `{id}`"))
                    .hint("`poolctl job list` shows the jobs that are remembered")
                    .object(format!("job {id}"))
            })
    }

    /// Whether the job of that number has not ended.
    pub fn job_runs(&self, number: u64) -> bool {
        let job = self.jobs.get(&format!("{number:016}"));
        job.is_some_and(|job| !job.state.ended())
    }

    /// The job at work on a volume; one that stands beside others only where there is no other.
    pub fn job_at(&self, volume_id: &str) -> Option<&JobRecord> {
        let mut jobs = self
            .jobs
            .iter()
            .filter(|job| job.volume == volume_id && !job.state.ended());
        let first = jobs.clone().next();
        jobs.find(|job| !job.kind.stands_beside()).or(first)
    }
}

/// A change under way: the records as they will be, and what must be written for it.
pub struct Tx {
    /// The records with all changes so far.
    pub records: Records,
    changes: BTreeMap<String, Change>,
}

impl Tx {
    /// Writes a record, new or changed.
    pub fn put<R: InRecords>(&mut self, record: R) -> Result<(), ApiError> {
        let value = records::encode(&record).map_err(ApiError::failed)?;
        let key = record.key();
        let rows = Arc::make_mut(&mut R::table(&mut self.records).rows);
        let revision = rows.get(&key).map_or(0, |row| row.revision);
        rows.insert(
            key.clone(),
            Row {
                revision,
                record: Arc::new(record),
            },
        );
        self.note::<R>(&key, revision, Some(value));
        Ok(())
    }

    /// Removes a record.
    pub fn remove<R: InRecords>(&mut self, key: &str) {
        let rows = Arc::make_mut(&mut R::table(&mut self.records).rows);
        if let Some(row) = rows.remove(key) {
            self.note::<R>(key, row.revision, None);
        }
    }

    fn note<R: InRecords>(&mut self, key: &str, expected: u64, value: Option<Vec<u8>>) {
        let key = format!("{}{key}", R::PREFIX);
        match self.changes.get_mut(&key) {
            Some(change) => change.value = value,
            None => {
                self.changes.insert(key.clone(), Change { key, expected, value });
            }
        }
    }

    /// Writes an event, and forgets the oldest where there are too many.
    pub fn event(&mut self, object: impl Into<String>, message: impl Into<String>) -> Result<(), ApiError> {
        let mut pool = self.records.the_pool()?.clone();
        pool.newest_event += 1;
        let number = pool.newest_event;
        self.put(pool)?;
        let (object, message) = (object.into(), message.into());
        self.put(EventRecord {
            number,
            time: clock::now(),
            object,
            message,
        })?;
        if let Some(old) = number.checked_sub(EVENTS_MAX) {
            self.remove::<EventRecord>(&format!("{old:016}"));
        }
        Ok(())
    }

    /// Gives a new job its number and writes it; forgets the oldest ended ones where there are too many.
    pub fn add_job(&mut self, mut job: JobRecord) -> Result<u64, ApiError> {
        let mut pool = self.records.the_pool()?.clone();
        pool.newest_job += 1;
        job.number = pool.newest_job;
        self.put(pool)?;
        let number = job.number;
        self.event(job.object(), format!("job {number} ({}) begins", job.kind.word()))?;
        self.put(job)?;
        let ended = self.records.jobs.iter().filter(|job| job.state.ended());
        let surplus = ended.clone().count().saturating_sub(JOBS_MAX);
        let old: Vec<String> = ended.take(surplus).map(Record::key).collect();
        for key in old {
            self.remove::<JobRecord>(&key);
        }
        Ok(number)
    }
}

/// The desired state of the pool.
pub struct Catalog {
    store: Box<dyn Store>,
    records: Mutex<Records>,
}

impl Catalog {
    /// A catalog in a store, every record of it read and understood.
    pub fn load(store: Box<dyn Store>) -> Result<Catalog, StoreError> {
        let records = Records {
            pool: Table::load(&*store)?,
            nodes: Table::load(&*store)?,
            revoked: Table::load(&*store)?,
            vgs: Table::load(&*store)?,
            volumes: Table::load(&*store)?,
            jobs: Table::load(&*store)?,
            tokens: Table::load(&*store)?,
            events: Table::load(&*store)?,
        };
        Ok(Catalog {
            store,
            records: Mutex::new(records),
        })
    }

    /// The catalog in a file. Errors name the file.
    pub fn open(path: &Path) -> Result<Catalog, StoreError> {
        let named = |error| match error {
            StoreError::Damaged { what, .. } => StoreError::Damaged {
                path: path.to_owned(),
                what,
            },
            other => other,
        };
        let catalog = Catalog::load(Box::new(file::FileStore::open(path)?)).map_err(named)?;
        for volume in catalog.records().volumes.iter() {
            volume.desired().map_err(|what| StoreError::Damaged {
                path: path.to_owned(),
                what: format!("record `volume/{}` makes no sense: {what}", volume.id),
            })?;
        }
        if catalog.records().pool.is_empty() {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                what: "it holds no pool".to_owned(),
            });
        }
        Ok(catalog)
    }

    /// Everything as it is now.
    pub fn records(&self) -> Records {
        self.lock().clone()
    }

    /// Tells the newest revision, and every later one.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.store.watch()
    }

    /// Makes a change, durable when it returns; with `dry_run` everything but the writing. May block on a disk.
    ///
    /// Errors: those of `work`; `failed` when the store does not take it. Nothing is changed then.
    pub fn change<T>(
        &self,
        dry_run: bool,
        work: impl FnOnce(&mut Tx) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut records = self.lock();
        let mut tx = Tx {
            records: records.clone(),
            changes: BTreeMap::new(),
        };
        let answer = work(&mut tx)?;
        if dry_run || tx.changes.is_empty() {
            return Ok(answer);
        }
        let changes: Vec<Change> = tx.changes.into_values().collect();
        let revision = self.store.commit(&changes).map_err(|error| refusal(&error))?;
        for change in changes.iter().filter(|change| change.value.is_some()) {
            touch(&mut tx.records, &change.key, revision);
        }
        *records = tx.records;
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // A panic in `work` leaves the records as they were: they are replaced only after the commit.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn touch(records: &mut Records, key: &str, revision: u64) {
    fn set<R: InRecords>(records: &mut Records, key: &str, revision: u64) -> bool {
        let Some(rest) = key.strip_prefix(R::PREFIX) else {
            return false;
        };
        if let Some(row) = Arc::make_mut(&mut R::table(records).rows).get_mut(rest) {
            row.revision = revision;
        }
        true
    }
    let _found = set::<PoolRecord>(records, key, revision)
        || set::<NodeRecord>(records, key, revision)
        || set::<RevokedRecord>(records, key, revision)
        || set::<VgRecord>(records, key, revision)
        || set::<VolumeRecord>(records, key, revision)
        || set::<JobRecord>(records, key, revision)
        || set::<TokenRecord>(records, key, revision)
        || set::<EventRecord>(records, key, revision);
}

fn refusal(error: &StoreError) -> ApiError {
    match error {
        StoreError::Conflict { .. } => {
            ApiError::new(ErrorKind::Failed, error.to_string()).hint("ask again; nothing was changed")
        }
        StoreError::Damaged { .. } | StoreError::Failed { .. } => ApiError::failed(error.to_string())
            .hint("nothing was changed; look at the disk of the catalog's host"),
    }
}

#[cfg(test)]
mod tests;
