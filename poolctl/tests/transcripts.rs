//! Does poolctl say what it should? Each file in `transcripts/` is a session with a fake poold, compared word by word.
//!
//! `$` is a command, `>` its stdout, `!` its stderr, `~` a change that poold was asked for, `=` its exit code unless 0,
//! `#` a remark. `DIR` stands for the directory of the session. `POOLCTL_TRANSCRIPTS=write cargo test -p poolctl`
//! writes the files as poolctl speaks now; read the difference before it is committed.
#![allow(clippy::unwrap_used)]

mod fake;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

use fake::{Fake, Scene};

/// A directory with sockets of fake daemons, and poolctl under both its names.
struct Session {
    dir: tempfile::TempDir,
    fakes: Vec<Fake>,
    // Its drop ends the fakes.
    _runtime: tokio::runtime::Runtime,
}

impl Session {
    fn new() -> Session {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let fakes = Scene::ALL
            .map(|scene| Fake {
                scene,
                ..Fake::default()
            })
            .to_vec();
        for fake in &fakes {
            fake.clone().serve(&dir.path().join(fake.scene.socket()));
        }
        drop(entered);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_poolctl"), dir.path().join("poolctl")).unwrap();
        std::os::unix::fs::symlink("poolctl", dir.path().join("pool-migrate")).unwrap();
        Session {
            dir,
            fakes,
            _runtime: runtime,
        }
    }

    fn run(&self, line: &str) -> Output {
        let line = line.replace("DIR", self.dir.path().to_str().unwrap());
        let mut words = line.split_whitespace();
        Command::new(self.dir.path().join(words.next().unwrap()))
            .args(words)
            .env_clear()
            .env("POOLCTL_SOCKET", self.dir.path().join("api.sock"))
            .output()
            .unwrap()
    }

    /// The command and everything that came of it, as it stands in a transcript.
    fn record(&self, line: &str) -> String {
        let output = self.run(line);
        let mut text = format!("$ {line}\n");
        let dir = self.dir.path().to_str().unwrap();
        for (mark, bytes) in [('>', &output.stdout), ('!', &output.stderr)] {
            for line in String::from_utf8(bytes.clone())
                .unwrap()
                .replace(dir, "DIR")
                .lines()
            {
                writeln!(text, "{}", format!("{mark} {line}").trim_end()).unwrap();
            }
        }
        for fake in &self.fakes {
            for (path, body) in fake.asked.lock().unwrap().drain(..) {
                writeln!(text, "~ {path} {}", body.to_string().replace(dir, "DIR")).unwrap();
            }
        }
        match output.status.code().unwrap() {
            0 => {}
            code => writeln!(text, "= {code}").unwrap(),
        }
        text
    }
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(name);
    let want = std::fs::read_to_string(&path).unwrap();
    let session = Session::new();
    let mut got = String::new();
    for line in want.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => got.push_str(&session.record(command)),
            None if line.is_empty() || line.starts_with('#') => writeln!(got, "{line}").unwrap(),
            None => {}
        }
    }
    if std::env::var("POOLCTL_TRANSCRIPTS").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, got).unwrap();
    } else {
        assert_eq!(
            got, want,
            "{name}: poolctl speaks otherwise; POOLCTL_TRANSCRIPTS=write shows how"
        );
    }
}

#[test]
fn usage() {
    check("usage.txt");
}

#[test]
fn errors() {
    check("errors.txt");
}

#[test]
fn pool_node_vg() {
    check("pool-node-vg.txt");
}

#[test]
fn volume() {
    check("volume.txt");
}

#[test]
fn jobs() {
    check("jobs.txt");
}

#[test]
fn status() {
    check("status.txt");
}

#[test]
fn json() {
    check("json.txt");
}

#[test]
fn dry_run() {
    check("dry-run.txt");
}

#[test]
fn help_is_told_on_stdout_and_names_every_noun() {
    let output = Session::new().run("poolctl --help");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    for noun in [
        "pool",
        "node",
        "vg",
        "volume",
        "limit",
        "migrate",
        "job",
        "status",
        "events",
        "completion",
        "man",
    ] {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(noun)),
            "{noun} is not in:\n{text}"
        );
    }
}

#[test]
fn shells_get_completions() {
    let session = Session::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = session.run(&format!("poolctl completion {shell}"));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("migrate"), "{shell}");
    }
}

#[test]
fn every_command_gets_a_manual_page() {
    let session = Session::new();
    assert!(session.run("poolctl man DIR/man").status.success());
    let page = |name: &str| std::fs::read_to_string(session.dir.path().join("man").join(name)).unwrap();
    assert!(page("poolctl.1").contains("poolctl"));
    assert!(page("poolctl-volume-create.1").contains("10G"));
    assert!(page("poolctl-volume-log-show.1").contains("TRIMMED"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let session = Session::new();
    let mut child = Command::new(session.dir.path().join("poolctl"))
        .args(["events", "--last", "1500"])
        .env("POOLCTL_SOCKET", session.dir.path().join("api.sock"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
