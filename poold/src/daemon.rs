//! What is this daemon to its pool? Alone, the holder of the catalog, or a follower; and how it becomes one of them.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context;
use api::control::HostLimits;
use api::pool::{Changed, JoinPool, JoinRequest, PoolInfo, PoolInit, Status};
use api::{ApiError, Client, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::info;

use crate::agent::generations::Generations;
use crate::agent::marsd::Marsd;
use crate::agent::{Agent, Place, Uplink};
use crate::catalog::Catalog;
use crate::catalog::file::FileStore;
use crate::catalog::records::{NodeRecord, PoolRecord};
use crate::catalog::store::StoreError;
use crate::config::Config;
use crate::home::{Home, Membership};
use crate::http::{routes, serve};
use crate::leader::Leader;
use crate::tls::{self, Authority, CATALOG_NAME, Credentials};
use crate::token::{FRESH_TOKEN_HINT, JoinToken};
use crate::{clock, local, token};

/// What a daemon is to its pool.
#[derive(Clone)]
pub enum Role {
    /// In no pool yet.
    Alone,
    /// Holds the catalog.
    Leader(Arc<Leader>),
    /// Asks the holder of the catalog.
    Follower(Arc<Follower>),
}

/// A daemon that does not hold the catalog.
pub struct Follower {
    /// The pool's name.
    pub pool: String,
    /// The node that holds the catalog.
    pub leader: String,
    /// How to ask it.
    pub client: Client,
}

/// The daemon of a host.
pub struct Daemon {
    config: Config,
    home: Home,
    role: RwLock<Role>,
    /// Where other hosts reach this daemon; known once it listens.
    address: RwLock<String>,
    /// One `pool init` or `node join` at a time.
    settling: tokio::sync::Mutex<()>,
    /// Agent and reconciling task; they end with the daemon.
    tasks: Mutex<JoinSet<()>>,
    /// The listeners, which end when they are told.
    servers: Mutex<JoinSet<()>>,
    ending: watch::Sender<bool>,
}

impl Daemon {
    /// The daemon over its home; nothing listens yet.
    pub fn new(config: Config) -> anyhow::Result<Arc<Daemon>> {
        let home = Home::open(&config.state_dir)?;
        let address = RwLock::new(config.advertise.clone());
        Ok(Arc::new(Daemon {
            config,
            home,
            role: RwLock::new(Role::Alone),
            address,
            settling: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
            servers: Mutex::default(),
            ending: watch::Sender::new(false),
        }))
    }

    /// Takes up the role that the home remembers and serves the Unix socket. Returns once everything listens.
    /// Errors: anything that an administrator has to look at first: a damaged file, a taken port.
    pub async fn start(self: &Arc<Daemon>) -> anyhow::Result<()> {
        if let Some(membership) = self.home.membership()? {
            let credentials = self.home.credentials()?;
            let catalog = if membership.is_leader() {
                Some(self.open_catalog()?)
            } else {
                None
            };
            let listener = self.listen().await?;
            self.take_role(&membership, credentials, catalog, listener)?;
        }
        let listener = serve::bind_unix(&self.config.api_sock)?;
        let router = routes::router(self.clone());
        self.serve(serve::serve_unix(
            listener,
            self.clone(),
            router,
            self.ending.subscribe(),
        ));
        info!(node = %self.config.node, socket = %self.config.api_sock.display(), "poold serves");
        Ok(())
    }

    /// Errors: only a catalog that is damaged has to be restored; one that another program holds is as good as ever.
    fn open_catalog(&self) -> anyhow::Result<Catalog> {
        let path = self.home.catalog();
        Catalog::open(&path).map_err(|error| {
            let next = match &error {
                StoreError::Damaged { .. } => format!(
                    "nothing was changed; restore {} from a backup, or move the state directory away to begin anew",
                    path.display()
                ),
                StoreError::Conflict { .. } | StoreError::Failed { .. } => {
                    "nothing was changed; is another poold running over this directory, and is its disk readable?"
                        .to_owned()
                }
            };
            anyhow::Error::new(error).context(next)
        })
    }

    /// Ends every task and takes the socket away.
    pub async fn stop(&self) {
        let take = |tasks: &Mutex<JoinSet<()>>| {
            std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.ending.send_replace(true);
        let servers = take(&self.servers);
        servers.join_all().await;
        take(&self.tasks).shutdown().await;
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = Role::Alone;
        if let Err(error) = std::fs::remove_file(&self.config.api_sock) {
            info!(error = %error, "the socket was gone already");
        }
    }

    /// What it is now.
    pub fn role(&self) -> Role {
        self.role.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The catalog's holder, where it is this one. Errors: what to do first.
    pub fn leader(&self) -> Result<Arc<Leader>, ApiError> {
        match self.role() {
            Role::Leader(leader) => Ok(leader),
            Role::Follower(follower) => Err(ApiError::refused("this daemon does not hold the catalog")
                .hint(format!("ask node {}", follower.leader))),
            Role::Alone => Err(
                ApiError::refused(format!("node {} is in no pool yet", self.config.node))
                    .hint("`poolctl pool init` makes one; `poolctl node join URL --token T` joins one")
                    .object(format!("node {}", self.config.node)),
            ),
        }
    }

    /// Which pool is this?
    pub fn info(&self) -> PoolInfo {
        let (pool, catalog) = match self.role() {
            Role::Alone => (None, false),
            Role::Leader(leader) => (
                leader
                    .catalog
                    .records()
                    .the_pool()
                    .ok()
                    .map(|pool| pool.name.clone()),
                true,
            ),
            Role::Follower(follower) => (Some(follower.pool.clone()), false),
        };
        PoolInfo {
            node: self.config.node.clone(),
            pool,
            catalog,
            address: self.address(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// `status`, as far as this host can tell while the catalog's holder is away.
    pub async fn status_from_here(&self, follower: &Follower, why: &ApiError) -> Status {
        let own = local::Own {
            pool: follower.pool.clone(),
            node: self.config.node.clone(),
            address: self.address(),
            peer_address: self.config.marsd_peer.clone(),
        };
        let marsd = Marsd::new(&self.config.marsd_control);
        local::status(&own, marsd.status().await, why)
    }

    /// `pool init`.
    pub async fn pool_init(self: &Arc<Daemon>, request: &PoolInit) -> Result<Changed, ApiError> {
        let _settling = self.settling.lock().await;
        let object = format!("pool {}", request.name);
        model::NodeId::new(&request.name)
            .map_err(|error| ApiError::usage(error.to_string()).object(object.clone()))?;
        self.check_alone()?;
        let node = &self.config.node;
        tls::check_node_name(node)?;
        let listener = self.listen().await.map_err(|error| local(&error))?;
        if !request.dry_run {
            let authority = Authority::create(&request.name)?;
            let key_pem = tls::new_key()?;
            let cert_pem = authority.issue(&tls::request(node, &key_pem)?, &[node])?;
            let credentials = Credentials {
                ca_pem: authority.cert_pem().to_owned(),
                cert_pem,
                key_pem,
            };
            let membership = Membership::new(&request.name, node, node, &self.address());
            let serial = tls::serial(&credentials.cert_pem)?;
            let catalog = self
                .first_catalog(&request.name, serial)
                .map_err(|error| local(&error))?;
            self.home
                .settle(&membership, &credentials, Some(authority.key_pem()))
                .and_then(|()| self.take_role(&membership, credentials, Some(catalog), listener))
                .map_err(|error| local(&error))?;
        }
        let steps = vec![
            format!(
                "node {node} makes the CA of pool {} and holds its catalog",
                request.name
            ),
            format!("other hosts reach it at {}", self.address()),
        ];
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation: 0,
            steps,
            job: None,
            loss: None,
        })
    }

    fn first_catalog(&self, pool: &str, serial: String) -> anyhow::Result<Catalog> {
        self.home.check_fresh()?;
        let catalog = Catalog::load(Box::new(FileStore::create(&self.home.catalog())?))?;
        let node = &self.config.node;
        catalog.change(false, |tx| {
            tx.put(PoolRecord {
                name: pool.to_owned(),
                leader: node.clone(),
                created: clock::now(),
                newest_job: 0,
                newest_event: 0,
            })?;
            tx.put(self.own_record(clock::now(), serial))?;
            tx.event(format!("pool {pool}"), format!("is made on node {node}"))
        })?;
        Ok(catalog)
    }

    fn own_record(&self, joined: String, serial: String) -> NodeRecord {
        NodeRecord {
            name: self.config.node.clone(),
            address: self.address(),
            peer_address: self.config.marsd_peer.clone(),
            serial,
            joined,
            limits: HostLimits::default(),
            drained: false,
        }
    }

    /// `node join`.
    pub async fn node_join(self: &Arc<Daemon>, request: &JoinPool) -> Result<Changed, ApiError> {
        let _settling = self.settling.lock().await;
        let node = &self.config.node;
        let object = format!("node {node}");
        self.check_alone()?;
        tls::check_node_name(node)?;
        let token = JoinToken::decode(&request.token)?;
        if token.expires_seconds <= clock::unix_seconds() {
            let expired = clock::from_unix_seconds(token.expires_seconds);
            let message = format!("the token expired at {expired}");
            return Err(ApiError::refused(message).hint(FRESH_TOKEN_HINT).object(object));
        }
        let address = match request.url.trim() {
            "" => token.addresses.first().cloned().unwrap_or_default(),
            url => address_of(url)?,
        };
        self.home.check_fresh().map_err(|error| local(&error))?;
        let listener = self.listen().await.map_err(|error| local(&error))?;
        let key_pem = tls::new_key()?;
        let csr_pem = tls::request(node, &key_pem)?;
        let config = Arc::new(tls::joining_config(&token.ca_sha256)?);
        let client = Client::tls(&address, CATALOG_NAME, config)?;
        let wish = JoinRequest {
            secret: token.secret.clone(),
            node: node.clone(),
            address: self.address(),
            peer_address: self.config.marsd_peer.clone(),
            csr_pem,
            dry_run: request.dry_run,
        };
        let answer = client
            .join_request(&wish)
            .await
            .map_err(|error| explain(error, &address))?;
        if tls::fingerprint(&answer.ca_pem)? != token.ca_sha256 {
            let message = format!("the daemon at {address} answered with another pool's CA");
            return Err(ApiError::refused(message).hint(FRESH_TOKEN_HINT).object(object));
        }
        if !request.dry_run {
            let credentials = Credentials {
                ca_pem: answer.ca_pem,
                cert_pem: answer.cert_pem,
                key_pem,
            };
            // The address by which it was reached works from here; what the leader says of itself may not.
            let membership = Membership::new(&answer.pool, node, &answer.leader, &address);
            self.home
                .settle(&membership, &credentials, None)
                .and_then(|()| self.take_role(&membership, credentials, None, listener))
                .map_err(|error| local(&error))?;
        }
        let steps = vec![format!(
            "node {node} joins pool {}, whose catalog is on node {}",
            answer.pool, answer.leader
        )];
        Ok(Changed {
            object,
            dry_run: request.dry_run,
            generation: 0,
            steps,
            job: None,
            loss: None,
        })
    }

    fn check_alone(&self) -> Result<(), ApiError> {
        match self.info().pool {
            None => Ok(()),
            Some(pool) => Err(ApiError::refused(format!(
                "node {} is in pool {pool} already",
                self.config.node
            ))
            .hint("`poolctl status` shows it")
            .object(format!("node {}", self.config.node))),
        }
    }

    fn address(&self) -> String {
        self.address
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn listen(&self) -> anyhow::Result<TcpListener> {
        let listen = self.config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listen at {listen}"))?;
        // Port 0 in the configuration means any free one; the others must hear which.
        if let Some(host) = self.config.advertise.strip_suffix(":0") {
            let port = listener.local_addr().context("see which port is free")?.port();
            *self.address.write().unwrap_or_else(PoisonError::into_inner) = format!("{host}:{port}");
        }
        Ok(listener)
    }

    /// Begins to be what the membership says.
    fn take_role(
        self: &Arc<Daemon>,
        membership: &Membership,
        credentials: Credentials,
        catalog: Option<Catalog>,
        listener: TcpListener,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(
            membership.node == self.config.node,
            "this host joined pool {} as node {}, but is configured as {}",
            membership.pool,
            membership.node,
            self.config.node
        );
        let generations = Generations::open(&self.home.agent())?;
        let client_config = Arc::new(tls::client_config(&credentials)?);
        // What callers see. A node's own certificate has its name alone: peers of marsd take no other.
        let mut shown = credentials.clone();
        let (role, uplink) = match catalog {
            Some(catalog) => {
                let authority = Authority::load(credentials.ca_pem.clone(), self.home.ca_key()?)?;
                let request = tls::request(&membership.node, &credentials.key_pem)?;
                shown.cert_pem = authority.issue(&request, &[&membership.node, CATALOG_NAME])?;
                self.note_own_address(&catalog)?;
                let leader = Leader::new(
                    &membership.node,
                    &self.address(),
                    catalog,
                    authority,
                    credentials.clone(),
                );
                let leader = Arc::new(leader);
                self.spawn(leader.clone().run());
                (Role::Leader(leader.clone()), Uplink::Local(leader))
            }
            None => {
                let client = Client::tls(&membership.leader_address, CATALOG_NAME, client_config)?;
                let follower = Follower {
                    pool: membership.pool.clone(),
                    leader: membership.leader.clone(),
                    client: client.clone(),
                };
                (Role::Follower(Arc::new(follower)), Uplink::Remote(client))
            }
        };
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = role;
        let marsd = Marsd::new(&self.config.marsd_control);
        let place = Place {
            address: self.address(),
            peer_address: self.config.marsd_peer.clone(),
        };
        let agent = Agent::new(&membership.node, place, marsd, credentials, generations, uplink);
        self.spawn(Arc::new(agent).run());
        let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&shown)?));
        let (router, ending) = (routes::router(self.clone()), self.ending.subscribe());
        self.serve(serve::serve_tls(listener, acceptor, self.clone(), router, ending));
        info!(pool = %membership.pool, catalog = membership.is_leader(), "in the pool");
        Ok(())
    }

    /// The configuration decides where this host is reached; the catalog follows.
    fn note_own_address(&self, catalog: &Catalog) -> Result<(), ApiError> {
        let Some(before) = catalog.records().nodes.get(&self.config.node).cloned() else {
            return Err(ApiError::failed("the catalog does not know its own node"));
        };
        let own = NodeRecord {
            address: self.address(),
            peer_address: self.config.marsd_peer.clone(),
            ..before.clone()
        };
        if own == before {
            Ok(())
        } else {
            catalog.change(false, |tx| tx.put(own))
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(task);
    }

    fn serve(&self, server: impl Future<Output = ()> + Send + 'static) {
        self.servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(server);
    }
}

/// `https://host:port`, with or without the scheme or a slash at the end.
fn address_of(url: &str) -> Result<String, ApiError> {
    let rest = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
    let good = rest
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
    if good {
        return Ok(rest.to_owned());
    }
    Err(ApiError::usage(format!("`{url}` is not the URL of a pool"))
        .hint("write it as `node token` printed it: https://host:7778"))
}

/// Why nobody of the token's pool answered: a wrong CA is a matter of safety, not of the network.
fn explain(error: ApiError, address: &str) -> ApiError {
    if error.kind == ErrorKind::Unavailable && error.message.contains("invalid peer certificate") {
        return ApiError::refused(format!(
            "the daemon at {address} is not of the pool that made the token"
        ))
        .hint(token::FRESH_TOKEN_HINT);
    }
    error
}

fn local(error: &anyhow::Error) -> ApiError {
    ApiError::failed(format!("{error:#}"))
}
