//! How does a program ask a poold? Typed calls over a Unix socket or mutual TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::error::{ApiError, ErrorBody, ErrorKind};
use crate::pool::agent::{PrepareVg, PreparedVg, ReleaseVg, Report, Steps};
use crate::pool::{
    AddVg, Attach, Attached, BODY_BYTES_MAX, Change, Changed, CreateSnapshot, CreateVolume, DeleteSnapshot,
    DeleteVolume, Detach, DrainNode, DropKept, EventList, IssueToken, Job, JobList, JoinAnswer, JoinPool,
    JoinRequest, MakePrimary, Migrate, Node, NodeList, OnNode, OnNodes, PoolInfo, PoolInit, RebootCheck,
    RemoveNode, RemoveVg, ResizeVolume, ResolveSplitBrain, RestoreSnapshot, SCHEMA, SetLimits, SetNodeLimits,
    SetSource, SetVolume, SnapshotList, SplitBrain, Status, SwitchVolume, Token, Verify, Versioned, VgList,
    Volume, VolumeList, VolumeLog,
};

/// Largest answer that is read: a list of very many volumes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long an answer may take beyond the time that the request itself asks to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Where a daemon listens.
#[derive(Clone, Debug)]
enum Endpoint {
    Unix(PathBuf),
    Tls {
        address: String,
        server: ServerName<'static>,
        config: Arc<rustls::ClientConfig>,
    },
}

/// Asks one poold; cheap to clone. Each call has a connection of its own.
///
/// Errors of every call: what the daemon answered, or `unavailable` when nobody does, or `timed-out`.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

/// An answer as it came, for those who pass it on.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
}

impl Client {
    /// Asks the daemon of this host.
    pub fn unix(socket: impl AsRef<Path>) -> Client {
        Client {
            endpoint: Endpoint::Unix(socket.as_ref().to_owned()),
        }
    }

    /// Asks the daemon at `address` (`host:port`), whose certificate must be for `server` (a node name).
    pub fn tls(address: &str, server: &str, config: Arc<rustls::ClientConfig>) -> Result<Client, ApiError> {
        let server = ServerName::try_from(server.to_owned())
            .map_err(|_| ApiError::usage(format!("`{server}` cannot be the name of a server")))?;
        Ok(Client {
            endpoint: Endpoint::Tls {
                address: address.to_owned(),
                server,
                config,
            },
        })
    }

    /// Which pool is this daemon in?
    pub async fn pool_info(&self) -> Result<PoolInfo, ApiError> {
        self.get("/v1/pool").await
    }

    /// Make a pool on the host whose daemon is asked.
    pub async fn pool_init(&self, request: &PoolInit) -> Result<Changed, ApiError> {
        self.post("/v1/pool", request).await
    }

    /// Make a token with which one host may join.
    pub async fn node_token(&self, request: &IssueToken) -> Result<Token, ApiError> {
        self.post("/v1/tokens", request).await
    }

    /// Let the host whose daemon is asked join a pool.
    pub async fn node_join(&self, request: &JoinPool) -> Result<Changed, ApiError> {
        self.post("/v1/pool/join", request).await
    }

    /// What a joining daemon asks of the pool.
    pub async fn join_request(&self, request: &JoinRequest) -> Result<JoinAnswer, ApiError> {
        self.post("/v1/join", request).await
    }

    /// All hosts.
    pub async fn nodes(&self) -> Result<NodeList, ApiError> {
        self.get("/v1/nodes").await
    }

    /// One host.
    pub async fn node(&self, name: &str) -> Result<Node, ApiError> {
        self.get(&format!("/v1/nodes/{}", segment(name))).await
    }

    /// Take a host out of the pool.
    pub async fn node_remove(&self, name: &str, request: &RemoveNode) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/nodes/{}/remove", segment(name)), request)
            .await
    }

    /// Give a volume group to the pool.
    pub async fn vg_add(&self, request: &AddVg) -> Result<Changed, ApiError> {
        self.post("/v1/vgs", request).await
    }

    /// All volume groups.
    pub async fn vgs(&self) -> Result<VgList, ApiError> {
        self.get("/v1/vgs").await
    }

    /// Take a volume group out of the pool.
    pub async fn vg_remove(&self, name: &str, request: &RemoveVg) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/vgs/{}/remove", segment(name)), request)
            .await
    }

    /// Make a volume; the job in the answer ends when all replicas are whole.
    pub async fn volume_create(&self, request: &CreateVolume) -> Result<Changed, ApiError> {
        self.post("/v1/volumes", request).await
    }

    /// All volumes.
    pub async fn volumes(&self) -> Result<VolumeList, ApiError> {
        self.get("/v1/volumes").await
    }

    /// One volume.
    pub async fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.get(&volume_path(name, "")).await
    }

    /// Delete a volume; the job in the answer ends when every host has removed its disk.
    pub async fn volume_delete(&self, name: &str, request: &DeleteVolume) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/delete"), request).await
    }

    /// Give a node a replica.
    pub async fn volume_join(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/join"), request).await
    }

    /// Take a node's replica away.
    pub async fn volume_leave(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/leave"), request).await
    }

    /// Hand the primary role over to a node.
    pub async fn volume_primary(&self, name: &str, request: &MakePrimary) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/primary"), request).await
    }

    /// Change how a volume is replicated, while it is in use.
    pub async fn volume_set(&self, name: &str, request: &SetVolume) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/set"), request).await
    }

    /// Make a volume longer.
    pub async fn volume_resize(&self, name: &str, request: &ResizeVolume) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/resize"), request).await
    }

    /// Change how much of the network a volume may take.
    pub async fn volume_limits(&self, name: &str, request: &SetLimits) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/limits"), request).await
    }

    /// Say from whom a replica is to get its log.
    pub async fn volume_source(&self, name: &str, request: &SetSource) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/source"), request).await
    }

    /// Take primary roles, and replicas if wanted, away from a host; nothing new is placed on it.
    pub async fn node_drain(&self, name: &str, request: &DrainNode) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/nodes/{}/drain", segment(name)), request)
            .await
    }

    /// Let a host take new work again.
    pub async fn node_undrain(&self, name: &str, request: &Change) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/nodes/{}/undrain", segment(name)), request)
            .await
    }

    /// Whether a host may go away for a while now.
    pub async fn node_reboot_check(&self, name: &str) -> Result<RebootCheck, ApiError> {
        self.get(&format!("/v1/nodes/{}/reboot-check", segment(name)))
            .await
    }

    /// Change what replication may take of a host.
    pub async fn node_limits(&self, name: &str, request: &SetNodeLimits) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/nodes/{}/limits", segment(name)), request)
            .await
    }

    /// Stop something at replicas, or let it go on.
    pub async fn volume_switch(&self, name: &str, request: &SwitchVolume) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/switch"), request).await
    }

    /// Throw a replica's contents away and fill it again by a full sync.
    pub async fn volume_invalidate(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/invalidate"), request).await
    }

    /// Whether and where the histories of a volume's replicas have parted.
    pub async fn volume_split_brain(&self, name: &str) -> Result<SplitBrain, ApiError> {
        self.get(&volume_path(name, "/split-brain")).await
    }

    /// Let one side of a split brain live on; the others begin anew, their logs are kept.
    pub async fn volume_resolve(&self, name: &str, request: &ResolveSplitBrain) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/split-brain"), request).await
    }

    /// Declare a replica whole by an operator's word.
    pub async fn volume_fake_sync(&self, name: &str, request: &OnNode) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/fake-sync"), request).await
    }

    /// Let the primary step down; nobody serves guests afterwards.
    pub async fn volume_secondary(&self, name: &str, request: &Change) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/secondary"), request).await
    }

    /// Open a door.
    pub async fn volume_attach(&self, name: &str, request: &Attach) -> Result<Attached, ApiError> {
        self.post(&volume_path(name, "/attach"), request).await
    }

    /// Close doors.
    pub async fn volume_detach(&self, name: &str, request: &Detach) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/detach"), request).await
    }

    /// Compare all replicas; the job in the answer carries the result.
    pub async fn volume_verify(&self, name: &str, request: &Verify) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/verify"), request).await
    }

    /// End the comparison that is under way.
    pub async fn volume_verify_cancel(&self, name: &str, request: &Change) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/verify-cancel"), request).await
    }

    /// Keep this version on every replica; the job in the answer ends when it is known who does.
    pub async fn volume_snapshot_create(
        &self,
        name: &str,
        request: &CreateSnapshot,
    ) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/snapshots"), request).await
    }

    /// What is kept of former versions.
    pub async fn volume_snapshots(&self, name: &str) -> Result<SnapshotList, ApiError> {
        self.get(&volume_path(name, "/snapshots")).await
    }

    /// Give a version up on every replica.
    pub async fn volume_snapshot_delete(
        &self,
        name: &str,
        request: &DeleteSnapshot,
    ) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/snapshot-delete"), request).await
    }

    /// Bring the contents of a version back.
    pub async fn volume_snapshot_restore(
        &self,
        name: &str,
        request: &RestoreSnapshot,
    ) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/snapshot-restore"), request).await
    }

    /// Positions of the log on every replica.
    pub async fn volume_log(&self, name: &str) -> Result<VolumeLog, ApiError> {
        self.get(&volume_path(name, "/log")).await
    }

    /// Let logs go over to other files.
    pub async fn volume_log_rotate(&self, name: &str, request: &OnNodes) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/log-rotate"), request).await
    }

    /// Give back what nobody needs of logs.
    pub async fn volume_log_trim(&self, name: &str, request: &OnNodes) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/log-trim"), request).await
    }

    /// Remove histories that were put aside.
    pub async fn volume_drop_kept(&self, name: &str, request: &DropKept) -> Result<Changed, ApiError> {
        self.post(&volume_path(name, "/drop-kept"), request).await
    }

    /// Move a replica, and the primary role with it if it has it.
    pub async fn migrate(&self, request: &Migrate) -> Result<Changed, ApiError> {
        self.post("/v1/migrate", request).await
    }

    /// All jobs that are remembered.
    pub async fn jobs(&self) -> Result<JobList, ApiError> {
        self.get("/v1/jobs").await
    }

    /// One job as it is now.
    pub async fn job(&self, id: &str) -> Result<Job, ApiError> {
        self.get(&format!("/v1/jobs/{}", segment(id))).await
    }

    /// One job as soon as its revision is not `after` any more, or after `wait`, whichever comes first.
    pub async fn job_wait(&self, id: &str, after: u64, wait: Duration) -> Result<Job, ApiError> {
        let path = format!(
            "/v1/jobs/{}?after={after}&wait_millis={}",
            segment(id),
            wait.as_millis()
        );
        self.call(Method::GET, &path, None, PATIENCE + wait).await
    }

    /// Undo a job, or let it come to its end where it cannot be undone any more.
    pub async fn job_cancel(&self, id: &str, request: &Change) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/jobs/{}/cancel", segment(id)), request)
            .await
    }

    /// The whole pool.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status").await
    }

    /// Events behind number `after`, as soon as there are some, or none after `wait`.
    pub async fn events(&self, after: u64, wait: Duration) -> Result<EventList, ApiError> {
        let path = format!("/v1/events?after={after}&wait_millis={}", wait.as_millis());
        self.call(Method::GET, &path, None, PATIENCE + wait).await
    }

    /// Steps for a node, as soon as their revision is not `after` any more, or after `wait`.
    pub async fn agent_steps(&self, node: &str, after: u64, wait: Duration) -> Result<Steps, ApiError> {
        let path = format!(
            "/v1/agent/{}?after={after}&wait_millis={}",
            segment(node),
            wait.as_millis()
        );
        self.call(Method::GET, &path, None, PATIENCE + wait).await
    }

    /// What a node has seen and done.
    pub async fn agent_report(&self, node: &str, report: &Report) -> Result<Changed, ApiError> {
        self.post(&format!("/v1/agent/{}", segment(node)), report).await
    }

    /// Make a directory of the asked host ready to be a volume group.
    pub async fn vg_prepare(&self, request: &PrepareVg) -> Result<PreparedVg, ApiError> {
        self.post("/v1/host/vg-prepare", request).await
    }

    /// Make a directory of the asked host foreign again.
    pub async fn vg_release(&self, request: &ReleaseVg) -> Result<Changed, ApiError> {
        self.post("/v1/host/vg-release", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, None, PATIENCE).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ApiError::failed(format!("cannot write the request as JSON: {error}")))?;
        self.call(Method::POST, path, Some(body.into()), PATIENCE).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        patience: Duration,
    ) -> Result<T, ApiError> {
        let answer = self.raw(method, path, body, &[], patience).await?;
        if (200..300).contains(&answer.status) {
            let answer: Versioned<T> = serde_json::from_slice(&answer.body)
                .map_err(|error| self.strange(&format!("an answer that is not understood: {error}")))?;
            if answer.schema != SCHEMA {
                return Err(self.strange(&format!("schema {}; this program speaks {SCHEMA}", answer.schema)));
            }
            return Ok(answer.body);
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(body) => Err(body.error),
            Err(_) => {
                let kind = ErrorKind::ALL
                    .into_iter()
                    .find(|kind| kind.http_status() == answer.status);
                let message = format!("the daemon at {} answered HTTP {}", self.place(), answer.status);
                Err(ApiError::new(kind.unwrap_or(ErrorKind::Failed), message))
            }
        }
    }

    /// Sends one request and returns the answer as it came, whatever its status.
    pub async fn raw(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
        headers: &[(&'static str, String)],
        patience: Duration,
    ) -> Result<RawAnswer, ApiError> {
        if body.as_ref().is_some_and(|body| body.len() > BODY_BYTES_MAX) {
            return Err(ApiError::usage(format!(
                "the request is larger than {BODY_BYTES_MAX} bytes"
            )));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header("host", "poold");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ApiError::usage(format!("`{path_and_query}` cannot be asked for: {error}")))?;
        let answer = tokio::time::timeout(patience, async {
            match &self.endpoint {
                Endpoint::Unix(path) => {
                    let stream = connect(UnixStream::connect(path), &self.place()).await?;
                    self.exchange(stream, request).await
                }
                Endpoint::Tls {
                    address,
                    server,
                    config,
                } => {
                    let stream = connect(TcpStream::connect(address), &self.place()).await?;
                    stream
                        .set_nodelay(true)
                        .map_err(|error| unreachable_at(&self.place(), &error))?;
                    let handshake = TlsConnector::from(config.clone()).connect(server.clone(), stream);
                    let stream = connect(handshake, &self.place()).await?;
                    self.exchange(stream, request).await
                }
            }
        });
        answer.await.unwrap_or_else(|_| {
            let message = format!(
                "the daemon at {} did not answer within {} s",
                self.place(),
                patience.as_secs()
            );
            Err(ApiError::timed_out(message).hint("the request may still be done; look at `poolctl status`"))
        })
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<RawAnswer, ApiError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |error: hyper::Error| {
            ApiError::unavailable(format!(
                "the connection to the daemon at {} broke: {error}",
                self.place()
            ))
            .hint("the request may have been done; look at `poolctl status`")
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = async move {
            // Its error reaches the caller through the request; the rest only ends the connection.
            let _ = connection.await;
        };
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status: StatusCode = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.strange(&format!("a body that cannot be read: {error}")))?;
            Ok(RawAnswer {
                status: status.as_u16(),
                body: body.to_bytes(),
            })
        };
        tokio::pin!(connection, exchange);
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                () = &mut connection, if open => open = false,
            }
        }
    }

    /// Where this client asks, for messages.
    pub fn place(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(path) => path.display().to_string(),
            Endpoint::Tls { address, .. } => address.clone(),
        }
    }

    fn strange(&self, what: &str) -> ApiError {
        ApiError::failed(format!("the daemon at {} sent {what}", self.place()))
            .hint("use the same version of poold and poolctl on all hosts")
    }
}

async fn connect<T>(attempt: impl Future<Output = std::io::Result<T>>, place: &str) -> Result<T, ApiError> {
    match tokio::time::timeout(CONNECT_PATIENCE, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable_at(place, &error)),
        Err(_) => {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection came about");
            Err(unreachable_at(place, &error))
        }
    }
}

fn unreachable_at(place: &str, error: &std::io::Error) -> ApiError {
    ApiError::unavailable(format!("cannot reach poold at {place}: {error}"))
        .hint("is poold running? systemctl status poold")
}

fn volume_path(name: &str, rest: &str) -> String {
    format!("/v1/volumes/{}{rest}", segment(name))
}

/// One segment of a path; whatever a person typed must not become another path.
fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') && name != "." && name != ".." {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    // An empty name would fall out of the path; a space is refused as a name with a clear message.
    if text.is_empty() { "%20".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        let check = |name: &str, want: &str| assert_eq!(segment(name), want);
        check("web-1", "web-1");
        check("a/b?c", "a%2Fb%3Fc");
        check("..", "%2E%2E");
        check("", "%20");
        check("ä", "%C3%A4");
    }
}
