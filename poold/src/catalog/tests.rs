//! Conflicts, reopening, and every way a catalog file can be damaged.

use std::fs;

use super::file::FileStore;
use super::memory::MemoryStore;
use super::*;

fn pool() -> PoolRecord {
    PoolRecord {
        name: "p".to_owned(),
        leader: "a".to_owned(),
        created: clock::now(),
        newest_job: 0,
        newest_event: 0,
    }
}

fn node(name: &str) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        peer_address: "127.0.0.1:2".to_owned(),
        serial: "7f".to_owned(),
        limits: Default::default(),
        drained: false,
        joined: clock::now(),
    }
}

fn stores(dir: &Path) -> Vec<Box<dyn Store>> {
    vec![
        Box::new(MemoryStore::default()),
        Box::new(FileStore::create(&dir.join("catalog.redb")).unwrap()),
    ]
}

#[test]
fn a_commit_is_all_or_nothing_and_compares_revisions() {
    let dir = tempfile::tempdir().unwrap();
    for store in stores(dir.path()) {
        let put = |key: &str, expected, value: &str| Change {
            key: key.to_owned(),
            expected,
            value: Some(value.as_bytes().to_vec()),
        };
        let first = store
            .commit(&[put("a/1", 0, "x"), put("a/2", 0, "y"), put("b/1", 0, "z")])
            .unwrap();
        assert_eq!(
            store.get("a/1").unwrap(),
            Some(Stored {
                revision: first,
                value: b"x".to_vec()
            })
        );
        let conflict = store.commit(&[put("a/2", first, "new"), put("a/1", 0, "again")]);
        assert!(matches!(conflict, Err(StoreError::Conflict { expected: 0, .. })));
        assert_eq!(
            store.get("a/2").unwrap().unwrap().value,
            b"y",
            "the whole commit is refused"
        );
        let second = store
            .commit(&[Change {
                key: "a/1".to_owned(),
                expected: first,
                value: None,
            }])
            .unwrap();
        assert!(second > first && *store.watch().borrow() == second);
        let keys: Vec<String> = store
            .list("a/")
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["a/2"]);
    }
}

use super::store::Stored;

#[test]
fn what_was_changed_is_there_after_reopening_and_a_dry_run_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let catalog = Catalog::load(Box::new(FileStore::create(&path).unwrap())).unwrap();
    catalog.change(false, |tx| tx.put(pool())).unwrap();
    catalog.change(false, |tx| tx.put(node("a"))).unwrap();
    catalog.change(true, |tx| tx.put(node("dry"))).unwrap();
    let failed: Result<(), ApiError> = catalog.change(false, |tx| {
        tx.put(node("half"))?;
        Err(ApiError::refused("no"))
    });
    assert!(failed.is_err());
    catalog.change(false, |tx| tx.event("node a", "joined")).unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    let names: Vec<String> = catalog
        .records()
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    assert_eq!(names, ["a"]);
    assert_eq!(catalog.records().events.len(), 1);
    catalog.change(false, |tx| tx.put(node("a"))).unwrap();
    assert!(!path.with_extension("check").exists());
}

#[test]
fn another_writer_is_noticed() {
    let store = Arc::new(MemoryStore::default());
    struct Shared(Arc<MemoryStore>);
    impl Store for Shared {
        fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
            self.0.get(key)
        }
        fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
            self.0.list(prefix)
        }
        fn commit(&self, changes: &[Change]) -> Result<u64, StoreError> {
            self.0.commit(changes)
        }
        fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
            self.0.watch()
        }
    }
    let one = Catalog::load(Box::new(Shared(store.clone()))).unwrap();
    let two = Catalog::load(Box::new(Shared(store))).unwrap();
    one.change(false, |tx| tx.put(node("a"))).unwrap();
    let conflict = two.change(false, |tx| tx.put(node("a")));
    assert_eq!(conflict.unwrap_err().kind, ErrorKind::Failed);
    assert!(two.records().nodes.is_empty());
}

#[test]
fn events_are_a_ring() {
    let catalog = Catalog::load(Box::new(MemoryStore::default())).unwrap();
    catalog.change(false, |tx| tx.put(pool())).unwrap();
    let add = |tx: &mut Tx| (0..EVENTS_MAX + 5).try_for_each(|_| tx.event("pool", "tick"));
    catalog.change(false, add).unwrap();
    let records = catalog.records();
    assert_eq!(records.events.len() as u64, EVENTS_MAX);
    assert_eq!(records.events.iter().next().unwrap().number, 6);
}

fn made(path: &Path) -> Vec<u8> {
    let catalog = Catalog::load(Box::new(FileStore::create(path).unwrap())).unwrap();
    catalog.change(false, |tx| tx.put(pool())).unwrap();
    for number in 0..50 {
        catalog
            .change(false, |tx| tx.put(node(&format!("n{number}"))))
            .unwrap();
    }
    drop(catalog);
    fs::read(path).unwrap()
}

#[test]
fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let sound = made(&path);
    let refused = |name: &str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Catalog::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error}");
        assert!(error.to_string().contains("catalog.redb"), "{name}: {error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name} was changed");
    };
    refused("nonsense", b"this is no catalog at all");
    refused("empty", b"");
    refused("zeroes", &vec![0; sound.len()]);
    refused("cut", &sound[..sound.len() / 2]);
    let mut wiped = sound.clone();
    wiped[4096..].fill(0xa5);
    refused("wiped behind its head", &wiped);
    fs::write(&path, &sound).unwrap();
    assert_eq!(Catalog::open(&path).unwrap().records().nodes.len(), 50);
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let sound = made(&path);
    let want: Vec<NodeRecord> = Catalog::open(&path)
        .unwrap()
        .records()
        .nodes
        .iter()
        .cloned()
        .collect();
    let sound_reopened = fs::read(&path).unwrap();
    assert_eq!(sound.len(), sound_reopened.len());
    let mut found = 0;
    for index in (0..sound.len()).step_by(sound.len() / 97) {
        let mut bytes = sound.clone();
        bytes[index] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        match Catalog::open(&path) {
            Ok(catalog) => {
                let got: Vec<NodeRecord> = catalog.records().nodes.iter().cloned().collect();
                assert_eq!(got, want, "byte {index} changed what the catalog says");
            }
            Err(_) => found += 1,
        }
    }
    assert!(found > 0);
}

#[test]
fn a_record_that_makes_no_sense_is_reported() {
    let check = |value: &[u8], want: &str| {
        let store = MemoryStore::default();
        let key = "node/a".to_owned();
        store
            .commit(&[Change {
                key,
                expected: 0,
                value: Some(value.to_vec()),
            }])
            .unwrap();
        let error = Catalog::load(Box::new(store))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{error}");
    };
    check(b"nonsense", "record `node/a` is not readable");
    check(br#"{"version":9,"record":{}}"#, "record `node/a` has version 9");
    let nameless = format!(
        r#"{{"version":{},"record":{{"name":7}}}}"#,
        records::RECORD_VERSION
    );
    check(nameless.as_bytes(), "record `node/a` makes no sense");
    let other = records::encode(&node("b")).unwrap();
    check(&other, "says that it is `node/b`");
}
