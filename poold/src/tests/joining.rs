//! Who gets in, and who does not: tokens, certificates, nonsense on the port, damaged files.

use api::ErrorKind;
use api::pool::PoolInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::tls;
use crate::token::JoinToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_one_host_in_once() {
    let world = Arc::new(World::default());
    let a = Host::start("a", &world).await;
    let alone = a.client.status().await.unwrap_err();
    assert_eq!((alone.kind, alone.hint.is_some()), (ErrorKind::Refused, true));
    a.init().await;
    let again = a
        .client
        .pool_init(&PoolInit {
            name: "q".to_owned(),
            dry_run: false,
        })
        .await
        .unwrap_err();
    assert_eq!(again.kind, ErrorKind::Refused);
    let token = a.token().await;
    let b = Host::start("b", &world).await;
    let dry = JoinPool {
        url: token.url.clone(),
        token: token.token.clone(),
        dry_run: true,
    };
    assert!(b.client.node_join(&dry).await.unwrap().dry_run);
    assert_eq!(b.client.pool_info().await.unwrap().pool, None);
    b.join(&token.token).await.unwrap();
    let info = b.client.pool_info().await.unwrap();
    let PoolInfo { pool, catalog, .. } = info;
    assert_eq!((pool.as_deref(), catalog), (Some("p"), false));
    online(&b.client, 2).await;
    let c = Host::start("c", &world).await;
    let used = c.join(&token.token).await.unwrap_err();
    assert_eq!(used.kind, ErrorKind::Refused);
    assert!(used.message.contains("used already"), "{used}");
    let imposter = Host::start("b", &world).await;
    let taken = imposter.join(&a.token().await.token).await.unwrap_err();
    assert!(taken.message.contains("in the pool already"), "{taken}");
    assert_eq!(a.client.nodes().await.unwrap().nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_or_pool_is_refused_and_changes_nothing() {
    let world = Arc::new(World::default());
    let (a, other) = (Host::start("a", &world).await, Host::start("x", &world).await);
    a.init().await;
    other.init().await;
    let token = JoinToken::decode(&a.token().await.token).unwrap();
    let b = Host::start("b", &world).await;
    let refused = async |token: &JoinToken, word: &str| {
        let error = b.join(&token.encode().unwrap()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
        assert!(error.message.contains(word) && error.hint.is_some(), "{error}");
        assert_eq!(b.client.pool_info().await.unwrap().pool, None);
    };
    refused(
        &JoinToken {
            secret: "guess".to_owned(),
            ..token.clone()
        },
        "not one of this pool's",
    )
    .await;
    refused(
        &JoinToken {
            expires_seconds: 1,
            ..token.clone()
        },
        "expired",
    )
    .await;
    refused(
        &JoinToken {
            ca_sha256: "0".repeat(64),
            ..token.clone()
        },
        "not of the pool",
    )
    .await;
    refused(
        &JoinToken {
            addresses: vec![other.config.advertise.clone()],
            ..token.clone()
        },
        "not of the pool",
    )
    .await;
    assert_eq!(b.join("nonsense").await.unwrap_err().kind, ErrorKind::Refused);
    let nobody = JoinToken {
        addresses: vec![free_port().to_string()],
        ..token.clone()
    };
    assert_eq!(
        b.join(&nobody.encode().unwrap()).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    b.join(&token.encode().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_the_pool_are_heard() {
    let world = Arc::new(World::default());
    let hosts = pool("ab", &world).await;
    let (a, b) = (&hosts[0], &hosts[1]);
    let fingerprint = JoinToken::decode(&a.token().await.token).unwrap().ca_sha256;
    let stranger = Arc::new(tls::joining_config(&fingerprint).unwrap());
    let stranger = Client::tls(&a.config.advertise, tls::CATALOG_NAME, stranger).unwrap();
    assert_eq!(stranger.status().await.unwrap_err().kind, ErrorKind::Refused);
    let home = |name: &str| String::from_utf8(read(&b.config.state_dir.join(name))).unwrap();
    let own = tls::Credentials {
        ca_pem: home("ca.pem"),
        cert_pem: home("cert.pem"),
        key_pem: home("key.pem"),
    };
    let as_b = Arc::new(tls::client_config(&own).unwrap());
    let as_b = Client::tls(&a.config.advertise, "a", as_b).unwrap();
    assert_eq!(as_b.nodes().await.unwrap().nodes.len(), 2);
    let other_agent = as_b.agent_steps("a", 0, Duration::ZERO).await.unwrap_err();
    assert_eq!(other_agent.kind, ErrorKind::Refused);
    let authority = tls::Authority::create("p").unwrap();
    let key_pem = tls::new_key().unwrap();
    let cert_pem = authority
        .issue(&tls::request("b", &key_pem).unwrap(), &["b"])
        .unwrap();
    let forged = tls::Credentials {
        ca_pem: own.ca_pem.clone(),
        cert_pem,
        key_pem,
    };
    let forged = Arc::new(tls::client_config(&forged).unwrap());
    let forged = Client::tls(&a.config.advertise, "a", forged).unwrap();
    assert!(forged.nodes().await.is_err());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(b.config.state_dir.join("key.pem"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert!(!b.config.state_dir.join("ca.key").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_ports_is_dropped() {
    let world = Arc::new(World::default());
    let hosts = pool("a", &world).await;
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        &[0xa5; 70_000],
    ] {
        let mut stream = TcpStream::connect(&hosts[0].config.advertise).await.unwrap();
        // The daemon may have hung up before all of it is written.
        let _ = stream.write_all(nonsense).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let mut stream = tokio::net::UnixStream::connect(&hosts[0].config.api_sock)
            .await
            .unwrap();
        let _ = stream.write_all(nonsense).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut answer).await;
    }
    let raw = |method, path: &'static str, body: &'static [u8]| {
        hosts[0]
            .client
            .raw(method, path, Some(body.into()), &[], PATIENCE)
    };
    use hyper::Method;
    assert_eq!(raw(Method::POST, "/v1/volumes", b"{").await.unwrap().status, 400);
    assert_eq!(raw(Method::GET, "/v1/none", b"").await.unwrap().status, 404);
    assert_eq!(raw(Method::PUT, "/v1/volumes", b"").await.unwrap().status, 400);
    assert_eq!(
        raw(Method::GET, "/v1/events?after=x", b"").await.unwrap().status,
        400
    );
    assert_eq!(raw(Method::GET, "/v1/agent/a", b"").await.unwrap().status, 409);
    let status = raw(Method::GET, "/v1/status", b"").await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(
        (status.status, json["schema"].as_u64(), json["pool"].as_str()),
        (200, Some(1), Some("p"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalog_stops_the_daemon_and_stays_as_it_is() {
    let world = Arc::new(World::default());
    let mut a = Host::start("a", &world).await;
    a.init().await;
    a.kill().await;
    let path = a.config.state_dir.join("catalog.redb");
    std::fs::write(&path, "garbage").unwrap();
    let daemon = Daemon::new(a.config.clone()).unwrap();
    let error = format!("{:#}", daemon.start().await.unwrap_err());
    assert!(
        error.contains("catalog.redb") && error.contains("damaged"),
        "{error}"
    );
    assert_eq!(read(&path), b"garbage");
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(a.config.state_dir.join("node.json"), "{").unwrap();
    let daemon = Daemon::new(a.config.clone()).unwrap();
    assert!(format!("{:#}", daemon.start().await.unwrap_err()).contains("node.json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_moved_tells_the_catalog_and_its_peers_hear_of_it() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    let client = hosts[0].client.clone();
    create(&client, "web", 2).await;
    hosts[1].kill().await;
    hosts[1].config.marsd_peer = "127.0.0.9:7777".to_owned();
    hosts[1].boot().await;
    until(&client, async || {
        client.node("b").await.unwrap().peer_address == "127.0.0.9:7777"
    })
    .await;
    until(&client, async || {
        world.addresses("a").contains(&"127.0.0.9:7777".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_tells_what_it_knows_while_the_catalog_is_away() {
    let world = Arc::new(World::default());
    world.sync_all();
    let mut hosts = pool("ab", &world).await;
    create(&hosts[0].client, "web", 2).await;
    hosts[0].kill().await;
    let status = hosts[1].client.status().await.unwrap();
    assert_eq!(status.seen_from.as_deref(), Some("b"));
    assert_eq!(status.state, api::pool::PoolState::Degraded);
    assert!(status.problems[0].contains("catalog"), "{status:?}");
    let web = &status.volumes[0];
    assert_eq!((web.name.as_str(), web.replicas.len()), ("web", 2));
    let own = web.replicas.iter().find(|row| row.node == "b").unwrap();
    assert_eq!(own.state, "uptodate");
    let error = hosts[1].client.volumes().await.unwrap_err();
    assert_eq!(error.kind, api::ErrorKind::Unavailable, "{error:?}");
}
