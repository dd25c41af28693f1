use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use api::control::{
    BirthKind, DoorSpec, HostLimits, HostStatus, ModeSpec, ReplicaStatus, SwitchWord, VerifyEndWord,
    VolumeSettings,
};
use bytes::Bytes;
use mars::GuestError;
use model::SectorRange;
use rcgen::KeyPair;

use super::*;
use crate::link::tests::Pool;

const SIZE_BYTES: u64 = 8 << 20;
const ID: &str = "00000000000000000000000000000001";

/// A host with directories of its own.
struct Machine {
    dir: tempfile::TempDir,
    member: Member,
    host: Option<Arc<Host>>,
}

impl Machine {
    fn config(&self) -> HostConfig {
        let dir = self.dir.path();
        HostConfig {
            state_dir: dir.join("state"),
            log_dir: dir.join("log"),
            run_dir: dir.join("run"),
            listen: self.member.addr.clone(),
            log_bytes_max: None,
        }
    }

    async fn new(pool: &Pool, node: &str) -> Machine {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let member = Member {
            node: node.to_owned(),
            addr: free.to_string(),
        };
        let mut machine = Machine {
            dir: tempfile::tempdir().unwrap(),
            member,
            host: None,
        };
        std::fs::File::create(machine.disk())
            .unwrap()
            .set_len(SIZE_BYTES)
            .unwrap();
        machine.start().await;
        machine.call(identity(pool, node)).await.unwrap();
        machine
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    async fn start(&mut self) {
        self.host = Some(Host::start(self.config()).await.unwrap());
    }

    async fn kill(&mut self) {
        self.host.take().unwrap().stop(Farewell::Abrupt).await;
    }

    fn host(&self) -> &Arc<Host> {
        self.host.as_ref().unwrap()
    }

    async fn call(&self, call: Call) -> Reply<Outcome> {
        self.host().call(call).await
    }

    async fn create(&self, birth: BirthKind, members: &[&Machine]) -> Reply<Outcome> {
        let call = Call::VolumeCreate {
            volume: ID.to_owned(),
            name: "v".to_owned(),
            size_bytes: SIZE_BYTES,
            disk: self.disk().display().to_string(),
            birth,
            members: members.iter().map(|machine| machine.member.clone()).collect(),
            log_bytes_max: None,
        };
        self.call(call).await
    }

    fn handle(&self) -> VolumeHandle {
        self.host().replica_handle(ID.parse().unwrap()).unwrap()
    }

    async fn status(&self) -> HostStatus {
        match self.call(Call::Status { volume: None }).await.unwrap() {
            Outcome::Status(status) => status,
            other => panic!("not a status: {other:?}"),
        }
    }

    async fn replica(&self) -> ReplicaStatus {
        self.status().await.volumes.remove(0).replica.unwrap()
    }

    async fn write(&self, sector: u64, fill: u8) {
        let range = SectorRange::new(sector, 8).unwrap();
        let data = Bytes::from(vec![fill; 4096]);
        let done = self
            .handle()
            .call(GuestRequest::Write {
                range,
                data,
                fua: false,
            })
            .await;
        assert_eq!(done, Ok(mars::Reply::Done));
    }

    async fn read(&self, sector: u64) -> Result<u8, GuestError> {
        let range = SectorRange::new(sector, 8).unwrap();
        match self.handle().call(GuestRequest::Read { range }).await? {
            mars::Reply::Data(data) => {
                assert!(data.iter().all(|b| *b == data[0]));
                Ok(data[0])
            }
            other => panic!("not data: {other:?}"),
        }
    }

    async fn checksum(&self) -> (String, u64) {
        match self
            .call(Call::VolumeChecksum {
                volume: ID.to_owned(),
            })
            .await
            .unwrap()
        {
            Outcome::Checksum {
                digest,
                from_lsn,
                to_lsn,
            } => {
                assert_eq!(from_lsn, to_lsn);
                (digest, from_lsn)
            }
            other => panic!("not a checksum: {other:?}"),
        }
    }

    /// Until the replica is as `when` says; the test's own time limit ends a wait in vain.
    async fn wait(&self, what: &str, when: impl Fn(&ReplicaStatus) -> bool) {
        for _ in 0..3000 {
            if when(&self.replica().await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come to pass: {:#?}", self.replica().await);
    }
}

fn identity(pool: &Pool, node: &str) -> Call {
    let Credentials {
        node,
        ca_pem,
        cert_pem,
        key_pem,
    } = pool.credentials(node);
    Call::Identity {
        node,
        ca_pem,
        cert_pem,
        key_pem,
    }
}

fn hand_over(to: &str) -> Call {
    Call::VolumeHandOver {
        volume: ID.to_owned(),
        to: to.to_owned(),
        gate_millis_max: 5000,
    }
}

fn kind(reply: Reply<Outcome>) -> ControlErrorKind {
    reply.unwrap_err().kind
}

/// Two machines whose replicas are both whole.
async fn pair(pool: &Pool) -> (Machine, Machine) {
    let (a, b) = (Machine::new(pool, "a").await, Machine::new(pool, "b").await);
    a.create(BirthKind::Primary, &[&a]).await.unwrap();
    a.wait("a serves", |replica| replica.state == "uptodate").await;
    a.write(0, 1).await;
    let members = vec![a.member.clone(), b.member.clone()];
    let call = Call::VolumeMembers {
        volume: ID.to_owned(),
        members,
    };
    a.call(call).await.unwrap();
    b.create(BirthKind::Secondary, &[&a, &b]).await.unwrap();
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_joins_under_load_and_takes_over_and_both_survive_a_kill() {
    let pool = Pool::new();
    let (mut a, mut b) = pair(&pool).await;
    for n in 0..300u64 {
        a.write(8 * (n % 1000), n as u8).await;
    }
    b.wait("b is up to date", |replica| replica.state == "uptodate")
        .await;
    let end = a.replica().await.appended_lsn;
    b.wait("b has everything", |replica| replica.written_back_lsn == end)
        .await;
    assert_eq!(a.checksum().await, b.checksum().await);

    let Outcome::HandedOver { term: 2, .. } = a.call(hand_over("b")).await.unwrap() else {
        panic!("the role was granted")
    };
    b.wait("b is primary", |replica| {
        replica.role == "primary" && replica.state == "uptodate"
    })
    .await;
    assert!(matches!(a.read(0).await, Err(GuestError::NotPrimary { .. })));
    assert!(matches!(b.call(hand_over("b")).await, Ok(Outcome::Done)));
    b.write(80, 99).await;

    b.kill().await;
    a.kill().await;
    b.start().await;
    b.wait("b serves again", |replica| {
        replica.role == "primary" && replica.state == "uptodate"
    })
    .await;
    assert_eq!(b.read(80).await, Ok(99));
    assert_eq!(b.read(8 * 299).await, Ok(299u64 as u8));
    b.write(88, 100).await;
    a.start().await;
    let end = b.replica().await.appended_lsn;
    a.wait("a has everything", |replica| replica.written_back_lsn >= end)
        .await;
    assert_eq!(a.checksum().await, b.checksum().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_replica_begins_anew_and_a_primary_does_not() {
    let pool = Pool::new();
    let (a, mut b) = pair(&pool).await;
    for n in 0..100u64 {
        a.write(8 * n, n as u8).await;
    }
    b.wait("b is up to date", |replica| replica.state == "uptodate")
        .await;
    let invalidate = |keep| Call::VolumeInvalidate {
        volume: ID.to_owned(),
        keep,
    };
    assert_eq!(kind(a.call(invalidate(true)).await), ControlErrorKind::Refused);
    let trimmed = b.replica().await.trimmed_lsn;
    let Outcome::Kept { path } = b.call(invalidate(true)).await.unwrap() else {
        panic!("the log is kept")
    };
    let kept: Vec<_> = std::fs::read_dir(&path).unwrap().collect();
    assert!(kept.len() >= 2, "log and memory: {kept:?}");
    b.call(invalidate(false)).await.unwrap();
    a.write(800, 7).await;
    b.wait("b is whole again", |replica| {
        replica.state == "uptodate" && replica.trimmed_lsn > trimmed
    })
    .await;
    b.kill().await;
    b.start().await;
    let end = a.replica().await.appended_lsn;
    b.wait("b has everything", |replica| {
        replica.state == "uptodate" && replica.written_back_lsn >= end
    })
    .await;
    assert_eq!(a.checksum().await, b.checksum().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_longer_than_one_read_is_recovered_whole() {
    let pool = Pool::new();
    let mut a = Machine::new(&pool, "a").await;
    a.create(BirthKind::Primary, &[&a]).await.unwrap();
    let data = Bytes::from(vec![7; 1 << 20]);
    for n in 0..32 {
        let range = SectorRange::from_bytes((n % 8) << 20, 1 << 20).unwrap();
        let request = GuestRequest::Write {
            range,
            data: data.clone(),
            fua: false,
        };
        assert_eq!(a.handle().call(request).await, Ok(mars::Reply::Done));
    }
    a.write(8, 9).await;
    a.kill().await;
    a.start().await;
    a.wait("a serves again", |replica| replica.state == "uptodate")
        .await;
    assert_eq!((a.read(0).await, a.read(8).await), (Ok(7), Ok(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_host_goes_on_serving_its_doors_from_afar() {
    let pool = Pool::new();
    let (mut a, b) = pair(&pool).await;
    b.wait("b is up to date", |replica| replica.state == "uptodate")
        .await;
    let door = DoorSpec::NbdTcp {
        addr: "127.0.0.1:0".to_owned(),
        read_only: false,
    };
    let open = || Call::DoorOpen {
        volume: ID.to_owned(),
        door: door.clone(),
    };
    let Outcome::Door { path, .. } = a.call(open()).await.unwrap() else {
        panic!("a door")
    };
    let again = a.call(open()).await.unwrap();
    assert!(matches!(again, Outcome::Door { path: same, .. } if same == path));

    let remote = || Call::VolumeRemote {
        volume: ID.to_owned(),
        name: "v".to_owned(),
        size_bytes: SIZE_BYTES,
        members: vec![b.member.clone()],
    };
    assert_eq!(
        kind(a.call(remote()).await),
        ControlErrorKind::Refused,
        "the primary does not leave"
    );
    assert_eq!(
        kind(
            a.call(Call::VolumeForget {
                volume: ID.to_owned()
            })
            .await
        ),
        ControlErrorKind::Refused
    );
    a.call(hand_over("b")).await.unwrap();
    b.wait("b is primary", |replica| {
        replica.role == "primary" && replica.state == "uptodate"
    })
    .await;
    let members = Call::VolumeMembers {
        volume: ID.to_owned(),
        members: vec![b.member.clone()],
    };
    b.call(members).await.unwrap();
    a.call(remote()).await.unwrap();
    a.call(remote()).await.unwrap();
    assert!(!a.dir.path().join("log").join(ID).exists());

    let check = async |a: &Machine| {
        let volume = a.status().await.volumes.remove(0);
        assert!(volume.replica.is_none());
        assert_eq!(volume.doors.len(), 1);
        assert_eq!((&volume.doors[0].door, &volume.doors[0].path), (&door, &path));
        let router = a
            .host()
            .volumes()
            .values()
            .next()
            .unwrap()
            .doors
            .router
            .clone()
            .unwrap();
        ask(
            &*router,
            GuestRequest::Read {
                range: SectorRange::new(0, 8).unwrap(),
            },
        )
        .await
    };
    let first = mars::Reply::Data(Bytes::from(vec![1; 4096]));
    assert_eq!(check(&a).await, Ok(first.clone()));
    // Doors come back by themselves, at the same place.
    a.kill().await;
    a.start().await;
    assert_eq!(check(&a).await, Ok(first));

    a.call(Call::DoorClose {
        volume: ID.to_owned(),
        door: door.clone(),
    })
    .await
    .unwrap();
    a.call(Call::VolumeForget {
        volume: ID.to_owned(),
    })
    .await
    .unwrap();
    a.call(Call::VolumeForget {
        volume: ID.to_owned(),
    })
    .await
    .unwrap();
    assert!(a.status().await.volumes.is_empty());
    assert_eq!(
        std::fs::read_dir(a.config().state_dir.join("volumes"))
            .unwrap()
            .count(),
        0
    );
}

async fn ask(
    guests: &dyn crate::door::port::Guests,
    request: GuestRequest,
) -> Result<mars::Reply, GuestError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    guests.ask(request, Box::new(move |result| drop(sender.send(result))));
    receiver.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let pool = Pool::new();
    let a = Machine::new(&pool, "a").await;
    let stranger = Member {
        node: "z".to_owned(),
        addr: "127.0.0.1:1".to_owned(),
    };
    let create = |change: &dyn Fn(&mut Call)| {
        let mut call = Call::VolumeCreate {
            volume: ID.to_owned(),
            name: "v".to_owned(),
            size_bytes: SIZE_BYTES,
            disk: a.disk().display().to_string(),
            birth: BirthKind::Primary,
            members: vec![a.member.clone()],
            log_bytes_max: None,
        };
        change(&mut call);
        call
    };
    macro_rules! with {
        ($field:ident, $value:expr) => {
            create(&|call| {
                if let Call::VolumeCreate { $field, .. } = call {
                    *$field = $value;
                }
            })
        };
    }
    let usage = [
        with!(volume, "1".to_owned()),
        with!(name, "No Good".to_owned()),
        with!(size_bytes, 5000),
        with!(disk, "disk".to_owned()),
        with!(members, vec![]),
        with!(members, vec![stranger.clone()]),
        with!(members, vec![a.member.clone(), a.member.clone()]),
        with!(
            members,
            vec![Member {
                addr: "here".to_owned(),
                ..a.member.clone()
            }]
        ),
    ];
    for call in usage {
        let shown = format!("{call:?}");
        assert_eq!(kind(a.call(call).await), ControlErrorKind::Usage, "{shown}");
    }
    let unfit = [
        (with!(disk, "/nowhere/disk".to_owned()), ControlErrorKind::Failed),
        (with!(disk, "/dev/null".to_owned()), ControlErrorKind::Refused),
        (with!(size_bytes, 2 * SIZE_BYTES), ControlErrorKind::Refused),
    ];
    for (call, expected) in unfit {
        let shown = format!("{call:?}");
        assert_eq!(kind(a.call(call).await), expected, "{shown}");
    }
    assert!(a.status().await.volumes.is_empty());
    assert_eq!(
        std::fs::read_dir(a.config().state_dir.join("volumes"))
            .unwrap()
            .count(),
        0
    );

    a.call(create(&|_| {})).await.unwrap();
    a.call(create(&|_| {})).await.unwrap();
    let other = "00000000000000000000000000000002".to_owned();
    let refused = [
        with!(size_bytes, 4096),
        with!(disk, "/tmp/other".to_owned()),
        with!(volume, other.clone()),
        create(&|call| {
            if let Call::VolumeCreate { volume, name, .. } = call {
                *volume = "00000000000000000000000000000002".to_owned();
                *name = "w".to_owned();
            }
        }),
        identity(&pool, "b"),
    ];
    for call in refused {
        let shown = format!("{call:?}");
        assert_eq!(kind(a.call(call).await), ControlErrorKind::Refused, "{shown}");
    }
    for call in [
        Call::VolumeChecksum {
            volume: other.clone(),
        },
        Call::Status {
            volume: Some(other.clone()),
        },
        Call::DoorOpen {
            volume: other,
            door: DoorSpec::Nbd {
                path: None,
                read_only: false,
            },
        },
        hand_over("z"),
    ] {
        assert_eq!(kind(a.call(call).await), ControlErrorKind::NotFound);
    }
    assert_eq!(a.status().await.volumes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_must_fit_together_and_survives() {
    let (pool, other) = (Pool::new(), Pool::new());
    let mut a = Machine::new(&pool, "a").await;
    let broken = |change: &dyn Fn(&mut Call)| {
        let mut call = identity(&pool, "a");
        change(&mut call);
        call
    };
    macro_rules! with {
        ($field:ident, $value:expr) => {
            broken(&|call| {
                if let Call::Identity { $field, .. } = call {
                    *$field = $value;
                }
            })
        };
    }
    let calls = [
        with!(node, "b".to_owned()),
        with!(node, "B!".to_owned()),
        with!(ca_pem, other.ca_pem.clone()),
        with!(ca_pem, String::new()),
        with!(cert_pem, "garbage".to_owned()),
        with!(key_pem, KeyPair::generate().unwrap().serialize_pem()),
    ];
    for call in calls {
        let shown = format!("{call:?}");
        assert_eq!(kind(a.call(call).await), ControlErrorKind::Usage, "{shown}");
    }
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&a.host().identity_path()), 0o600);
    a.call(identity(&pool, "a")).await.unwrap();
    a.kill().await;
    a.start().await;
    let status = a.status().await;
    assert_eq!(
        (status.node, status.peer_addr),
        (Some("a".to_owned()), Some(a.member.addr.clone()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changed_on_a_disk_is_found_and_repaired() {
    let pool = Pool::new();
    let (a, b) = pair(&pool).await;
    let volume = || ID.to_owned();
    let compressed = true;
    let compression = Call::VolumeCompression {
        volume: volume(),
        compressed,
    };
    a.call(compression).await.unwrap();
    for n in 0..100u64 {
        a.write(8 * n, n as u8).await;
    }
    b.wait("b is up to date", |replica| {
        replica.state == "uptodate" && replica.compressed
    })
    .await;
    let end = a.replica().await.appended_lsn;
    b.wait("b has everything", |replica| replica.written_back_lsn >= end)
        .await;
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .open(b.disk())
        .unwrap();
    disk.write_all_at(&[0xee], 8 * 512 * 7 + 5).unwrap();
    let (repair, bytes_per_second_max) = (true, None);
    let verify = Call::VolumeVerify {
        volume: volume(),
        repair,
        bytes_per_second_max,
    };
    a.call(verify).await.unwrap();
    a.wait("everything is compared", |replica| {
        replica.verify.as_ref().is_some_and(|run| run.ended.is_some())
    })
    .await;
    let run = a.replica().await.verify.unwrap();
    assert_eq!(run.ended, Some(VerifyEndWord::Finished));
    let found: Vec<_> = run.differences.iter().collect();
    assert!(
        matches!(&found[..], [found] if found.node == "b" && found.offset_bytes == 0 && found.repaired),
        "{run:?}"
    );
    let mut byte = [0];
    disk.read_exact_at(&mut byte, 8 * 512 * 7 + 5).unwrap();
    assert_eq!(byte, [7]);
    b.wait("b remembers", |replica| replica.verified.is_some()).await;
    let cancel = Call::VolumeVerifyCancel { volume: volume() };
    assert!(
        matches!(a.call(cancel).await, Ok(Outcome::Done)),
        "useless, and harmless"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_do_not_share_a_state_directory() {
    let pool = Pool::new();
    let a = Machine::new(&pool, "a").await;
    let error = Host::start(a.config()).await.err().unwrap();
    assert!(error.to_string().contains("in use by another marsd"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_memory_keeps_one_volume_down_and_is_told() {
    let pool = Pool::new();
    let mut a = Machine::new(&pool, "a").await;
    a.create(BirthKind::Primary, &[&a]).await.unwrap();
    a.wait("a serves", |replica| replica.state == "uptodate").await;
    a.kill().await;
    let meta = a.config().state_dir.join("volumes").join(ID).join("meta");
    std::fs::write(&meta, [0xff; 100]).unwrap();
    a.start().await;
    let replica = a.replica().await;
    assert_eq!(replica.state, "detached");
    assert!(replica.reason.unwrap().contains("is damaged"));
    assert_eq!(
        kind(
            a.call(Call::VolumeChecksum {
                volume: ID.to_owned()
            })
            .await
        ),
        ControlErrorKind::Failed
    );
    assert_eq!(std::fs::read(&meta).unwrap(), [0xff; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn switches_and_detach_are_kept_over_a_restart_and_a_primary_refuses_to_leave() {
    let pool = Pool::new();
    let (a, mut b) = pair(&pool).await;
    let volume = || ID.to_owned();
    let switch = |switch, on| Call::VolumeSwitch {
        volume: volume(),
        switch,
        on,
    };
    b.wait("uptodate", |replica| replica.state == "uptodate").await;
    let refused = a.call(switch(SwitchWord::All, false)).await.unwrap_err();
    assert_eq!(refused.kind, ControlErrorKind::Refused);
    assert_eq!(a.replica().await.paused, [], "a refusal changes nothing");

    for _ in 0..2 {
        b.call(switch(SwitchWord::Fetch, false)).await.unwrap();
    }
    b.wait("paused", |replica| replica.state == "paused").await;
    b.kill().await;
    b.start().await;
    b.wait("paused", |replica| replica.state == "paused").await;
    assert_eq!(b.replica().await.paused, [SwitchWord::Fetch]);

    b.call(switch(SwitchWord::All, false)).await.unwrap();
    assert_eq!(b.replica().await.state, "detached");
    b.kill().await;
    b.start().await;
    assert_eq!(b.replica().await.state, "detached");
    b.create(BirthKind::Secondary, &[&a, &b]).await.unwrap();
    assert_eq!(
        b.replica().await.state,
        "detached",
        "known already, and as its operator left it"
    );
    for _ in 0..2 {
        b.call(switch(SwitchWord::All, true)).await.unwrap();
    }
    a.write(0, 7).await;
    b.wait("uptodate", |replica| replica.state == "uptodate").await;

    let near = VolumeSettings {
        mode: ModeSpec::NearSync {
            replicas: 1,
            wait_millis_max: 500,
        },
        lag_millis_max: Some(5000),
        ..VolumeSettings::default()
    };
    let settings = |settings| Call::VolumeSettings {
        volume: volume(),
        settings,
    };
    a.call(settings(near)).await.unwrap();
    assert_eq!(a.handle().call(GuestRequest::Flush).await, Ok(mars::Reply::Done));
    assert_eq!(a.replica().await.settings, near);
    b.wait("told of the mode", |replica| replica.settings == near)
        .await;
    let too_many = VolumeSettings {
        mode: ModeSpec::Sync { replicas: 2 },
        ..near
    };
    // A good wish, only not as things stand; and one that can never be.
    assert_eq!(
        a.call(settings(too_many)).await.unwrap_err().kind,
        ControlErrorKind::Refused
    );
    let for_nobody = VolumeSettings {
        mode: ModeSpec::Sync { replicas: 0 },
        ..near
    };
    assert_eq!(
        a.call(settings(for_nobody)).await.unwrap_err().kind,
        ControlErrorKind::Usage
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_of_logs_hold_over_restarts_and_are_divided() {
    let pool = Pool::new();
    let mut a = Machine::new(&pool, "a").await;
    a.create(BirthKind::Primary, &[&a]).await.unwrap();
    let own = |log_bytes_max| Call::VolumeLogBudget {
        volume: ID.to_owned(),
        log_bytes_max,
    };
    let all = |log_bytes_max| Call::HostLimits {
        limits: HostLimits {
            log_bytes_max,
            ..HostLimits::default()
        },
    };
    a.call(own(Some(8 << 20))).await.unwrap();
    assert_eq!(a.replica().await.log_bytes_max, 8 << 20);
    assert_eq!(a.replica().await.log_budget_bytes, Some(8 << 20));
    a.call(all(Some(4 << 20))).await.unwrap();
    a.kill().await;
    a.start().await;
    a.wait("it has its share", |replica| replica.log_bytes_max == 4 << 20)
        .await;
    assert_eq!(a.status().await.log_bytes_max, Some(4 << 20));
    a.call(all(None)).await.unwrap();
    assert_eq!(a.replica().await.log_bytes_max, 8 << 20);
    a.call(own(None)).await.unwrap();
    assert_eq!(a.replica().await.log_bytes_max, 1 << 30);
    assert_eq!(a.replica().await.pressure, "normal");
    // One replica has no log anyway.
    a.call(own(Some(0))).await.unwrap();
    assert_eq!(a.replica().await.pressure, "normal");
}
