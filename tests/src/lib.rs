//! What do the black-box tests share? Pools of built binaries, stock programs, and comparing what must not change.
//!
//! Every test starts its own hosts on loopback and drives them by `poolctl --json` and NBD only.

pub mod machine;
pub mod mount;
pub mod spoil;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::RngCore;
use serde_json::Value;

pub use bench::cluster::{Answer, Cluster, Condition, Host, array, text, until};
pub use bench::nbd::{Client, Error, Options, Request, Target};
pub use bench::writer::{Plan, Summary, Writer};

/// How long a verified writer tries a lost connection again, where connections are meant to be lost.
pub const RECONNECT: Duration = Duration::from_secs(60);

/// Runs a stock program; its stdout. Panics with everything it said if it fails.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{stdout}{stderr}",
        output.status
    );
    stdout
}

/// Writes a file with data that no other file has, and a hole of a quarter in the middle.
pub fn make_image(path: &Path, length_bytes: usize) {
    let mut data = vec![0; length_bytes];
    let (half, quarter) = (length_bytes / 2, length_bytes / 4);
    rand::rng().fill_bytes(&mut data[..half]);
    rand::rng().fill_bytes(&mut data[half + quarter..]);
    std::fs::write(path, data).expect("an image can be written");
}

/// Starts a writer that must stay connected: any loss is an error.
pub fn steady_writer(target: &Target, offset_bytes: u64, length_bytes: u64, rate: f64) -> Writer {
    let plan = Plan {
        offset_bytes,
        length_bytes: Some(length_bytes),
        rate: Some(rate),
        zeroed: true,
        trim: true,
        ..Plan::default()
    };
    Writer::start(target, plan).expect("the writer connects")
}

/// Waits until the writer has been answered so many times more.
pub fn wait_for_answers(writer: &Writer, count: u64) {
    let before = writer.answered();
    until("the writer is answered", || {
        assert!(!writer.is_finished(), "the writer ended by itself");
        (writer.answered() >= before + count).then_some(())
    });
}

/// Stops a writer; everything must have gone well.
pub fn stop(writer: Writer) -> Summary {
    let (summary, _) = writer.stop();
    assert!(summary.is_clean(), "the writer found errors: {summary:#?}");
    assert!(
        summary.writes > 0 && summary.reads > 0,
        "the writer did nothing: {summary:#?}"
    );
    summary
}

/// Everything that the pool says of itself, without what changes by itself: ages, lags, space really used.
pub fn standing(cluster: &Cluster) -> Value {
    let first = &cluster.hosts()[0];
    let asked = [
        &["status"][..],
        &["volume", "list"],
        &["node", "list"],
        &["vg", "list"],
        &["job", "list"],
    ];
    let mut all: Vec<Value> = asked.iter().map(|arguments| first.ctl(arguments).json).collect();
    all.iter_mut().for_each(settle);
    Value::Array(all)
}

fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for passing in [
                "age_seconds",
                "lag_seconds",
                "used_bytes",
                "free_bytes",
                // What other tests write to the same file system.
                "left_bytes",
                "pause_micros_max",
            ] {
                fields.remove(passing);
            }
            fields.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}
