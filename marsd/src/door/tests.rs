//! Do stock clients find everything that the protocol promises? And does a door keep serving while the primary moves?

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use api::control::Member;
use bytes::Bytes;
use mars::{Admission, BlockExtent, GuestError, GuestRequest, Reply, Standing};
use model::{Epoch, NodeId, SectorRange, VolumeId, VolumeName, VolumeSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::port::{Done, Gates, PrimaryPort, Quiet};
use super::router::Router;
use super::*;
use crate::length::Length;
use crate::link::frame::{Dialer, Dialling, DoorHello, FrameReader, FrameWriter};

const SECTOR: usize = 512;

/// A volume in memory that knows which sectors were ever written.
#[derive(Debug)]
struct Memory {
    contents: Mutex<(Vec<u8>, Vec<bool>)>,
}

impl Memory {
    fn new(size: VolumeSize) -> Memory {
        let bytes = usize::try_from(size.bytes()).unwrap();
        Memory {
            contents: Mutex::new((vec![0; bytes], vec![false; bytes / SECTOR])),
        }
    }

    fn perform(&self, request: GuestRequest) -> Reply {
        let mut contents = self.contents.lock().unwrap();
        let (bytes, written) = &mut *contents;
        let sectors = |range: SectorRange| {
            usize::try_from(range.start.0).unwrap()..usize::try_from(range.end().0).unwrap()
        };
        let span = |range: SectorRange| sectors(range).start * SECTOR..sectors(range).end * SECTOR;
        match request {
            GuestRequest::Read { range } => Reply::Data(Bytes::copy_from_slice(&bytes[span(range)])),
            GuestRequest::Write { range, data, .. } => {
                bytes[span(range)].copy_from_slice(&data);
                written[sectors(range)].fill(true);
                Reply::Done
            }
            GuestRequest::Flush => Reply::Done,
            GuestRequest::Discard { range, .. } | GuestRequest::WriteZeroes { range, .. } => {
                bytes[span(range)].fill(0);
                written[sectors(range)].fill(false);
                Reply::Done
            }
            GuestRequest::BlockStatus { range } => {
                let extents = sectors(range).map(|sector| BlockExtent {
                    range: SectorRange::new(sector as u64, 1).unwrap(),
                    data: written[sector],
                });
                Reply::Extents(extents.collect())
            }
        }
    }
}

impl Guests for Memory {
    fn ask(&self, request: GuestRequest, done: Done) {
        done(Ok(self.perform(request)));
    }

    fn came(&self) {}

    fn left(&self) {}

    fn quiet(&self) -> Quiet {
        Box::pin(std::future::ready(()))
    }

    fn pause_micros_max(&self) -> u64 {
        0
    }
}

fn offer(bytes: u64) -> Offer {
    Offer {
        name: VolumeName::new("vol").unwrap(),
        length: Length::new(VolumeSize::new(bytes).unwrap()),
        read_only: false,
    }
}

fn unix() -> DoorSpec {
    DoorSpec::Nbd {
        path: None,
        read_only: false,
    }
}

fn unix_read_only() -> DoorSpec {
    DoorSpec::Nbd {
        path: None,
        read_only: true,
    }
}

async fn memory_door(spec: DoorSpec, dir: &Path, bytes: u64) -> Door {
    let offer = offer(bytes);
    let memory = Arc::new(Memory::new(offer.length.now()));
    Door::open(spec, dir, offer, memory).await.unwrap()
}

/// Runs a stock client to its end; a program that is missing is an error with its package's name.
async fn run(program: &str, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "cannot run `{program}` ({error}); `make test` installs it, or: apt install libnbd-bin qemu-utils"
        )
    });
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn must_run(program: &str, args: &[&str]) -> String {
    let (success, text) = run(program, args).await;
    assert!(success, "{program} {args:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_finds_every_feature() {
    let dir = tempfile::tempdir().unwrap();
    let door = memory_door(unix(), dir.path(), 8 << 20).await;
    let text = must_run("nbdinfo", &[door.uri()]).await;
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export-size: 8388608",
        "export=\"vol\"",
        "base:allocation",
        "is_read_only: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(line), "no `{line}` in:\n{text}");
    }
    let listed = must_run("nbdinfo", &["--list", door.uri()]).await;
    assert!(listed.contains("export=\"vol\""), "{listed}");
    let default = format!("nbd+unix:///?socket={}", door.address());
    must_run("nbdinfo", &[&default]).await;
    let other = format!("nbd+unix:///other?socket={}", door.address());
    assert!(
        !run("nbdinfo", &[&other]).await.0,
        "an export of another name was found"
    );
    door.close().await;
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the socket is still there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_brings_an_image_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    let door = memory_door(
        DoorSpec::NbdTcp {
            addr: "127.0.0.1:0".into(),
            read_only: false,
        },
        dir.path(),
        48 << 20,
    )
    .await;
    let mut image = vec![0; 48 << 20];
    for (index, chunk) in image
        .chunks_mut(4096)
        .enumerate()
        .filter(|(i, _)| i % 5 != 0 && i % 1000 < 400)
    {
        chunk.fill(u8::try_from(index % 255).unwrap() + 1);
    }
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&from, &image).unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    must_run("nbdcopy", &["--flush", "--connections=4", from, door.uri()]).await;
    must_run("nbdcopy", &["--connections=4", door.uri(), to]).await;
    assert!(std::fs::read(to).unwrap() == image, "the image came back changed");
    must_run(
        "nbdcopy",
        &["--request-size=33554432", "--connections=1", door.uri(), "null:"],
    )
    .await;
    must_run(
        "nbdcopy",
        &["--request-size=33554432", "--connections=1", from, door.uri()],
    )
    .await;
    let same = must_run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", from, door.uri()],
    )
    .await;
    assert!(same.contains("Images are identical"), "{same}");
    let map = must_run("qemu-img", &["map", "-f", "raw", "--output=json", door.uri()]).await;
    assert!(
        map.contains("\"zero\": true") && map.contains("\"data\": true"),
        "{map}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_tries_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let door = memory_door(unix(), dir.path(), 16 << 20).await;
    let commands = [
        "write -P 0x11 0 64k",
        "write -f -P 0x22 64k 512",
        "aio_write -P 0x33 1M 1M",
        "aio_write -P 0x44 2M 1M",
        "aio_flush",
        "read -P 0x11 0 64k",
        "read -P 0x22 64k 512",
        "read -P 0x33 1M 1M",
        "read -P 0x44 2M 1M",
        "write -z 4k 4k",
        "write -z -u 1M 64k",
        "discard 2M 512k",
        "read -P 0 4k 4k",
        "read -P 0 1M 64k",
        "read -P 0 2M 512k",
        "read -P 0x44 2560k 512k",
        "flush",
        "map",
    ];
    let mut args = vec!["-f", "raw"];
    commands.iter().for_each(|c| args.extend(["-c", c]));
    args.push(door.uri());
    let text = must_run("qemu-io", &args).await;
    assert!(!text.contains("failed") && !text.contains("error"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_door_takes_no_writes() {
    let dir = tempfile::tempdir().unwrap();
    let door = memory_door(unix_read_only(), dir.path(), 1 << 20).await;
    let text = must_run("nbdinfo", &[door.uri()]).await;
    assert!(text.contains("is_read_only: true"), "{text}");
    let (success, text) = run("qemu-io", &["-f", "raw", "-c", "write 0 512", door.uri()]).await;
    assert!(!success, "{text}");
    must_run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0 0 512", door.uri()],
    )
    .await;
}

/// Waits until the door has this many clients.
async fn clients(door: &Door, want: u64) {
    while door.status().clients != want {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A client by hand that has chosen the export, with simple replies.
async fn begun(door: &Door) -> UnixStream {
    let mut stream = UnixStream::connect(door.address()).await.unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.unwrap();
    let mut hello = 3u32.to_be_bytes().to_vec();
    hello.extend(nbd::protocol::OPTION_MAGIC.to_be_bytes());
    hello.extend([1u32.to_be_bytes(), 0u32.to_be_bytes()].concat());
    stream.write_all(&hello).await.unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).await.unwrap();
    stream
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = nbd::protocol::REQUEST_MAGIC.to_be_bytes().to_vec();
    out.extend([[0, 0], command.to_be_bytes()].concat());
    out.extend([cookie.to_be_bytes(), offset.to_be_bytes()].concat());
    out.extend(length.to_be_bytes());
    out
}

async fn simple_reply(stream: &mut UnixStream) -> (u32, u64) {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[..4], nbd::protocol::SIMPLE_REPLY_MAGIC.to_be_bytes());
    let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
    (error, u64::from_be_bytes(reply[8..].try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_hurts_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let door = memory_door(unix(), dir.path(), 1 << 20).await;
    let mut honest = begun(&door).await;

    let mut stranger = UnixStream::connect(door.address()).await.unwrap();
    stranger
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    // Closed with unread bytes: an end or a reset, both are a goodbye.
    let _ = stranger.read_to_end(&mut rest).await;

    let mut liar = begun(&door).await;
    liar.write_all(&[0xff; 28]).await.unwrap();
    let _ = liar.read_to_end(&mut rest).await;

    // Too long a write: refused, its payload skipped, the connection stays usable.
    let long = nbd::protocol::PAYLOAD_BYTES_MAX + 512;
    honest.write_all(&request(1, 7, 0, long)).await.unwrap();
    honest.write_all(&vec![1; long as usize]).await.unwrap();
    assert_eq!(simple_reply(&mut honest).await, (22, 7));
    honest.write_all(&request(0, 8, 1 << 20, 512)).await.unwrap();
    assert_eq!(simple_reply(&mut honest).await, (22, 8));
    honest
        .write_all(&[request(1, 9, 1 << 20, 512), vec![0; 512]].concat())
        .await
        .unwrap();
    assert_eq!(simple_reply(&mut honest).await, (28, 9));
    honest.write_all(&request(3, 10, 0, 0)).await.unwrap();
    assert_eq!(simple_reply(&mut honest).await, (0, 10));
    clients(&door, 1).await;
    honest.write_all(&request(2, 0, 0, 0)).await.unwrap();
    assert_eq!(honest.read(&mut [0; 1]).await.unwrap(), 0);
    clients(&door, 0).await;
}

/// Answers only when told to.
#[derive(Default)]
struct Held(Mutex<Vec<Done>>);

impl Guests for Held {
    fn ask(&self, _: GuestRequest, done: Done) {
        self.0.lock().unwrap().push(done);
    }

    fn came(&self) {}

    fn left(&self) {}

    fn quiet(&self) -> Quiet {
        Box::pin(std::future::ready(()))
    }

    fn pause_micros_max(&self) -> u64 {
        42
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_waits_for_answers_and_a_flood_is_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let held = Arc::new(Held::default());
    let door = Door::open(unix(), dir.path(), offer(1 << 20), held.clone())
        .await
        .unwrap();
    let mut client = begun(&door).await;
    let mut flood: Vec<u8> = (0..500).flat_map(|cookie| request(3, cookie, 0, 0)).collect();
    flood.extend(request(2, 0, 0, 0));
    // At once: a socket buffer holds far fewer small pieces than bytes, and nobody is answered before all is sent.
    client.write_all(&flood).await.unwrap();
    let mut answered = Vec::new();
    let mut under_way_max = 0;
    while answered.len() < 500 {
        let dones = std::mem::take(&mut *held.0.lock().unwrap());
        under_way_max = under_way_max.max(dones.len());
        if dones.is_empty() {
            tokio::task::yield_now().await;
        }
        // The last one first: answers come in any order.
        for done in dones.into_iter().rev() {
            done(Ok(Reply::Done));
            let (error, cookie) = simple_reply(&mut client).await;
            assert_eq!(error, 0);
            answered.push(cookie);
        }
    }
    assert!(under_way_max <= 128, "{under_way_max} requests at once");
    answered.sort_unstable();
    assert_eq!(answered, (0..500).collect::<Vec<_>>());
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(door.status().pause_micros_max, 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_replaced_only_if_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vol.nbd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let door = memory_door(unix(), dir.path(), 1 << 20).await;
    must_run("nbdinfo", &["--size", door.uri()]).await;
    let memory = Arc::new(Memory::new(VolumeSize::new(1 << 20).unwrap()));
    let second = Door::open(unix(), dir.path(), offer(1 << 20), memory.clone()).await;
    assert!(matches!(second, Err(DoorError::Occupied { .. })));
    door.close().await;
    std::fs::write(&path, "precious").unwrap();
    let third = Door::open(unix(), dir.path(), offer(1 << 20), memory.clone()).await;
    assert!(matches!(third, Err(DoorError::Occupied { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let open = |addr: &str| DoorSpec::NbdTcp {
        addr: addr.into(),
        read_only: false,
    };
    let fourth = Door::open(open("0.0.0.0:0"), dir.path(), offer(1 << 20), memory.clone()).await;
    assert!(matches!(fourth, Err(DoorError::NotLoopback { .. })));
    let fifth = Door::open(open("here"), dir.path(), offer(1 << 20), memory).await;
    assert!(matches!(fifth, Err(DoorError::BadAddress { .. })));
}

/// A replica as its port shows it: its contents are one memory that all nodes of a test share.
struct Replica {
    name: NodeId,
    memory: Arc<Memory>,
    standing: watch::Sender<Standing>,
    granted: Mutex<Option<Epoch>>,
}

impl PrimaryPort for Replica {
    // Nothing waits here.
    fn prune(&self) {}

    fn heard(&self, epoch: Epoch) {
        self.standing.send_if_modified(|view| {
            let deposed = view.serving && view.epoch.term < epoch.term;
            view.serving &= !deposed;
            deposed
        });
    }

    fn submit(&self, admission: &Admission, request: GuestRequest, done: Done) {
        // The lock on the role stands for the engine's loop: no request is done while it changes.
        let view = self.standing.borrow();
        let refused = |granted| {
            let hint = view.primary.clone();
            Err(GuestError::NotPrimary { hint, granted })
        };
        let result = if !admission.admits(view.serving.then_some(view.epoch)) {
            refused(None)
        } else if !view.serving {
            refused(*self.granted.lock().unwrap())
        } else {
            Ok(self.memory.perform(request))
        };
        drop(view);
        done(result);
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

/// Some hosts that share a memory, and the way between them.
struct Cluster {
    replicas: BTreeMap<String, Arc<Replica>>,
    gates: Gates,
    epoch: Mutex<Epoch>,
    links: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Cluster {
    fn new(names: &[&str], size: VolumeSize) -> Arc<Cluster> {
        let memory = Arc::new(Memory::new(size));
        let replicas = names.iter().map(|name| {
            let replica = Replica {
                name: NodeId::new(name).unwrap(),
                memory: memory.clone(),
                standing: watch::Sender::new(Standing::default()),
                granted: Mutex::default(),
            };
            ((*name).to_owned(), Arc::new(replica))
        });
        Arc::new(Cluster {
            replicas: replicas.collect(),
            gates: Gates::default(),
            epoch: Mutex::new(Epoch::NONE),
            links: Mutex::default(),
        })
    }

    fn members(&self) -> Vec<Member> {
        let member = |name: &String| Member {
            node: name.clone(),
            addr: name.clone(),
        };
        self.replicas.keys().map(member).collect()
    }

    /// Moves the primary; between the demotion and the promotion there is none.
    async fn hand_over(&self, to: &str) {
        let epoch = {
            let mut epoch = self.epoch.lock().unwrap();
            *epoch = epoch.next_term();
            *epoch
        };
        let successor = &self.replicas[to];
        for replica in self.replicas.values() {
            if replica.standing.borrow().serving {
                *replica.granted.lock().unwrap() = Some(epoch);
            }
            let primary = Some(successor.name.clone());
            replica.standing.send_replace(Standing {
                primary,
                epoch,
                known: epoch,
                serving: false,
                wants_sync: false,
            });
        }
        tokio::task::yield_now().await;
        successor.standing.send_modify(|view| view.serving = true);
    }

    fn cut_links(&self) {
        self.links.lock().unwrap().drain(..).for_each(|link| link.abort());
    }
}

/// Dials hosts of a cluster over pipes.
struct Pipes(Arc<Cluster>);

impl Dialer for Pipes {
    fn dial_door(&self, peer: &Member, hello: DoorHello) -> Dialling<'_> {
        let replica = self.0.replicas.get(&peer.addr).cloned();
        let cluster = self.0.clone();
        Box::pin(async move {
            let replica = replica.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (here, there) = tokio::io::duplex(64 * 1024);
            let serving = tokio::spawn({
                let cluster = cluster.clone();
                async move {
                    let (reader, writer) = tokio::io::split(there);
                    let (reader, writer) = (FrameReader::new(reader), FrameWriter::new(writer));
                    // How a connection ends is the test's doing.
                    let _ = remote::serve(reader, writer, replica, hello, &cluster.gates).await;
                }
            });
            cluster.links.lock().unwrap().push(serving.abort_handle());
            let (reader, writer) = tokio::io::split(here);
            Ok((FrameReader::new(reader), FrameWriter::new(writer)))
        })
    }
}

fn router(cluster: &Arc<Cluster>, node: &str) -> Arc<Router> {
    let local = cluster
        .replicas
        .get(node)
        .cloned()
        .map(|r| r as Arc<dyn PrimaryPort>);
    let dialer = Arc::new(Pipes(cluster.clone()));
    Arc::new(Router::new(
        VolumeId(7),
        NodeId::new(node).unwrap(),
        cluster.members(),
        local,
        dialer,
    ))
}

async fn ask(router: &Router, request: GuestRequest) -> Reply {
    let (send, receive) = tokio::sync::oneshot::channel();
    router.ask(request, Box::new(move |result| drop(send.send(result))));
    receive.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_door_follows_the_primary_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let offer = offer(32 << 20);
    let cluster = Cluster::new(&["a", "b", "c"], offer.length.now());
    cluster.hand_over("a").await;
    // One door beside a replica, one on a host without any.
    for node in ["a", "elsewhere"] {
        let router = router(&cluster, node);
        let door = Door::open(unix(), dir.path(), offer.clone(), router.clone())
            .await
            .unwrap();
        let from = dir.path().join("in");
        let image: Vec<u8> = (0..32usize << 20)
            .map(|i| u8::try_from((i / 4096) % 251).unwrap())
            .collect();
        std::fs::write(&from, &image).unwrap();
        let uri = door.uri().to_owned();
        let copying = tokio::spawn(async move {
            let from = from.to_str().unwrap();
            for _ in 0..3 {
                must_run("nbdcopy", &["--flush", "--connections=4", from, &uri]).await;
                must_run("qemu-img", &["compare", "-f", "raw", "-F", "raw", from, &uri]).await;
            }
        });
        let mut moves = 0;
        while !copying.is_finished() {
            cluster.hand_over(["b", "c", "a"][moves % 3]).await;
            if moves % 5 == 4 {
                cluster.cut_links();
            }
            moves += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        copying.await.unwrap();
        assert!(moves > 3, "the primary hardly moved");
        assert!(
            cluster.replicas["a"].memory.contents.lock().unwrap().0 == image,
            "contents differ"
        );
        assert!(door.status().pause_micros_max > 0);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_leave_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let offer = offer(1 << 20);
    let cluster = Cluster::new(&["a"], offer.length.now());
    cluster.hand_over("a").await;
    let router = router(&cluster, "elsewhere");
    let door = Door::open(unix(), dir.path(), offer, router.clone())
        .await
        .unwrap();
    let mut client = begun(&door).await;
    client
        .write_all(&[request(1, 1, 0, 512), vec![9; 512]].concat())
        .await
        .unwrap();
    assert_eq!(simple_reply(&mut client).await, (0, 1));
    assert!(router.status().copies_bytes > 0, "nothing was flushed");
    door.close().await;
    while router.status().copies_bytes > 0 {
        tokio::task::yield_now().await;
    }
    // Without a primary, what a cut-off guest asked last is not done later.
    let door = Door::open(unix(), dir.path(), self::offer(1 << 20), router.clone())
        .await
        .unwrap();
    let mut client = begun(&door).await;
    let nobody = Standing {
        primary: None,
        epoch: Epoch { term: 1, start: 1 },
        known: Epoch { term: 1, start: 1 },
        serving: false,
        wants_sync: false,
    };
    cluster.replicas["a"].standing.send_replace(nobody);
    client
        .write_all(&[request(1, 2, 0, 512), vec![8; 512]].concat())
        .await
        .unwrap();
    while router.status().waiting_requests == 0 {
        tokio::task::yield_now().await;
    }
    door.close().await;
    assert_eq!(router.status().waiting_requests, 0);
    cluster.hand_over("a").await;
    let range = SectorRange::new(0, 1).unwrap();
    let contents = ask(&router, GuestRequest::Read { range }).await;
    assert_eq!(contents, Reply::Data(vec![9; 512].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_longer_than_a_message_are_cut_and_joined() {
    let cluster = Cluster::new(&["a"], VolumeSize::new(16 << 20).unwrap());
    cluster.hand_over("a").await;
    let router = router(&cluster, "elsewhere");
    let range = SectorRange::from_bytes(512, 15 << 20).unwrap();
    let data: Bytes = (0..15usize << 20)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    let write = GuestRequest::Write {
        range,
        data: data.clone(),
        fua: true,
    };
    assert_eq!(ask(&router, write).await, Reply::Done);
    assert!(
        ask(&router, GuestRequest::Read { range }).await == Reply::Data(data),
        "contents differ"
    );
    let status = router.status();
    assert_eq!(status.primary.unwrap().0.as_str(), "a");
    assert_eq!((status.waiting_requests, status.copies_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_joins_or_leaves_here_is_noticed() {
    let cluster = Cluster::new(&["a", "b"], VolumeSize::new(1 << 20).unwrap());
    cluster.hand_over("a").await;
    let router = router(&cluster, "a");
    assert_eq!(ask(&router, GuestRequest::Flush).await, Reply::Done);
    router.set_local(None);
    // Our own replica is gone, so we reach ourselves no more; the other one takes over.
    cluster.hand_over("b").await;
    assert_eq!(ask(&router, GuestRequest::Flush).await, Reply::Done);
    assert_eq!(router.status().primary.unwrap().0.as_str(), "b");
    router.set_members(Vec::new());
    router.set_local(Some(cluster.replicas["a"].clone()));
    cluster.hand_over("a").await;
    router.set_members(cluster.members());
    assert_eq!(ask(&router, GuestRequest::Flush).await, Reply::Done);
    assert_eq!(router.status().primary.unwrap().0.as_str(), "a");
}

#[tokio::test]
async fn an_older_connection_is_not_served_beside_a_newer_one() {
    let cluster = Cluster::new(&["a"], VolumeSize::new(1 << 20).unwrap());
    cluster.hand_over("a").await;
    let dialer = Pipes(cluster.clone());
    let member = &cluster.members()[0];
    let hello = |generation| DoorHello {
        volume: VolumeId(7),
        session: 1,
        generation,
    };
    let (epoch, mut old_reader, mut old_writer) = remote::enter(&dialer, member, hello(1), None, Epoch::NONE)
        .await
        .unwrap();
    assert_eq!(epoch.term, 1);
    let (_, _new_reader, _new_writer) = remote::enter(&dialer, member, hello(2), None, Epoch::NONE)
        .await
        .unwrap();
    assert!(matches!(
        remote::enter(&dialer, member, hello(1), None, Epoch::NONE).await,
        Err(remote::EnterError::Elsewhere { .. })
    ));
    let flush = wire::ToPrimary::Request {
        seq: 1,
        request: GuestRequest::Flush,
    };
    old_writer.write(&flush.encode()).await.unwrap();
    old_writer.flush().await.unwrap();
    let frame = old_reader.read().await.unwrap().unwrap();
    let answer = wire::ToDoor::decode(frame).unwrap();
    assert!(
        matches!(
            answer,
            wire::ToDoor::Answer {
                result: Err(GuestError::NotPrimary { .. }),
                ..
            }
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_door_of_another_version_is_sent_away() {
    let cluster = Cluster::new(&["a"], VolumeSize::new(1 << 20).unwrap());
    cluster.hand_over("a").await;
    let (here, there) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(there);
    let (_reader, here) = tokio::io::split(here);
    let mut here = FrameWriter::new(here);
    let enter = wire::ToPrimary::Enter {
        version: wire::WIRE_VERSION + 1,
        at_least: None,
        epoch_seen: Epoch::NONE,
    };
    here.write(&enter.encode()).await.unwrap();
    here.flush().await.unwrap();
    let hello = DoorHello {
        volume: VolumeId(7),
        session: 1,
        generation: 1,
    };
    let (reader, writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let replica = cluster.replicas["a"].clone();
    let served = remote::serve(reader, writer, replica, hello, &cluster.gates).await;
    assert!(served.unwrap_err().to_string().contains("version"));
}

#[test]
fn uris_are_encoded() {
    assert_eq!(percent_encode("/run/a b?c"), "/run/a%20b%3Fc");
}

#[tokio::test]
async fn a_door_that_has_met_a_newer_primary_tells_the_old_one() {
    let cluster = Cluster::new(&["a"], VolumeSize::new(1 << 20).unwrap());
    cluster.hand_over("a").await;
    let dialer = Pipes(cluster.clone());
    let member = &cluster.members()[0];
    let hello = DoorHello {
        volume: VolumeId(7),
        session: 1,
        generation: 1,
    };
    let newer = Epoch::NONE.next_takeover();
    let answer = remote::enter(&dialer, member, hello, None, newer).await;
    assert!(matches!(answer, Err(remote::EnterError::Elsewhere { .. })));
    assert!(!cluster.replicas["a"].standing.borrow().serving, "it was told");
}
