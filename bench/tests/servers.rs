//! Does the verified writer believe honest servers, survive their restarts, and catch a liar? nbdkit and QEMU's servers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does")]

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bench::cluster::{Daemon, until};
use bench::nbd::{Answer, Client, Error, Options, Request, Target};
use bench::writer::{Plan, Writer, check};

const SIZE_BYTES: u64 = 16 << 20;

struct Server {
    daemon: Daemon,
    command: Command,
    target: Target,
}

impl Server {
    fn start(dir: &Path, program: &str, arguments: &[&str]) -> Server {
        let socket = dir.join("sock");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir);
        let daemon = Daemon::start(&mut command, program, &dir.join("log")).unwrap();
        daemon.wait_for_socket(&socket).unwrap();
        Server {
            daemon,
            command,
            target: Target::unix(socket, ""),
        }
    }

    fn memory(dir: &Path) -> Server {
        let size = format!("memory {SIZE_BYTES}");
        let arguments: Vec<&str> = ["-f", "-U", "sock"].into_iter().chain(size.split(' ')).collect();
        Server::start(dir, "nbdkit", &arguments)
    }

    fn qemu(dir: &Path) -> Server {
        File::create(dir.join("disk"))
            .unwrap()
            .set_len(SIZE_BYTES)
            .unwrap();
        let socket = format!("--socket={}", dir.join("sock").display());
        Server::start(
            dir,
            "qemu-nbd",
            &[
                "--persistent",
                "--format=raw",
                "--shared=8",
                "--discard=unmap",
                &socket,
                "disk",
            ],
        )
    }

    fn kill_and_restart(&mut self) {
        self.daemon.kill();
        let Target {
            address: bench::nbd::Address::Unix(socket),
            ..
        } = &self.target
        else {
            unreachable!()
        };
        let _gone_already = std::fs::remove_file(socket);
        self.daemon.restart(&mut self.command).unwrap();
    }
}

fn wait_for_answers(writer: &Writer, count: u64) {
    let before = writer.answered();
    until("the writer is answered", || {
        (writer.answered() >= before + count).then_some(())
    });
}

#[test]
fn honest_servers_are_believed_and_found_so_again() {
    for start in [Server::memory, Server::qemu] {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path());
        let writer = Writer::start(
            &server.target,
            Plan {
                zeroed: true,
                ..Plan::default()
            },
        )
        .unwrap();
        wait_for_answers(&writer, 2000);
        let (summary, model) = writer.stop();
        assert!(summary.is_clean(), "{summary:#?}");
        assert!(
            summary.writes > 0 && summary.clears > 0 && summary.reads > 0 && summary.flushes > 0,
            "{summary:?}"
        );
        assert_eq!(summary.verified_sectors, SIZE_BYTES / 512);
        assert!(check(&server.target, &model, 4, false).unwrap().is_clean());
        assert!(check(&server.target, &model, 4, true).unwrap().is_clean());
        let client = Client::open(&server.target, Options::default()).unwrap();
        client.write(0, vec![1; 512], false).unwrap();
        assert_eq!(check(&server.target, &model, 4, false).unwrap().errors, 1);
    }
}

#[test]
fn a_server_that_keeps_its_word_may_be_killed_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::qemu(dir.path());
    let plan = Plan {
        zeroed: true,
        reconnect: Duration::from_secs(30),
        ..Plan::default()
    };
    let writer = Writer::start(&server.target, plan).unwrap();
    for _ in 0..5 {
        wait_for_answers(&writer, 500);
        server.kill_and_restart();
    }
    wait_for_answers(&writer, 500);
    let (summary, _) = writer.stop();
    assert!(summary.is_clean(), "{summary:#?}");
    assert_eq!(summary.reconnects, 5);
}

#[test]
fn a_server_that_forgets_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::memory(dir.path());
    let plan = Plan {
        zeroed: true,
        reconnect: Duration::from_secs(30),
        ..Plan::default()
    };
    let writer = Writer::start(&server.target, plan).unwrap();
    wait_for_answers(&writer, 2000);
    server.kill_and_restart();
    let (summary, _) = writer.stop();
    assert!(summary.errors > 0, "{summary:?}");
    assert!(
        summary.error_words.iter().any(|words| words.contains("is lost")),
        "{summary:#?}"
    );
}

#[test]
fn without_reconnect_a_lost_connection_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::memory(dir.path());
    let writer = Writer::start(&server.target, Plan::default()).unwrap();
    wait_for_answers(&writer, 500);
    server.daemon.kill();
    let (summary, _) = writer.finish();
    assert!(!summary.is_clean(), "{summary:?}");
    assert!(matches!(
        Client::open(&server.target, Options::default()),
        Err(Error::Disconnected(_))
    ));
}

#[test]
fn every_request_is_understood_with_and_without_structured_replies() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::qemu(dir.path());
    for structured in [true, false] {
        let client = Client::open(
            &server.target,
            Options {
                structured,
                ..Options::default()
            },
        )
        .unwrap();
        let export = client.export();
        assert_eq!(
            (export.size_bytes, export.structured, export.block_status),
            (SIZE_BYTES, structured, structured)
        );
        client.write(4096, vec![7; 8192], true).unwrap();
        client
            .call(Request::WriteZeroes {
                offset: 4096,
                length: 4096,
                no_hole: false,
                fua: false,
            })
            .unwrap();
        client
            .call(Request::Trim {
                offset: 1 << 20,
                length: 1 << 20,
            })
            .unwrap();
        client.flush().unwrap();
        let data = client.read(0, 16384).unwrap();
        assert!(data[..8192].iter().chain(&data[12288..]).all(|byte| *byte == 0));
        assert!(data[8192..12288].iter().all(|byte| *byte == 7));
        let beyond = client.read(SIZE_BYTES, 4096);
        assert!(matches!(beyond, Err(Error::Server(_))), "{beyond:?}");
        if structured {
            let Answer::Extents(extents) = client
                .call(Request::BlockStatus {
                    offset: 0,
                    length: 1 << 20,
                })
                .unwrap()
            else {
                panic!("extents were asked for")
            };
            assert_eq!(
                extents.iter().map(|(length, _)| length).sum::<u32>(),
                1 << 20,
                "{extents:?}"
            );
        }
    }
}
