//! Can anybody who reaches a port harm a host? Random bytes, half-open connections, huge lengths on every one.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bench::nbd::Address;
use rand::{Rng, RngCore};
use tests::{Cluster, Host, Target, steady_writer, stop, text, wait_for_answers};

const MIB: u64 = 1 << 20;

/// Something that listens.
#[derive(Clone, Debug)]
enum Ear {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Wire: Read + Write {
    fn end(&self);
}

impl Wire for TcpStream {
    fn end(&self) {
        let _gone_already = self.shutdown(Shutdown::Write);
    }
}

impl Wire for UnixStream {
    fn end(&self) {
        let _gone_already = self.shutdown(Shutdown::Write);
    }
}

impl Ear {
    fn connect(&self) -> Box<dyn Wire> {
        let limit = Some(Duration::from_millis(200));
        match self {
            Ear::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(limit).unwrap();
                stream.set_write_timeout(limit).unwrap();
                Box::new(stream)
            }
            Ear::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(limit).unwrap();
                stream.set_write_timeout(limit).unwrap();
                Box::new(stream)
            }
        }
    }

    /// Says all of it, or as much as the other side takes, and listens to the answer for a moment.
    fn tell(&self, words: &[u8]) {
        let mut stream = self.connect();
        let _hung_up = stream.write_all(words);
        stream.end();
        let _silent = stream.read(&mut [0; 4096]);
    }
}

fn ears(host: &Host, doors: &[Target]) -> Vec<Ear> {
    let mut ears = vec![
        Ear::Tcp(host.peer_address()),
        Ear::Tcp(host.api_address()),
        Ear::Unix(host.api_socket()),
        Ear::Unix(host.control_socket()),
    ];
    ears.extend(doors.iter().map(|door| match &door.address {
        Address::Unix(path) => Ear::Unix(path.clone()),
        Address::Tcp(address) => Ear::Tcp(address.parse().unwrap()),
    }));
    ears
}

/// Beginnings that are right, with lengths that are not.
fn lies() -> Vec<Vec<u8>> {
    let nbd = |option: u32, length: u32| {
        let parts = [
            &[0, 0, 0, 3][..],
            b"IHAVEOPT",
            &option.to_be_bytes(),
            &length.to_be_bytes(),
            &[0; 64],
        ];
        parts.concat()
    };
    let mut transmission = nbd(1, 0);
    transmission.extend([0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1]);
    transmission.extend([0xff; 20]);
    vec![
        nbd(7, u32::MAX),
        nbd(10, u32::MAX),
        nbd(u32::MAX, 1 << 30),
        transmission,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999999\r\n\r\n{".to_vec(),
        b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{{{{{".to_vec(),
        [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat(),
        // A TLS handshake record of the greatest length, and one that promises more than it brings.
        [vec![0x16, 3, 1, 0xff, 0xff], vec![0; 1 << 16]].concat(),
        vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff],
        b"{}\n{\"version\":99,\"id\":1,\"method\":\"status\"}\n{\"version\":1,\"id\":1,\"method\":\"explode\"}\n".to_vec(),
        b"{\"version\":1,\"id\":2,\"method\":\"volume-forget\",\"volume\":\"../../etc\"}\n".to_vec(),
        [vec![b'['; 100_000], b"\n".to_vec()].concat(),
        vec![b'{'; 8 << 20],
        vec![0; 1 << 20],
        vec![0xff; 1 << 20],
    ]
}

#[test]
fn every_port_survives_garbage_and_the_volume_goes_on() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "32M", &["a", "b"]);
    let door = cluster.attach("web", "a");
    let attached = cluster.ok(
        "a",
        &["volume", "attach", "web", "--node", "a", "--tcp", "127.0.0.1:0"],
    );
    let doors = [door.clone(), text(&attached["uri"]).parse().unwrap()];
    let writer = steady_writer(&door, 0, 32 * MIB, 500.0);
    wait_for_answers(&writer, 50);

    let mut random = rand::rng();
    let mut held = Vec::new();
    let all = [ears(cluster.host("a"), &doors), ears(cluster.host("b"), &[])].concat();
    for ear in &all {
        // Connected, and never a word.
        held.extend((0..8).map(|_| ear.connect()));
        for lie in lies() {
            ear.tell(&lie);
        }
        for _ in 0..20 {
            let mut noise = vec![0; random.random_range(1..20_000)];
            random.fill_bytes(&mut noise);
            ear.tell(&noise);
        }
        // Half a sentence, and then silence.
        let mut half = ear.connect();
        let _hung_up = half.write_all(&lies()[0][..10]);
        held.push(half);
    }
    wait_for_answers(&writer, 200);
    for host in cluster.hosts() {
        assert!(host.marsd().is_running(), "marsd of {} died", host.name());
        assert!(host.poold().is_running(), "poold of {} died", host.name());
    }
    // With all those connections still open, work goes on.
    cluster.ok("a", &["volume", "primary", "web", "b"]);
    wait_for_answers(&writer, 200);
    assert_eq!(stop(writer).reconnects, 0);
    drop(held);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
