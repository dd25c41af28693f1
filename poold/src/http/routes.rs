//! Which path does what? One line per request; the work is done elsewhere.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::pool::agent::{PrepareVg, PreparedVg, ReleaseVg, Report, Steps};
use api::pool::{
    AddVg, Attach, Attached, Change, Changed, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume,
    Detach, DrainNode, DropKept, EventList, IssueToken, Job, JobList, JoinAnswer, JoinPool, JoinRequest,
    MakePrimary, Migrate, Node, NodeList, OnNode, OnNodes, PoolInfo, PoolInit, RebootCheck, RemoveNode,
    RemoveVg, ResizeVolume, ResolveSplitBrain, RestoreSnapshot, SetLimits, SetNodeLimits, SetSource,
    SetVolume, SnapshotList, SplitBrain, Status, SwitchVolume, Token, Verify, VgList, Volume, VolumeList,
    VolumeLog,
};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;

use super::{Answer, Caller, Refusal, Wish};
use crate::daemon::Daemon;
use crate::host;
use crate::leader::Leader;

type Reply<T> = Result<Answer<T>, Refusal>;
type Here = State<Arc<Daemon>>;

/// A name in the path.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|error| ApiError::usage(format!("the name is not valid: {error}")))?;
        Ok(Name(name))
    }
}

/// What a long poll asks for.
#[derive(Default, Deserialize)]
struct PollQuery {
    after: Option<u64>,
    #[serde(default)]
    wait_millis: u64,
}

struct Poll(PollQuery);

impl Poll {
    fn wait(&self) -> Duration {
        Duration::from_millis(self.0.wait_millis)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Poll {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Poll, Refusal> {
        let query = Query::<PollQuery>::from_request_parts(parts, state).await;
        let Query(query) =
            query.map_err(|error| ApiError::usage(format!("the query is not understood: {error}")))?;
        Ok(Poll(query))
    }
}

/// The leader, where this daemon is one.
struct Pool(Arc<Leader>);

impl FromRequestParts<Arc<Daemon>> for Pool {
    type Rejection = Refusal;

    async fn from_request_parts(_: &mut Parts, daemon: &Arc<Daemon>) -> Result<Pool, Refusal> {
        Ok(Pool(daemon.leader()?))
    }
}

/// All requests.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/pool", get(pool_info).post(pool_init))
        .route("/v1/pool/join", post(node_join))
        .route("/v1/join", post(join))
        .route("/v1/tokens", post(node_token))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", get(node))
        .route("/v1/nodes/{name}/remove", post(node_remove))
        .route("/v1/nodes/{name}/limits", post(node_limits))
        .route("/v1/nodes/{name}/drain", post(node_drain))
        .route("/v1/nodes/{name}/undrain", post(node_undrain))
        .route("/v1/nodes/{name}/reboot-check", get(node_reboot_check))
        .route("/v1/vgs", get(vgs).post(vg_add))
        .route("/v1/vgs/{name}/remove", post(vg_remove))
        .route("/v1/volumes", get(volumes).post(volume_create))
        .route("/v1/volumes/{name}", get(volume))
        .route("/v1/volumes/{name}/delete", post(volume_delete))
        .route("/v1/volumes/{name}/join", post(volume_join))
        .route("/v1/volumes/{name}/leave", post(volume_leave))
        .route("/v1/volumes/{name}/primary", post(volume_primary))
        .route("/v1/volumes/{name}/set", post(volume_set))
        .route("/v1/volumes/{name}/resize", post(volume_resize))
        .route("/v1/volumes/{name}/limits", post(volume_limits))
        .route("/v1/volumes/{name}/source", post(volume_source))
        .route(
            "/v1/volumes/{name}/split-brain",
            get(volume_split_brain).post(volume_resolve),
        )
        .route("/v1/volumes/{name}/switch", post(volume_switch))
        .route("/v1/volumes/{name}/invalidate", post(volume_invalidate))
        .route("/v1/volumes/{name}/fake-sync", post(volume_fake_sync))
        .route("/v1/volumes/{name}/secondary", post(volume_secondary))
        .route("/v1/volumes/{name}/attach", post(volume_attach))
        .route("/v1/volumes/{name}/detach", post(volume_detach))
        .route("/v1/volumes/{name}/verify", post(volume_verify))
        .route("/v1/volumes/{name}/verify-cancel", post(volume_verify_cancel))
        .route(
            "/v1/volumes/{name}/snapshots",
            get(volume_snapshots).post(volume_snapshot_create),
        )
        .route("/v1/volumes/{name}/snapshot-delete", post(volume_snapshot_delete))
        .route(
            "/v1/volumes/{name}/snapshot-restore",
            post(volume_snapshot_restore),
        )
        .route("/v1/volumes/{name}/log", get(volume_log))
        .route("/v1/volumes/{name}/log-rotate", post(volume_log_rotate))
        .route("/v1/volumes/{name}/log-trim", post(volume_log_trim))
        .route("/v1/volumes/{name}/drop-kept", post(volume_drop_kept))
        .route("/v1/migrate", post(migrate))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{name}", get(job))
        .route("/v1/jobs/{name}/cancel", post(job_cancel))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/agent/{name}", get(agent_steps).post(agent_report))
        .route("/v1/host/vg-prepare", post(vg_prepare))
        .route("/v1/host/vg-release", post(vg_release))
        .fallback(async || {
            Refusal(ApiError::not_found("there is no such request").hint("is poolctl newer than poold?"))
        })
        .method_not_allowed_fallback(async || Refusal(ApiError::usage("this request takes another method")))
        .with_state(daemon)
}

async fn pool_info(State(daemon): Here) -> Reply<PoolInfo> {
    Ok(Answer(daemon.info()))
}

async fn pool_init(State(daemon): Here, Wish(wish): Wish<PoolInit>) -> Reply<Changed> {
    Ok(Answer(daemon.pool_init(&wish).await?))
}

async fn node_join(State(daemon): Here, Wish(wish): Wish<JoinPool>) -> Reply<Changed> {
    Ok(Answer(daemon.node_join(&wish).await?))
}

async fn join(Pool(pool): Pool, Wish(wish): Wish<JoinRequest>) -> Reply<JoinAnswer> {
    Ok(Answer(pool.join(&wish)?))
}

async fn node_token(Pool(pool): Pool, Wish(wish): Wish<IssueToken>) -> Reply<Token> {
    Ok(Answer(pool.node_token(&wish)?))
}

async fn nodes(Pool(pool): Pool) -> Reply<NodeList> {
    Ok(Answer(pool.nodes()))
}

async fn node(Pool(pool): Pool, Name(name): Name) -> Reply<Node> {
    Ok(Answer(pool.node(&name)?))
}

async fn node_remove(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<RemoveNode>) -> Reply<Changed> {
    Ok(Answer(pool.node_remove(&name, wish.dry_run)?))
}

async fn node_drain(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<DrainNode>) -> Reply<Changed> {
    Ok(Answer(pool.node_drain(&name, &wish)?))
}

async fn node_undrain(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Change>) -> Reply<Changed> {
    Ok(Answer(pool.node_undrain(&name, wish.dry_run)?))
}

async fn node_reboot_check(Pool(pool): Pool, Name(name): Name) -> Reply<RebootCheck> {
    Ok(Answer(pool.node_reboot_check(&name)?))
}

async fn node_limits(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<SetNodeLimits>) -> Reply<Changed> {
    Ok(Answer(pool.node_limits(&name, &wish)?))
}

async fn vgs(Pool(pool): Pool) -> Reply<VgList> {
    Ok(Answer(pool.vgs()))
}

async fn vg_add(
    Pool(pool): Pool,
    Extension(caller): Extension<Caller>,
    Wish(wish): Wish<AddVg>,
) -> Reply<Changed> {
    Ok(Answer(pool.vg_add(&wish, asking(&pool, &caller)).await?))
}

async fn vg_remove(
    Pool(pool): Pool,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
    Wish(wish): Wish<RemoveVg>,
) -> Reply<Changed> {
    Ok(Answer(
        pool.vg_remove(&name, &wish, asking(&pool, &caller)).await?,
    ))
}

async fn volumes(Pool(pool): Pool) -> Reply<VolumeList> {
    Ok(Answer(pool.volumes()))
}

async fn volume(Pool(pool): Pool, Name(name): Name) -> Reply<Volume> {
    Ok(Answer(pool.volume(&name)?))
}

async fn volume_create(Pool(pool): Pool, Wish(wish): Wish<CreateVolume>) -> Reply<Changed> {
    Ok(Answer(pool.volume_create(&wish)?))
}

async fn volume_delete(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<DeleteVolume>) -> Reply<Changed> {
    Ok(Answer(pool.volume_delete(&name, wish.dry_run)?))
}

async fn volume_join(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNode>) -> Reply<Changed> {
    Ok(Answer(pool.volume_join(&name, &wish)?))
}

async fn volume_leave(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNode>) -> Reply<Changed> {
    Ok(Answer(pool.volume_leave(&name, &wish)?))
}

async fn volume_primary(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<MakePrimary>) -> Reply<Changed> {
    Ok(Answer(pool.volume_primary(&name, &wish)?))
}

async fn volume_resize(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<ResizeVolume>) -> Reply<Changed> {
    Ok(Answer(pool.volume_resize(&name, &wish)?))
}

async fn volume_set(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<SetVolume>) -> Reply<Changed> {
    Ok(Answer(pool.volume_set(&name, &wish)?))
}

async fn volume_split_brain(Pool(pool): Pool, Name(name): Name) -> Reply<SplitBrain> {
    Ok(Answer(pool.volume_split_brain(&name)?))
}

async fn volume_resolve(
    Pool(pool): Pool,
    Name(name): Name,
    Wish(wish): Wish<ResolveSplitBrain>,
) -> Reply<Changed> {
    Ok(Answer(pool.volume_resolve(&name, &wish)?))
}

async fn volume_limits(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<SetLimits>) -> Reply<Changed> {
    Ok(Answer(pool.volume_limits(&name, &wish)?))
}

async fn volume_source(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<SetSource>) -> Reply<Changed> {
    Ok(Answer(pool.volume_source(&name, &wish)?))
}

async fn volume_switch(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<SwitchVolume>) -> Reply<Changed> {
    Ok(Answer(pool.volume_switch(&name, &wish).await?))
}

async fn volume_invalidate(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNode>) -> Reply<Changed> {
    Ok(Answer(pool.volume_invalidate(&name, &wish)?))
}

async fn volume_fake_sync(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNode>) -> Reply<Changed> {
    Ok(Answer(pool.volume_fake_sync(&name, &wish)?))
}

async fn volume_secondary(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Change>) -> Reply<Changed> {
    Ok(Answer(pool.volume_secondary(&name, wish.dry_run)?))
}

async fn volume_attach(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Attach>) -> Reply<Attached> {
    Ok(Answer(pool.volume_attach(&name, &wish).await?))
}

async fn volume_detach(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Detach>) -> Reply<Changed> {
    Ok(Answer(pool.volume_detach(&name, &wish).await?))
}

async fn volume_verify(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Verify>) -> Reply<Changed> {
    Ok(Answer(pool.volume_verify(&name, &wish)?))
}

async fn volume_verify_cancel(
    Pool(pool): Pool,
    Name(name): Name,
    Wish(wish): Wish<Change>,
) -> Reply<Changed> {
    Ok(Answer(pool.volume_verify_cancel(&name, wish.dry_run)?))
}

async fn volume_snapshots(Pool(pool): Pool, Name(name): Name) -> Reply<SnapshotList> {
    Ok(Answer(pool.volume_snapshots(&name)?))
}

async fn volume_snapshot_create(
    Pool(pool): Pool,
    Name(name): Name,
    Wish(wish): Wish<CreateSnapshot>,
) -> Reply<Changed> {
    Ok(Answer(pool.volume_snapshot_create(&name, &wish)?))
}

async fn volume_snapshot_delete(
    Pool(pool): Pool,
    Name(name): Name,
    Wish(wish): Wish<DeleteSnapshot>,
) -> Reply<Changed> {
    Ok(Answer(pool.volume_snapshot_delete(&name, &wish)?))
}

async fn volume_snapshot_restore(
    Pool(pool): Pool,
    Name(name): Name,
    Wish(wish): Wish<RestoreSnapshot>,
) -> Reply<Changed> {
    Ok(Answer(pool.volume_snapshot_restore(&name, &wish)?))
}

async fn volume_log(Pool(pool): Pool, Name(name): Name) -> Reply<VolumeLog> {
    Ok(Answer(pool.volume_log(&name)?))
}

async fn volume_log_rotate(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNodes>) -> Reply<Changed> {
    Ok(Answer(pool.volume_log_rotate(&name, &wish)?))
}

async fn volume_log_trim(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<OnNodes>) -> Reply<Changed> {
    Ok(Answer(pool.volume_log_trim(&name, &wish)?))
}

async fn volume_drop_kept(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<DropKept>) -> Reply<Changed> {
    Ok(Answer(pool.volume_drop_kept(&name, &wish)?))
}

async fn migrate(Pool(pool): Pool, Wish(wish): Wish<Migrate>) -> Reply<Changed> {
    Ok(Answer(pool.migrate(&wish)?))
}

async fn jobs(Pool(pool): Pool) -> Reply<JobList> {
    Ok(Answer(pool.jobs()))
}

async fn job(Pool(pool): Pool, Name(name): Name, poll: Poll) -> Reply<Job> {
    Ok(Answer(pool.job_wait(&name, poll.0.after, poll.wait()).await?))
}

async fn job_cancel(Pool(pool): Pool, Name(name): Name, Wish(wish): Wish<Change>) -> Reply<Changed> {
    Ok(Answer(pool.job_cancel(&name, wish.dry_run)?))
}

async fn status(Pool(pool): Pool) -> Reply<Status> {
    Ok(Answer(pool.status()?))
}

async fn events(Pool(pool): Pool, poll: Poll) -> Reply<EventList> {
    Ok(Answer(pool.events(poll.0.after, poll.wait()).await?))
}

async fn agent_steps(Pool(pool): Pool, Name(name): Name, poll: Poll) -> Reply<Steps> {
    Ok(Answer(
        pool.agent_steps(&name, poll.0.after.unwrap_or(0), poll.wait())
            .await?,
    ))
}

async fn agent_report(Pool(pool): Pool, Name(name): Name, Wish(report): Wish<Report>) -> Reply<Changed> {
    pool.agent_report(&name, report)?;
    let object = format!("node {name}");
    Ok(Answer(Changed {
        object,
        dry_run: false,
        generation: 0,
        steps: Vec::new(),
        job: None,
        loss: None,
    }))
}

async fn vg_prepare(Wish(wish): Wish<PrepareVg>) -> Reply<PreparedVg> {
    Ok(Answer(host::prepare_vg(&wish).await?))
}

async fn vg_release(Wish(wish): Wish<ReleaseVg>) -> Reply<Changed> {
    host::release_vg(&wish).await?;
    let (object, dry_run) = (format!("volume group {}", wish.name), wish.dry_run);
    Ok(Answer(Changed {
        object,
        dry_run,
        generation: 0,
        steps: Vec::new(),
        job: None,
        loss: None,
    }))
}

/// The node on whose behalf a request comes.
fn asking<'a>(pool: &'a Leader, caller: &'a Caller) -> &'a str {
    match caller {
        Caller::Node { node, .. } => node,
        Caller::Local | Caller::Stranger => &pool.node,
    }
}
