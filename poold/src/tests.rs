//! Whole pools in one process: real daemons, sockets and certificates over marsds that only pretend.

mod jobs;
mod joining;
mod refusals;
mod resize;
mod roles;
mod settings;
mod snapshots;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::pool::{
    AddVg, CreateVolume, IssueToken, Job, JobState, JoinPool, LvmLayout, NodeState, PoolInit, Token,
};
use api::{ApiError, Client};

use crate::config::Config;
use crate::daemon::Daemon;
use crate::fake_marsd::{FakeMarsd, World};

/// Size of the volume groups of tests.
const VG_BYTES: u64 = 1 << 20;

/// Longest that a test waits for anything; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host: its directory outlives its daemons.
struct Host {
    node: String,
    dir: tempfile::TempDir,
    config: Config,
    marsd: Option<FakeMarsd>,
    daemon: Option<Arc<Daemon>>,
    client: Client,
    world: Arc<World>,
}

impl Host {
    async fn start(node: &str, world: &Arc<World>) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let marsd = FakeMarsd::start(dir.path(), node, world.clone());
        let config = Config {
            node: node.to_owned(),
            state_dir: dir.path().join("state"),
            api_sock: dir.path().join("api.sock"),
            listen: free_port(),
            advertise: String::new(),
            marsd_control: marsd.socket.clone(),
            marsd_peer: "127.0.0.1:7777".to_owned(),
        };
        let config = Config {
            advertise: config.listen.to_string(),
            ..config
        };
        let client = Client::unix(&config.api_sock);
        let (node, world) = (node.to_owned(), world.clone());
        let mut host = Host {
            node,
            dir,
            config,
            marsd: Some(marsd),
            daemon: None,
            client,
            world,
        };
        host.boot().await;
        host
    }

    async fn boot(&mut self) {
        for attempt in 1.. {
            let daemon = Daemon::new(self.config.clone()).unwrap();
            match daemon.start().await {
                Ok(_) => {
                    self.daemon = Some(daemon);
                    return;
                }
                // A process that dies lets go of its catalog; of the tasks that stand for it here, the last may be ending yet.
                Err(error) if attempt < 400 && format!("{error:#}").contains("already open") => {
                    tokio::time::sleep(std::time::Duration::from_millis(25)).await;
                }
                Err(error) => panic!("{error:#}"),
            }
        }
    }

    /// The daemon ends at once, whatever it is doing.
    async fn kill(&mut self) {
        self.daemon.take().unwrap().stop().await;
    }

    fn stop_marsd(&mut self) {
        self.marsd = None;
    }

    fn start_marsd(&mut self) {
        self.marsd = Some(FakeMarsd::start(self.dir.path(), &self.node, self.world.clone()));
    }

    async fn init(&self) {
        self.client
            .pool_init(&PoolInit {
                name: "p".to_owned(),
                dry_run: false,
            })
            .await
            .unwrap();
    }

    async fn token(&self) -> Token {
        self.client
            .node_token(&IssueToken {
                ttl_seconds: None,
                dry_run: false,
            })
            .await
            .unwrap()
    }

    async fn join(&self, token: &str) -> Result<(), ApiError> {
        let wish = JoinPool {
            url: String::new(),
            token: token.to_owned(),
            dry_run: false,
        };
        self.client.node_join(&wish).await.map(|_| ())
    }

    async fn add_vg(&self) {
        let dir = self.dir.path().join("vg").display().to_string();
        let wish = AddVg {
            name: "vg".to_owned(),
            node: None,
            dir: Some(dir),
            layout: LvmLayout::default(),
            size_bytes: Some(VG_BYTES),
            overcommit_percent: None,
            dry_run: false,
        };
        self.client.vg_add(&wish).await.unwrap();
    }

    fn disks(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path().join("vg")).unwrap();
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|e| e == "img")
            })
            .count()
    }
}

/// A pool of as many hosts as there are letters, each with a volume group.
async fn pool(nodes: &str, world: &Arc<World>) -> Vec<Host> {
    let mut hosts = Vec::new();
    for node in nodes.chars() {
        let host = Host::start(&node.to_string(), world).await;
        if hosts.is_empty() {
            host.init().await;
        } else {
            let first: &Host = &hosts[0];
            host.join(&first.token().await.token).await.unwrap();
        }
        host.add_vg().await;
        hosts.push(host);
    }
    online(&hosts[0].client, nodes.len()).await;
    hosts
}

async fn online(client: &Client, count: usize) {
    until(client, async || {
        let nodes = client.nodes().await.unwrap().nodes;
        nodes
            .iter()
            .filter(|node| node.state == NodeState::Online)
            .count()
            == count
    })
    .await;
}

/// Waits until a look at the pool is as wanted; looks again after each event or a short while.
async fn until(_: &Client, mut look: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("what the test waits for happens");
}

async fn create(client: &Client, name: &str, replicas: u32) -> String {
    let wish = CreateVolume {
        name: name.to_owned(),
        size_bytes: 8192,
        replicas: Some(replicas),
        ..CreateVolume::default()
    };
    let job = client.volume_create(&wish).await.unwrap().job.unwrap();
    finish(client, &job, JobState::Done).await;
    job
}

/// Waits for the end of a job by long polls.
async fn finish(client: &Client, id: &str, want: JobState) -> Job {
    let wait = async {
        let mut job = client.job(id).await.unwrap();
        while !job.state.ended() {
            job = client
                .job_wait(id, job.revision, Duration::from_secs(5))
                .await
                .unwrap();
        }
        job
    };
    let job = tokio::time::timeout(PATIENCE, wait).await.expect("the job ends");
    assert_eq!(job.state, want, "{job:?}");
    job
}

async fn in_phase(client: &Client, id: &str, phase: &str) {
    until(client, async || client.job(id).await.unwrap().phase == phase).await;
}

fn free_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
