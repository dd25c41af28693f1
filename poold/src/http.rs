//! How are requests answered? One router behind a Unix socket and behind mutual TLS; who asks decides what is allowed.

pub mod routes;
pub mod serve;

use std::sync::Arc;

use api::error::ErrorBody;
use api::pool::{BODY_BYTES_MAX, Versioned};
use api::{ApiError, ErrorKind};
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use crate::daemon::{Daemon, Role};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this host who may open the Unix socket.
    Local,
    /// A node, by its certificate.
    Node {
        /// Its name.
        node: String,
        /// The certificate's serial number, in hex.
        serial: String,
    },
    /// Somebody without a certificate: a host that wants to join.
    Stranger,
}

/// An answer on its way out.
pub struct Answer<T>(pub T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&Versioned::new(self.0)) {
            Ok(json) => respond(StatusCode::OK, json),
            Err(error) => {
                Refusal(ApiError::failed(format!("the answer cannot be written: {error}"))).into_response()
            }
        }
    }
}

/// A bad answer on its way out.
pub struct Refusal(pub ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Plain strings and a word: this cannot fail, and an empty body would still carry the status.
        respond(
            status,
            serde_json::to_vec(&ErrorBody { error: self.0 }).unwrap_or_default(),
        )
    }
}

/// The JSON body of a request.
pub struct Wish<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Wish<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Wish<T>, Refusal> {
        let body = read_body(request).await?;
        let wish = serde_json::from_slice(&body).map_err(|error| {
            ApiError::usage(format!("the request's body is not understood: {error}"))
                .hint("use the same version of poolctl and poold")
        })?;
        Ok(Wish(wish))
    }
}

/// Answers a request, or passes it on to the daemon that holds the catalog.
pub async fn answer(daemon: Arc<Daemon>, router: Router, caller: Caller, mut request: Request) -> Response {
    let role = daemon.role();
    let path = request.uri().path().to_owned();
    if let Err(error) = allowed(&role, &caller, request.method(), &path) {
        return Refusal(error).into_response();
    }
    if let (Role::Follower(follower), Caller::Local) = (&role, &caller)
        && !is_own(&path)
    {
        let asks_status = request.method() == Method::GET && path == "/v1/status";
        return match pass_on(&follower.client, request).await {
            Ok(response) => response,
            // The catalog is away, but this host can still tell how its own part stands.
            Err(error) if asks_status && is_away(error.kind) => {
                Answer(daemon.status_from_here(follower, &error).await).into_response()
            }
            Err(error) => Refusal(error).into_response(),
        };
    }
    request.extensions_mut().insert(caller);
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Requests about this very host, whatever its role.
fn is_own(path: &str) -> bool {
    matches!(path, "/v1/pool" | "/v1/pool/join")
}

fn allowed(role: &Role, caller: &Caller, method: &Method, path: &str) -> Result<(), ApiError> {
    let internal = path.starts_with("/v1/agent/") || path.starts_with("/v1/host/") || path == "/v1/join";
    match (caller, role) {
        (Caller::Stranger, Role::Leader(_)) if path == "/v1/join" => Ok(()),
        (Caller::Stranger, _) => Err(ApiError::refused("this needs a certificate of the pool")
            .hint("ask the daemon of a host of the pool by its Unix socket")),
        (Caller::Local, _) if internal => Err(ApiError::refused(
            "only daemons of the pool ask this, by their certificates",
        )),
        (Caller::Local, _) => Ok(()),
        (Caller::Node { .. }, _) if method == Method::GET && path == "/v1/pool" => Ok(()),
        (Caller::Node { .. }, _) if is_own(path) => {
            Err(ApiError::refused("this can be asked on the host itself only").hint("use its Unix socket"))
        }
        (Caller::Node { node, serial }, Role::Leader(leader)) => {
            if !leader.is_member(node, serial) {
                return Err(ApiError::refused(format!("node {node} is no longer in the pool"))
                    .hint("let it join again: `poolctl node token`, then `poolctl node join` there")
                    .object(format!("node {node}")));
            }
            let agent = path.strip_prefix("/v1/agent/");
            if agent.is_some_and(|agent| agent != node) {
                return Err(ApiError::refused(format!(
                    "node {node} cannot speak for another node"
                )));
            }
            Ok(())
        }
        (Caller::Node { node, .. }, Role::Follower(follower)) => {
            if path.starts_with("/v1/host/") && *node == follower.leader {
                return Ok(());
            }
            Err(ApiError::refused("this daemon does not hold the catalog")
                .hint(format!("ask node {}", follower.leader)))
        }
        (Caller::Node { .. }, Role::Alone) => Err(ApiError::refused("this host is in no pool")),
    }
}

fn is_away(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::TimedOut)
}

async fn pass_on(client: &api::Client, request: Request) -> Result<Response, ApiError> {
    let method = request.method().clone();
    let path = request
        .uri()
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    let answered = async {
        let body = read_body(request).await?;
        let body = Some(body).filter(|body| !body.is_empty());
        let patience = crate::leader::WAIT_MAX * 3;
        client.raw(method, &path, body, &[], patience).await
    };
    let answer = answered.await.map_err(|error| {
        if !is_away(error.kind) {
            return error;
        }
        let message = format!("the pool's catalog cannot be reached: {}", error.message);
        ApiError { message, ..error }.hint("bring the host that holds the catalog back")
    })?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(respond(status, answer.body))
}

async fn read_body(request: Request) -> Result<bytes::Bytes, ApiError> {
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
    body.map_err(|_| {
        ApiError::usage(format!(
            "the request's body is larger than {BODY_BYTES_MAX} bytes, or broke off"
        ))
    })
}

fn respond(status: StatusCode, json: impl Into<Body>) -> Response {
    let mut response = Response::new(json.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
