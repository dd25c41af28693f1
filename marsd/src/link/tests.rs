use crossbeam_channel::Receiver;
use mars::Message;
use model::Epoch;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::identity::Credentials;
use super::*;
use crate::run::Input;

/// A pool's authority.
pub(crate) struct Pool {
    pub ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pool {
    pub fn new() -> Pool {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Pool { ca_pem, issuer }
    }

    pub fn credentials(&self, node: &str) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![node.to_owned()]).unwrap();
        Credentials {
            node: node.to_owned(),
            ca_pem: self.ca_pem.clone(),
            cert_pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

const VOLUME: VolumeId = VolumeId(1);

/// Takes streams of node b to one volume.
struct Desk {
    inbox: Inbox,
}

impl Reception for Desk {
    fn stream(&self, volume: VolumeId, peer: &NodeId) -> Result<Inbox, String> {
        match peer.as_str() {
            "b" if volume == VOLUME => Ok(self.inbox.clone()),
            peer => Err(format!("node {peer} is no member")),
        }
    }

    fn door(&self, _volume: VolumeId) -> Result<VolumeHandle, String> {
        Err("no replica in service here".to_owned())
    }
}

/// Node a, which listens.
struct Fixture {
    pool: Pool,
    links: Arc<Links>,
    addr: String,
    inputs: Receiver<Input>,
    _desk: Arc<Desk>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn links(pool: &Pool, name: &str, reception: Weak<dyn Reception>) -> Arc<Links> {
    let links = Links::new(Handle::current(), reception);
    links.set_identity(Arc::new(Identity::new(pool.credentials(name)).unwrap()));
    Arc::new(links)
}

impl Fixture {
    async fn new() -> Fixture {
        let pool = Pool::new();
        let (inbox, inputs) = Inbox::new();
        let desk = Arc::new(Desk { inbox });
        let reception: Weak<Desk> = Arc::downgrade(&desk);
        let links = links(&pool, "a", reception);
        let (addr, _) = links.listen("127.0.0.1:0").await.unwrap();
        Fixture {
            pool,
            links,
            addr: addr.to_string(),
            inputs,
            _desk: desk,
        }
    }

    /// Node `name` of `pool` dials `peer` where a listens; what its loop hears.
    fn dial(&self, pool: &Pool, name: &str, peer: &str) -> Receiver<Input> {
        let nobody: Weak<Desk> = Weak::new();
        let (inbox, inputs) = Inbox::new();
        links(pool, name, nobody).dial_stream(VOLUME, node(peer), Some(self.addr.clone()), inbox);
        inputs
    }

    async fn works(&self) -> bool {
        let there = self.dial(&self.pool, "b", "a");
        matches!(next(&there).await, Input::LinkUp { dialled: true, .. })
            && matches!(next(&self.inputs).await, Input::LinkUp { dialled: false, .. })
    }
}

async fn next(inputs: &Receiver<Input>) -> Input {
    let inputs = inputs.clone();
    tokio::task::spawn_blocking(move || inputs.recv().unwrap())
        .await
        .unwrap()
}

fn is_refused(input: &Input) -> bool {
    matches!(input, Input::Event(Event::LinkDown { link: None, .. }))
}

fn sign_of_life() -> Message {
    Message::NotSource {
        epoch_seen: Epoch { term: 3, start: 1 },
        primary: Some(node("c")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_and_the_end_of_one_side_is_the_end_of_both() {
    let fixture = Fixture::new().await;
    let there = fixture.dial(&fixture.pool, "b", "a");
    let Input::LinkUp {
        peer,
        dialled: true,
        outgoing,
        ..
    } = next(&there).await
    else {
        panic!("b is up")
    };
    assert_eq!(peer, node("a"));
    let Input::LinkUp {
        link,
        peer,
        dialled: false,
        outgoing: back,
    } = next(&fixture.inputs).await
    else {
        panic!("a is up")
    };
    assert_eq!(peer, node("b"));
    assert!(outgoing.send(sign_of_life()));
    let Input::Message {
        link: on, message, ..
    } = next(&fixture.inputs).await
    else {
        panic!("a message")
    };
    assert_eq!((on, message), (link, sign_of_life()));
    drop(back);
    assert!(matches!(next(&fixture.inputs).await, Input::LinkDown { link: on, .. } if on == link));
    assert!(matches!(next(&there).await, Input::LinkDown { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_others_do_not_notice() {
    let fixture = Fixture::new().await;
    // No member of the volume; a node of another pool; one that wanted to reach another node.
    assert!(is_refused(&next(&fixture.dial(&fixture.pool, "c", "a")).await));
    assert!(is_refused(&next(&fixture.dial(&Pool::new(), "b", "a")).await));
    assert!(is_refused(&next(&fixture.dial(&fixture.pool, "b", "z")).await));
    assert!(fixture.works().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_costs_its_connection_only() {
    let fixture = Fixture::new().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 4096],
        &[0x16, 3, 1, 255, 255],
    ] {
        let mut stream = TcpStream::connect(&fixture.addr).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        // An alert perhaps, then the end.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert!(fixture.works().await);
}

/// A connection of node b to node a behind TLS, before its hello.
async fn raw(fixture: &Fixture) -> (FrameReader, FrameWriter) {
    let identity = Identity::new(fixture.pool.credentials("b")).unwrap();
    let stream = TcpStream::connect(&fixture.addr).await.unwrap();
    let name = ServerName::try_from("a").unwrap();
    let tls = TlsConnector::from(identity.client.clone())
        .connect(name, stream)
        .await
        .unwrap();
    let (read, write) = tokio::io::split(tls);
    (FrameReader::new(read), FrameWriter::new(write))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_talks_nonsense_loses_its_link() {
    let fixture = Fixture::new().await;
    let (mut reader, mut writer) = raw(&fixture).await;
    writer
        .write(&[bytes::Bytes::from_static(b"who are you?")])
        .await
        .unwrap();
    writer.flush().await.unwrap();
    assert!(!matches!(reader.read().await, Ok(Some(_))));

    let (mut reader, mut writer) = raw(&fixture).await;
    let hello = Hello {
        volume: VOLUME,
        purpose: Purpose::Stream,
    };
    hello::introduce(&mut reader, &mut writer, hello).await.unwrap();
    let Input::LinkUp { link, .. } = next(&fixture.inputs).await else {
        panic!("a is up")
    };
    writer
        .write(&[bytes::Bytes::from_static(b"\xffnonsense")])
        .await
        .unwrap();
    writer.flush().await.unwrap();
    assert!(matches!(next(&fixture.inputs).await, Input::LinkDown { link: on, .. } if on == link));
    assert!(fixture.works().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_hears_why_it_is_refused() {
    let fixture = Fixture::new().await;
    let nobody: Weak<Desk> = Weak::new();
    let there = links(&fixture.pool, "c", nobody);
    let peer = Member {
        node: "a".to_owned(),
        addr: fixture.addr.clone(),
    };
    let hello = DoorHello {
        volume: VOLUME,
        session: 1,
        generation: 1,
    };
    let error = there.dial_door(&peer, hello).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(error.to_string(), "no replica in service here");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_count_for_the_next_connection() {
    let fixture = Fixture::new().await;
    assert!(fixture.works().await);
    let other = Pool::new();
    let identity = Identity::new(other.credentials("a")).unwrap();
    fixture.links.set_identity(Arc::new(identity));
    assert!(is_refused(&next(&fixture.dial(&fixture.pool, "b", "a")).await));
    let there = fixture.dial(&other, "b", "a");
    assert!(matches!(next(&there).await, Input::LinkUp { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_cut_off_and_stays_out_while_a_new_one_of_the_same_node_works() {
    let fixture = Fixture::new().await;
    let (inbox, there) = Inbox::new();
    let nobody: Weak<Desk> = Weak::new();
    let b = links(&fixture.pool, "b", nobody);
    b.dial_stream(VOLUME, node("a"), Some(fixture.addr.clone()), inbox.clone());
    assert!(matches!(next(&there).await, Input::LinkUp { .. }));
    assert!(matches!(next(&fixture.inputs).await, Input::LinkUp { .. }));
    let credentials = b.identity().unwrap();
    let serial = identity::serial(Some(&credentials.chain().unwrap())).unwrap();
    fixture.links.set_revoked(Revoked {
        serials: [serial].into(),
    });
    assert!(matches!(next(&fixture.inputs).await, Input::LinkDown { .. }));
    assert!(matches!(next(&there).await, Input::LinkDown { .. }));
    b.dial_stream(VOLUME, node("a"), Some(fixture.addr.clone()), inbox);
    assert!(is_refused(&next(&there).await));
    assert!(fixture.works().await);
}
