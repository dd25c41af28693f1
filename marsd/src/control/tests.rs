use api::control::{Call, Outcome};
use serde_json::{Value, json};

use super::*;
use crate::host::{Farewell, HostConfig};

struct Fixture {
    dir: tempfile::TempDir,
    host: Arc<Host>,
    serving: tokio::task::JoinHandle<()>,
}

impl Fixture {
    async fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let listen = "127.0.0.1:0".to_owned();
        let (state_dir, log_dir, run_dir) = (at("state"), at("log"), at("run"));
        let host = Host::start(HostConfig {
            state_dir,
            log_dir,
            run_dir,
            listen,
            log_bytes_max: None,
        })
        .await
        .unwrap();
        let control = Control::open(&at("control.sock")).await.unwrap();
        let served = host.clone();
        let serving = tokio::spawn(async move { control.serve(served).await });
        Fixture { dir, host, serving }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.path()).await.unwrap())
    }

    async fn end(self) {
        self.serving.abort();
        self.host.stop(Farewell::Orderly).await;
    }
}

async fn say(stream: &mut BufReader<UnixStream>, line: &[u8]) -> Value {
    stream.get_mut().write_all(line).await.unwrap();
    stream.get_mut().write_all(b"\n").await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_the_connection_goes_on() {
    let fixture = Fixture::new().await;
    let mut stream = fixture.connect().await;
    let lines: [(&[u8], u64, &str); 8] = [
        (b"hello", 0, "not a call in JSON"),
        (b"\xff\xfe\x00", 0, "not a call in JSON"),
        (b"[]", 0, "not a call in JSON"),
        (b"{}", 0, "a call carries `version`"),
        (br#"{"version":9,"id":4,"method":"status"}"#, 4, "version 9"),
        (
            br#"{"version":1,"id":5,"method":"format-disk"}"#,
            5,
            "unknown variant `format-disk`",
        ),
        (
            br#"{"version":1,"id":6,"method":"volume-forget"}"#,
            6,
            "missing field `volume`",
        ),
        (
            br#"{"version":1,"id":7,"method":"volume-forget","volume":"x"}"#,
            7,
            "32 hex digits",
        ),
    ];
    for (line, id, expected) in lines {
        let answer = say(&mut stream, line).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(
            (&answer["id"], &answer["error"]["kind"]),
            (&json!(id), &json!("usage")),
            "{answer}"
        );
        assert!(message.contains(expected), "{message}");
    }
    let status = say(&mut stream, br#"{"version":1,"id":8,"method":"status"}"#).await;
    assert_eq!(status["ok"]["status"]["volumes"], json!([]));
    fixture.end().await;
}

#[tokio::test]
async fn a_line_without_end_costs_its_connection_and_no_other() {
    let fixture = Fixture::new().await;
    let mut other = fixture.connect().await;
    let mut stream = fixture.connect().await;
    // The daemon may hang up before it has taken everything.
    let _ = stream.get_mut().write_all(&vec![b'x'; LINE_BYTES_MAX + 1]).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let status = say(&mut other, br#"{"version":1,"id":8,"method":"status"}"#).await;
    assert!(status["ok"].is_object());
    fixture.end().await;
}

#[tokio::test]
async fn the_client_of_poold_is_understood() {
    let fixture = Fixture::new().await;
    let client = api::control_client::ControlClient::new(fixture.path());
    let outcome = client
        .call(Call::Status { volume: None }, std::time::Duration::from_secs(10))
        .await;
    assert!(matches!(outcome, Ok(Outcome::Status(status)) if status.node.is_none()));
    fixture.end().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_living_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let control = Control::open(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(
        Control::open(&path).await.err().unwrap().kind(),
        io::ErrorKind::AddrInUse
    );
    drop(control);
    std::fs::write(&path, b"notes").unwrap();
    assert_eq!(
        Control::open(&path).await.err().unwrap().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"notes");
}
