//! What would poold answer? A small pool that never changes, served on a Unix socket, which remembers what was asked.

use std::path::Path;
use std::sync::{Arc, Mutex};

use api::control::{ModeSpec, SwitchWord, VolumeLimits, VolumeSettings};
use api::error::{ApiError, ErrorBody, ErrorKind};
use api::pool::*;
use axum::Json;
use axum::Router;
use axum::extract::{Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be the matter with a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scene {
    /// Nothing.
    #[default]
    Healthy,
    /// No volume group, no volume.
    Empty,
    /// b gets its replica of web.
    Syncing,
    /// marsd does not run on b.
    MarsdDown,
    /// The histories of web have parted.
    SplitBrain,
    /// b is away, and job 7 is at work.
    Degraded,
}

impl Scene {
    /// Every scene.
    pub const ALL: [Scene; 6] = [
        Scene::Healthy,
        Scene::Empty,
        Scene::Syncing,
        Scene::MarsdDown,
        Scene::SplitBrain,
        Scene::Degraded,
    ];

    /// The name of its daemon's socket.
    pub fn socket(self) -> &'static str {
        match self {
            Scene::Healthy => "api.sock",
            Scene::Empty => "empty.sock",
            Scene::Syncing => "syncing.sock",
            Scene::MarsdDown => "marsd-down.sock",
            Scene::SplitBrain => "split-brain.sock",
            Scene::Degraded => "degraded.sock",
        }
    }
}

/// What one fake daemon knows.
#[derive(Clone, Default)]
pub struct Fake {
    /// Every change that was asked for: path and body.
    pub asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// What is the matter with the pool.
    pub scene: Scene,
}

impl Fake {
    /// Serves on `socket` until the runtime ends; the socket is there when this returns.
    pub fn serve(self, socket: &Path) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, self.router()).await.unwrap() });
    }

    fn router(self) -> Router {
        Router::new()
            .route("/v1/pool", get(pool_info).post(changed))
            .route("/v1/pool/join", post(join))
            .route("/v1/tokens", post(token))
            .route("/v1/nodes", get(nodes))
            .route("/v1/nodes/{name}", get(node))
            .route("/v1/nodes/{name}/remove", post(changed))
            .route("/v1/vgs", get(vgs).post(changed))
            .route("/v1/vgs/{name}/remove", post(changed))
            .route("/v1/volumes", get(volumes).post(create))
            .route("/v1/volumes/{name}", get(volume))
            .route("/v1/volumes/{name}/attach", post(attach))
            .route("/v1/volumes/{name}/detach", post(changed))
            .route("/v1/volumes/{name}/log", get(log))
            .route("/v1/volumes/{name}/snapshots", get(snapshots).post(snapshot))
            .route("/v1/volumes/{name}/split-brain", get(split).post(resolve))
            .route("/v1/volumes/{name}/{verb}", post(verb))
            .route("/v1/migrate", post(migrate))
            .route("/v1/jobs", get(jobs))
            .route("/v1/jobs/{id}", get(job))
            .route("/v1/jobs/{id}/cancel", post(changed))
            .route("/v1/status", get(status))
            .route("/v1/events", get(events))
            .with_state(self)
    }

    fn remember(&self, uri: &axum::http::Uri, body: &Value) {
        self.asked
            .lock()
            .unwrap()
            .push((uri.path().to_owned(), body.clone()));
    }
}

type Answer<T> = Result<Json<Versioned<T>>, Bad>;

struct Bad(ApiError);

impl IntoResponse for Bad {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status()).unwrap();
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

fn good<T: Serialize>(body: T) -> Answer<T> {
    Ok(Json(Versioned::new(body)))
}

fn no_such(kind: &str, name: &str) -> Bad {
    let error = ApiError::not_found(format!("there is no {kind} {name}"));
    Bad(error
        .hint(format!("poolctl {kind} list"))
        .object(format!("{kind} {name}")))
}

fn change(object: &str, body: &Value, job: Option<&str>) -> Changed {
    Changed {
        object: object.to_owned(),
        dry_run: body["dry_run"] == Value::Bool(true),
        generation: 3,
        steps: vec!["the first step".to_owned(), "the second step".to_owned()],
        job: job.map(str::to_owned),
        loss: None,
    }
}

async fn changed(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Changed> {
    fake.remember(&uri, &body);
    good(change("object x", &body, None))
}

async fn join(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Changed> {
    fake.remember(&uri, &body);
    if body["token"] == "wrong" {
        let error = ApiError::refused("the pool does not know this token, or it was used before");
        return Err(Bad(error.hint("on a host of the pool: poolctl node token")));
    }
    good(change("node c", &body, None))
}

async fn token(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Token> {
    fake.remember(&uri, &body);
    good(Token {
        token: "T0KEN".to_owned(),
        url: "https://127.0.0.1:7778".to_owned(),
        expires: "2026-01-01T01:00:00Z".to_owned(),
    })
}

async fn create(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Changed> {
    fake.remember(&uri, &body);
    if body["size_bytes"].as_u64().unwrap() >= 2 << 40 {
        let error = ApiError::refused("no host has 2 TiB free; the most is 48 GiB on a");
        return Err(Bad(error
            .hint("poolctl vg list\npoolctl vg add NAME --dir DIR")
            .object("volume big")));
    }
    good(change("volume new", &body, Some("1")))
}

async fn verb(
    State(fake): State<Fake>,
    uri: axum::http::Uri,
    Segment((name, verb)): Segment<(String, String)>,
    Json(body): Json<Value>,
) -> Answer<Changed> {
    fake.remember(&uri, &body);
    match (verb.as_str(), body["node"].as_str()) {
        _ if name != "web" => Err(no_such("volume", &name)),
        ("leave", Some("a")) => {
            let error = ApiError::refused("a is the primary of web, so it cannot leave");
            Err(Bad(error
                .hint("poolctl volume primary web b")
                .object("volume web")))
        }
        ("leave", _) => good(change("volume web", &body, Some("9"))),
        ("verify", _) => good(change("volume web", &body, Some("10"))),
        ("join", _) => good(change("volume web", &body, Some("2"))),
        ("primary", Some("c")) => good(Changed {
            steps: vec![
                "c becomes primary in term 65536".to_owned(),
                "lost: 5 MiB of log, 42.0 s".to_owned(),
            ],
            loss: Some(Loss {
                bytes: 5 << 20,
                seconds: Some(42.0),
                node: Some("a".to_owned()),
            }),
            ..change("volume web", &body, Some("12"))
        }),
        ("primary", _) => good(change("volume web", &body, Some("3"))),
        ("set", _) if body["replicas"].is_null() => good(change("volume web", &body, None)),
        ("set", _) => good(change("volume web", &body, Some("14"))),
        ("resize", _) => good(change("volume web", &body, Some("18"))),
        ("snapshot-delete", _) => good(change("volume web", &body, None)),
        ("snapshot-restore", _) if body["force"] == Value::Bool(false) && body["snapshot"] == "busy" => {
            let error = ApiError::refused("1 guests are connected to volume `web`");
            Err(Bad(error
                .hint("shut the guests down, or disconnect them, first; or give --force")
                .object("volume web")))
        }
        ("snapshot-restore", _) => good(change("volume web", &body, Some("20"))),
        ("limits", _) => good(change("volume web", &body, None)),
        ("switch", _) => good(change("volume web", &body, None)),
        ("invalidate", Some("a")) => {
            let error = ApiError::refused("node a is the volume's primary: its contents are the volume");
            Err(Bad(error
                .hint("hand the role over first: `poolctl volume primary web NODE`")
                .object("volume web")))
        }
        ("invalidate", _) => good(change("volume web", &body, Some("15"))),
        ("fake-sync", _) => good(change("volume web", &body, Some("16"))),
        ("secondary", _) => good(change("volume web", &body, Some("13"))),
        ("delete", _) => good(change("volume web", &body, Some("4"))),
        _ => Err(no_such("verb", &verb)),
    }
}

async fn snapshot(
    State(fake): State<Fake>,
    uri: axum::http::Uri,
    Json(body): Json<Value>,
) -> Answer<Changed> {
    fake.remember(&uri, &body);
    good(change("volume web", &body, Some("19")))
}

async fn snapshots(Segment(name): Segment<String>) -> Answer<SnapshotList> {
    let replica = |node: &str, state, reason: Option<&str>| SnapshotReplica {
        node: node.to_owned(),
        state,
        reason: reason.map(str::to_owned),
        path: (state == SnapshotState::Kept)
            .then(|| "/srv/vg0/1.img.snapshots/before.4096-01234567".to_owned()),
        used_bytes: if state == SnapshotState::Kept { 1 << 20 } else { 0 },
    };
    let row = SnapshotRow {
        snapshot: "before".to_owned(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        size_bytes: Some(64 << 20),
        at: Some(4096),
        replicas: vec![
            replica("a", SnapshotState::Kept, None),
            replica(
                "b",
                SnapshotState::Missing,
                Some("its full sync was not finished there"),
            ),
        ],
    };
    let snapshots = if name == "web" { vec![row] } else { Vec::new() };
    good(SnapshotList { name, snapshots })
}

async fn migrate(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Changed> {
    fake.remember(&uri, &body);
    let id = if body["to"] == "slow" { "8" } else { "7" };
    good(change("volume web", &body, Some(id)))
}

async fn attach(
    State(fake): State<Fake>,
    uri: axum::http::Uri,
    Segment(name): Segment<String>,
    Json(body): Json<Value>,
) -> Answer<Attached> {
    fake.remember(&uri, &body);
    let dry_run = body["dry_run"] == Value::Bool(true);
    let node = body["node"].as_str().unwrap_or("a").to_owned();
    let vhost = body["door"] == "vhost-user-blk";
    let (kind, path, uri) = match (dry_run, vhost) {
        (true, _) => (DoorKind::Nbd, "", ""),
        (false, true) => (DoorKind::VhostUserBlk, "/run/web.vhost.sock", ""),
        (false, false) => {
            let uri = "nbd+unix:///web?socket=/run/web.nbd.sock";
            (DoorKind::Nbd, "/run/web.nbd.sock", uri)
        }
    };
    good(Attached {
        volume: name,
        remote: node == "c",
        node,
        kind,
        path: path.to_owned(),
        uri: uri.to_owned(),
        dry_run,
    })
}

async fn pool_info(State(_): State<Fake>) -> Answer<PoolInfo> {
    good(PoolInfo {
        node: "a".to_owned(),
        pool: Some("main".to_owned()),
        catalog: true,
        address: "127.0.0.1:7778".to_owned(),
        program_version: "0.1.0".to_owned(),
    })
}

fn the_nodes(scene: Scene) -> Vec<Node> {
    let node = |name: &str, port: u16| Node {
        name: name.to_owned(),
        state: NodeState::Online,
        reason: None,
        address: format!("127.0.0.1:{port}"),
        peer_address: format!("127.0.0.1:{}", port - 1),
        catalog: name == "a",
        age_seconds: Some(0.4),
        size_bytes: 64 << 30,
        reserved_bytes: 16 << 30,
        free_bytes: 48 << 30,
        replicas: 1,
        primaries: u64::from(name == "a"),
        poold_version: Some("0.1.0".to_owned()),
        marsd_version: Some("0.1.0".to_owned()),
        joined: "2026-01-01T00:00:00Z".to_owned(),
        limits: Default::default(),
        drained: false,
    };
    let mut nodes = vec![node("a", 7778), node("b", 8778)];
    match scene {
        Scene::Healthy | Scene::Syncing | Scene::SplitBrain => {}
        Scene::Empty => {
            for node in &mut nodes {
                (node.size_bytes, node.reserved_bytes, node.free_bytes) = (0, 0, 0);
                (node.replicas, node.primaries) = (0, 0);
            }
        }
        Scene::MarsdDown => {
            nodes[1].state = NodeState::MarsdDown;
            nodes[1].reason = Some("connection refused".to_owned());
        }
        Scene::Degraded => {
            nodes[1].state = NodeState::Unreachable;
            nodes[1].reason = Some("no report for 42 s".to_owned());
            nodes[1].age_seconds = Some(42.0);
        }
    }
    nodes
}

async fn nodes(State(fake): State<Fake>) -> Answer<NodeList> {
    good(NodeList {
        nodes: the_nodes(fake.scene),
    })
}

async fn node(State(fake): State<Fake>, Segment(name): Segment<String>) -> Answer<Node> {
    match the_nodes(fake.scene).into_iter().find(|node| node.name == name) {
        Some(node) => good(node),
        None => Err(no_such("node", &name)),
    }
}

async fn vgs(State(fake): State<Fake>) -> Answer<VgList> {
    let vg = |node: &str| Vg {
        node: node.to_owned(),
        name: "vg0".to_owned(),
        kind: VgKind::Directory,
        path: "/srv/vg0".to_owned(),
        size_bytes: 64 << 30,
        overcommit_percent: if node == "a" { 250 } else { 100 },
        reserved_bytes: 16 << 30,
        free_bytes: 48 << 30,
        used_bytes: (node == "a").then_some(3 << 29),
        left_bytes: (node == "a").then_some(60 << 30),
        replicas: 1,
        problem: (node == "b").then(|| "its directory is gone".to_owned()),
    };
    let vgs = if fake.scene == Scene::Empty {
        Vec::new()
    } else {
        vec![vg("a"), vg("b")]
    };
    good(VgList { vgs })
}

fn the_volume(scene: Scene) -> Volume {
    let replica = |node: &str, role: &str| ReplicaRow {
        node: node.to_owned(),
        role: role.to_owned(),
        state: "uptodate".to_owned(),
        reason: None,
        size_bytes: 16 << 30,
        sync_percent: 100.0,
        lag_bytes: 0,
        lag_seconds: 0.0,
        dirty_bytes: None,
        appended: 8192,
        committed: 8192,
        written_back: 4096,
        peer_committed: 8192,
        vg: "vg0".to_owned(),
        paused: Vec::new(),
        path: Vec::new(),
        sources: Vec::new(),
        faked: false,
        verified: None,
        age_seconds: Some(0.4),
    };
    let mut volume = Volume {
        name: "web".to_owned(),
        id: "00000000000000000000000000000001".to_owned(),
        size_bytes: 16 << 30,
        mode: "async".to_owned(),
        settings: VolumeSettings::default(),
        compression: "none".to_owned(),
        limits: VolumeLimits {
            ship_bytes_per_second: None,
            sync_bytes_per_second: Some(100 << 20),
        },
        log_budget_bytes: None,
        short_seconds: None,
        late_seconds: None,
        room: LogRoom {
            pressure: "normal".to_owned(),
            unlogged_seconds: None,
            log_bytes: 8192,
            log_bytes_max: 1 << 30,
            log_held_by: Some("replica b".to_owned()),
        },
        state: "uptodate".to_owned(),
        primary: Some("a".to_owned()),
        epoch: 2,
        generation: 3,
        replicas: vec![replica("a", "primary"), replica("b", "secondary")],
        doors: vec![DoorRow {
            kind: DoorKind::Nbd,
            node: "a".to_owned(),
            path: "/run/web.nbd.sock".to_owned(),
            uri: "nbd+unix:///web?socket=/run/web.nbd.sock".to_owned(),
            open: true,
            read_only: false,
            remote: false,
            clients: 1,
            pause_micros_max: 12_400,
        }],
        last_verified: None,
        differing_bytes: Default::default(),
        kept_histories: 0,
        kept_bytes: 0,
        job: None,
    };
    let other = &mut volume.replicas[1];
    match scene {
        Scene::Healthy | Scene::Empty => return volume,
        Scene::Syncing => {
            other.state = "syncing".to_owned();
            other.sync_percent = 42.0;
        }
        Scene::SplitBrain => {
            other.state = "split-brain".to_owned();
            other.reason = Some("its log parts from that of a at 4096".to_owned());
        }
        Scene::MarsdDown => other.state = "unreachable".to_owned(),
        Scene::Degraded => {
            other.state = "unreachable".to_owned();
            other.reason = Some("no link from a".to_owned());
            other.lag_bytes = 5 << 20;
            other.lag_seconds = 42.0;
            other.age_seconds = Some(42.0);
            other.paused = vec![SwitchWord::Replay];
            volume.mode = "near-sync".to_owned();
            volume.settings = VolumeSettings {
                mode: ModeSpec::NearSync {
                    replicas: 1,
                    wait_millis_max: 200,
                },
                lag_millis_max: Some(5000),
                ..VolumeSettings::default()
            };
            volume.short_seconds = Some(42.0);
            volume.late_seconds = Some(37.0);
            volume.room.pressure = "unlogged".to_owned();
            volume.room.unlogged_seconds = Some(12.0);
            volume.replicas[1].dirty_bytes = Some(3 << 20);
        }
    }
    let other = &mut volume.replicas[1];
    volume.state.clone_from(&other.state);
    volume
}

async fn volumes(State(fake): State<Fake>) -> Answer<VolumeList> {
    good(VolumeList {
        volumes: the_volumes(fake.scene),
    })
}

fn the_volumes(scene: Scene) -> Vec<Volume> {
    match scene {
        Scene::Empty => Vec::new(),
        _ => vec![the_volume(scene)],
    }
}

async fn volume(State(fake): State<Fake>, Segment(name): Segment<String>) -> Answer<Volume> {
    match name.as_str() {
        "web" => good(the_volume(fake.scene)),
        _ => Err(no_such("volume", &name)),
    }
}

async fn split(State(fake): State<Fake>, Segment(name): Segment<String>) -> Answer<SplitBrain> {
    let side = |bytes, records| SplitSide {
        bytes,
        records,
        first: Some("2026-01-01T00:00:00Z".to_owned()),
        last: Some("2026-01-01T00:00:07Z".to_owned()),
        complete: true,
    };
    let parted = fake.scene == Scene::SplitBrain;
    let pair = SplitPair {
        node: "b".to_owned(),
        other: "a".to_owned(),
        at: 4096,
        at_digest: "0123456789abcdef".to_owned(),
        here: side(8192, 2),
        there: Some(side(4096, 1)),
    };
    let kept = KeptHistory {
        node: "b".to_owned(),
        history: "1767225600000".to_owned(),
        path: "/var/lib/marsd/log/kept/1".to_owned(),
        bytes: 12 << 20,
        kept: "2026-01-01T00:00:00Z".to_owned(),
        parted_from: Some("a".to_owned()),
        at: Some(4096),
        here: Some(side(8192, 2)),
    };
    good(SplitBrain {
        name,
        parted,
        primary: Some("a".to_owned()),
        pairs: if parted { vec![pair] } else { Vec::new() },
        kept: if parted { Vec::new() } else { vec![kept] },
    })
}

async fn resolve(State(fake): State<Fake>, uri: axum::http::Uri, Json(body): Json<Value>) -> Answer<Changed> {
    fake.remember(&uri, &body);
    good(change("volume web", &body, Some("17")))
}

async fn log(State(_): State<Fake>, Segment(name): Segment<String>) -> Answer<VolumeLog> {
    let row = |node: &str, role: &str| LogRow {
        node: node.to_owned(),
        role: role.to_owned(),
        epoch: "2.1".to_owned(),
        trimmed: 0,
        written_back: 4096,
        touched: 4096,
        committed: 8192,
        appended: 8192,
        kept_bytes: 8192,
        budget_bytes: 1 << 30,
        pressure: "normal".to_owned(),
        held_by: (role == "primary").then(|| "replica b".to_owned()),
        chain_digest: "0123456789abcdef".to_owned(),
    };
    good(VolumeLog {
        name,
        replicas: vec![row("a", "primary"), row("b", "secondary")],
    })
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

fn base_job(id: &str, kind: JobKind, phases: &[&str]) -> Job {
    Job {
        id: id.to_owned(),
        kind,
        volume: "web".to_owned(),
        state: JobState::Running,
        phase: phases.first().copied().unwrap_or_default().to_owned(),
        phases: phases.iter().map(|phase| (*phase).to_owned()).collect(),
        from: Some("a".to_owned()),
        to: Some("c".to_owned()),
        percent: 0.0,
        done_bytes: 0,
        total_bytes: 64 << 20,
        copied_bytes: 0,
        rate_bytes_per_second: 0,
        eta_seconds: None,
        gate_micros_max: None,
        message: String::new(),
        error: None,
        verify: None,
        created: "2026-01-01T00:00:00Z".to_owned(),
        ended: None,
        revision: 1,
    }
}

fn done(job: Job) -> Job {
    Job {
        state: JobState::Done,
        phase: job.phases.last().unwrap().clone(),
        percent: 100.0,
        ended: Some("2026-01-01T00:00:03.200Z".to_owned()),
        revision: job.revision + 1,
        ..job
    }
}

/// Jobs 1 to 4 are done at once, 7 walks through a migration as it is asked, 8 never ends, 9 fails, 10 finds a difference,
/// 11 was done in a degraded pool.
fn the_job(id: &str, after: u64) -> Option<Job> {
    let moving = base_job("7", JobKind::Migrate, &["join", "sync", "hand-over", "leave"]);
    Some(match (id, after) {
        ("1", _) => done(base_job("1", JobKind::Create, &["start", "sync"])),
        ("2", _) => done(Job {
            copied_bytes: 12 << 20,
            ..base_job("2", JobKind::Join, &["join", "sync"])
        }),
        ("3", _) => done(Job {
            gate_micros_max: Some(840),
            to: Some("b".to_owned()),
            ..base_job("3", JobKind::Primary, &["hand-over"])
        }),
        ("12", _) => done(base_job("12", JobKind::TakeOver, &["order"])),
        ("14", _) => done(base_job("14", JobKind::Replicas, &["sync"])),
        ("15", _) => done(Job {
            to: Some("b".to_owned()),
            copied_bytes: 12 << 20,
            ..base_job("15", JobKind::Invalidate, &["order", "sync"])
        }),
        ("17", _) => done(Job {
            message: "keeps its former log in /var/lib/marsd/log/kept/1 until somebody removes it".to_owned(),
            ..base_job("17", JobKind::Resolve, &["order", "sync"])
        }),
        ("16", _) => done(base_job("16", JobKind::FakeSync, &["order"])),
        ("18", _) => done(base_job("18", JobKind::Resize, &["grow"])),
        ("19", _) => done(Job {
            message: "kept on a, b".to_owned(),
            ..base_job("19", JobKind::Snapshot, &["take"])
        }),
        ("20", _) => done(Job {
            message: "wrote 1 MiB".to_owned(),
            ..base_job("20", JobKind::Restore, &["restore"])
        }),
        ("13", _) => done(base_job("13", JobKind::Secondary, &["order"])),
        ("4", _) => done(base_job("4", JobKind::Delete, &["remove"])),
        ("7", 0) => Job {
            message: "c makes its disk".to_owned(),
            ..moving
        },
        ("7", 1) => Job {
            phase: "sync".to_owned(),
            percent: 42.0,
            done_bytes: 27 << 20,
            rate_bytes_per_second: 10 << 20,
            eta_seconds: Some(3.7),
            revision: 2,
            ..moving
        },
        ("7", _) => Job {
            copied_bytes: 12 << 20,
            gate_micros_max: Some(12_400),
            ..done(Job {
                revision: 2,
                ..moving
            })
        },
        ("8", _) => Job {
            message: "waits for slow".to_owned(),
            ..base_job("8", JobKind::Migrate, &["join"])
        },
        ("9", _) => {
            let error = ApiError::refused("b is the only whole replica of web")
                .hint("poolctl volume join web NODE")
                .object("volume web");
            let job = base_job("9", JobKind::Leave, &["leave"]);
            Job {
                state: JobState::Failed,
                error: Some(error),
                ..job
            }
        }
        ("10", _) => {
            let row = |node: &str, different_bytes| VerifiedReplica {
                node: node.to_owned(),
                compared: true,
                different_bytes,
                repaired_bytes: 0,
            };
            let difference = DifferenceRow {
                node: "b".to_owned(),
                offset_bytes: 65536,
                length_bytes: 65536,
                repaired: false,
            };
            let report = VerifyReport {
                verdict: Verdict::Different,
                began: "2026-01-01T00:00:00Z".to_owned(),
                repair: false,
                primary: "a".to_owned(),
                replicas: vec![row("a", 0), row("b", 65536)],
                differences: vec![difference],
            };
            Job {
                verify: Some(report),
                ..done(base_job("10", JobKind::Verify, &["order", "compare"]))
            }
        }
        ("11", _) => {
            let error = ApiError::new(ErrorKind::Degraded, "c has a replica of web, but b is away")
                .hint("poolctl status");
            Job {
                error: Some(error),
                ..done(base_job("11", JobKind::Join, &["join", "sync"]))
            }
        }
        _ => return None,
    })
}

async fn job(
    State(_): State<Fake>,
    Segment(id): Segment<String>,
    Query(After { after }): Query<After>,
) -> Answer<Job> {
    if id == "8" && after.is_some() {
        // No news ever: the asker has to give up by itself.
        std::future::pending::<()>().await;
    }
    the_job(&id, after.unwrap_or(0))
        .ok_or_else(|| no_such("job", &id))
        .and_then(good)
}

async fn jobs(State(_): State<Fake>) -> Answer<JobList> {
    good(JobList {
        jobs: [("9", 0), ("7", 1), ("1", 0)]
            .into_iter()
            .filter_map(|(id, at)| the_job(id, at))
            .collect(),
    })
}

async fn status(State(fake): State<Fake>) -> Answer<Status> {
    let mut volumes = the_volumes(fake.scene);
    let mut jobs = Vec::new();
    let problem = match fake.scene {
        Scene::Healthy | Scene::Empty | Scene::Syncing => None,
        Scene::MarsdDown => Some("marsd of host b does not answer"),
        Scene::SplitBrain => Some("the replica of web on b has parted from its primary"),
        Scene::Degraded => {
            volumes[0].job = Some("7".to_owned());
            jobs.extend(the_job("7", 1));
            Some("host b has not been heard of for 42 s")
        }
    };
    good(Status {
        pool: "main".to_owned(),
        state: if problem.is_some() {
            PoolState::Degraded
        } else {
            PoolState::Healthy
        },
        seen_from: None,
        problems: problem.into_iter().map(str::to_owned).collect(),
        nodes: the_nodes(fake.scene),
        volumes,
        jobs,
    })
}

/// 1,500 events, at most 1,000 per answer.
async fn events(State(_): State<Fake>, Query(After { after }): Query<After>) -> Answer<EventList> {
    let first = after.unwrap_or(0).saturating_add(1);
    let events = (first..=1500)
        .take(1000)
        .map(|number| Event {
            number,
            time: "2026-01-01T00:00:00Z".to_owned(),
            object: "volume web".to_owned(),
            message: format!("event {number}"),
        })
        .collect();
    good(EventList { events, newest: 1500 })
}
