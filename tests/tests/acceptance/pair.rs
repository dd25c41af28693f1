//! What does every case start from, and what must hold after it? Two hosts, one volume, a writer; EQ.

use serde_json::Value;
use tests::{Cluster, Plan, RECONNECT, Summary, Target, Writer, array, text, wait_for_answers};

const MIB: u64 = 1 << 20;

/// Length of the volume, and of the half in which the writer works.
pub const SIZE_BYTES: u64 = 64 * MIB;

/// The volume's name.
pub const NAME: &str = "r";

/// The hosts: the first primary, and its replica.
pub const P: &str = "p";
pub const S: &str = "s";

/// Two wired hosts with a volume that both hold, `P` being primary.
pub struct Pair {
    pub cluster: Cluster,
    pub door: Target,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::of(&[P, S])
    }

    /// The same with more hosts that hold no replica yet.
    pub fn of(hosts: &[&str]) -> Pair {
        let cluster = Cluster::start_wired(hosts);
        cluster.create(NAME, &SIZE_BYTES.to_string(), &[P, S]);
        let door = cluster.attach(NAME, P);
        Pair { cluster, door }
    }

    /// Runs `poolctl --json` on the host with the catalog; it must succeed.
    pub fn ok(&self, arguments: &[&str]) -> Value {
        self.cluster.hosts()[0].ok(arguments)
    }

    /// W: writes, reads back and checks until it is stopped; a lost door is tried again.
    pub fn writer(&self) -> Writer {
        self.writer_at(&self.door, 0)
    }

    /// W at another door, in the volume's first or second half.
    pub fn writer_at(&self, door: &Target, half: u64) -> Writer {
        let length_bytes = SIZE_BYTES / 2;
        write_to(door, half * length_bytes, length_bytes, 2000.0)
    }

    /// One replica's row of `volume show`.
    pub fn replica(&self, node: &str) -> Value {
        let shown = self.cluster.volume(NAME);
        let row = array(&shown["replicas"]).iter().find(|row| row["node"] == node);
        row.unwrap_or_else(|| panic!("{node} has no replica: {shown:#}"))
            .clone()
    }

    /// One replica's state in one word.
    pub fn state(&self, node: &str) -> String {
        text(&self.replica(node)["state"]).to_owned()
    }

    /// EQ.
    pub fn assert_equal(&self) {
        self.cluster.wait_for_uptodate(NAME);
        self.cluster.assert_identical(NAME);
    }
}

/// Writes to a part of a volume at so many requests a second, reads back and checks until it is stopped.
pub fn write_to(door: &Target, offset_bytes: u64, length_bytes: u64, rate: f64) -> Writer {
    let plan = Plan {
        offset_bytes,
        length_bytes: Some(length_bytes),
        rate: Some(rate),
        reconnect: RECONNECT,
        trim: true,
        ..Plan::default()
    };
    let writer = Writer::start(door, plan).expect("the writer connects");
    wait_for_answers(&writer, 100);
    writer
}

/// Stops W; nothing it was told may have been untrue.
pub fn stop(writer: Writer) -> Summary {
    wait_for_answers(&writer, 100);
    tests::stop(writer)
}
