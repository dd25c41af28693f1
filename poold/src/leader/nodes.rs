//! Who is in the pool? Hosts come with a token, once, and go when nothing of the pool is on them.

use api::ApiError;
use api::control::HostLimits;
use api::pool::{Changed, IssueToken, JoinAnswer, JoinRequest, Token};
use model::NodeId;

use super::Leader;
use crate::catalog::records::{NodeRecord, RevokedRecord, TokenRecord, VgRecord};
use crate::token::{FRESH_TOKEN_HINT, JoinToken, hash};
use crate::{clock, tls};

/// How long a token may be used, in seconds.
const TOKEN_SECONDS: u64 = 3600;

/// Longest life of a token: a year.
const TOKEN_SECONDS_MAX: u64 = 365 * 24 * 3600;

impl Leader {
    /// `node token`.
    pub fn node_token(&self, request: &IssueToken) -> Result<Token, ApiError> {
        let seconds = request.ttl_seconds.unwrap_or(TOKEN_SECONDS);
        if seconds == 0 || seconds > TOKEN_SECONDS_MAX {
            return Err(ApiError::usage(format!("a token cannot live for {seconds} s"))
                .hint(format!("give a --ttl of 1 to {TOKEN_SECONDS_MAX} s")));
        }
        let now = clock::unix_seconds();
        let expires_seconds = now + seconds;
        let token = JoinToken::new(
            &self.address,
            &tls::fingerprint(self.authority.cert_pem())?,
            expires_seconds,
        );
        self.change(request.dry_run, |tx| {
            let old = tx
                .records
                .tokens
                .iter()
                .filter(|token| token.expires_seconds + TOKEN_SECONDS < now);
            let old: Vec<String> = old.map(|token| token.hash.clone()).collect();
            for hash in old {
                tx.remove::<TokenRecord>(&hash);
            }
            tx.put(TokenRecord {
                hash: hash(&token.secret),
                expires_seconds,
                used_by: None,
            })?;
            tx.event("pool", "a token for one more node is made")
        })?;
        Ok(Token {
            token: if request.dry_run {
                String::new()
            } else {
                token.encode()?
            },
            url: format!("https://{}", self.address),
            expires: clock::from_unix_seconds(expires_seconds),
        })
    }

    /// What a joining host asks. Errors: `refused` for a token that is not good; nothing is changed then.
    pub fn join(&self, request: &JoinRequest) -> Result<JoinAnswer, ApiError> {
        let object = format!("node {}", request.node);
        NodeId::new(&request.node)
            .map_err(|error| ApiError::usage(error.to_string()).object(object.clone()))?;
        tls::check_node_name(&request.node)?;
        for address in [&request.address, &request.peer_address] {
            check_address(address).map_err(|error| error.object(object.clone()))?;
        }
        let refused = |message: &str| {
            Err(ApiError::refused(message)
                .hint(FRESH_TOKEN_HINT)
                .object(object.clone()))
        };
        let hash = hash(&request.secret);
        self.change(request.dry_run, |tx| {
            let Some(token) = tx.records.tokens.get(&hash).cloned() else {
                return refused("the token is not one of this pool's");
            };
            if let Some(node) = &token.used_by {
                return refused(&format!("the token was used already, by node {node}"));
            }
            if token.expires_seconds <= clock::unix_seconds() {
                let expired = clock::from_unix_seconds(token.expires_seconds);
                return refused(&format!("the token expired at {expired}"));
            }
            if tx.records.nodes.get(&request.node).is_some() {
                let message = format!("a node `{}` is in the pool already", request.node);
                let hint = format!(
                    "set another name with `poold --node`, or `poolctl node remove {}`",
                    request.node
                );
                return Err(ApiError::refused(message).hint(hint).object(object.clone()));
            }
            let cert_pem = self.authority.issue(&request.csr_pem, &[&request.node])?;
            tx.put(TokenRecord {
                used_by: Some(request.node.clone()),
                ..token
            })?;
            tx.put(NodeRecord {
                name: request.node.clone(),
                address: request.address.clone(),
                peer_address: request.peer_address.clone(),
                serial: tls::serial(&cert_pem)?,
                joined: clock::now(),
                limits: HostLimits::default(),
                drained: false,
            })?;
            tx.event(&object, "joins the pool")?;
            Ok(JoinAnswer {
                pool: tx.records.the_pool()?.name.clone(),
                leader: self.node.clone(),
                leader_address: self.address.clone(),
                ca_pem: self.authority.cert_pem().to_owned(),
                cert_pem: if request.dry_run { String::new() } else { cert_pem },
            })
        })
    }

    /// `node remove`.
    pub fn node_remove(&self, name: &str, dry_run: bool) -> Result<Changed, ApiError> {
        let object = format!("node {name}");
        let refused =
            |message: String, hint: &str| Err(ApiError::refused(message).hint(hint).object(object.clone()));
        let changed = self.change(dry_run, |tx| {
            let record = tx.records.node(name)?.clone();
            if name == self.node {
                return refused(
                    format!("node {name} holds the pool's catalog"),
                    "it is the last node that can go",
                );
            }
            let volumes = tx.records.volumes.iter();
            let replicas = volumes.clone().filter(|volume| {
                volume
                    .members
                    .iter()
                    .chain(&volume.leaving)
                    .any(|place| place.node == name)
            });
            let replicas: Vec<&str> = replicas.map(|volume| volume.name.as_str()).collect();
            if !replicas.is_empty() {
                let hint = format!("move them first: `poolctl migrate VOLUME --from {name} --to NODE`");
                return refused(
                    format!("node {name} has replicas of: {}", replicas.join(", ")),
                    &hint,
                );
            }
            let doors = volumes.filter(|volume| volume.doors.iter().any(|door| door.node == name));
            let doors: Vec<&str> = doors.map(|volume| volume.name.as_str()).collect();
            if !doors.is_empty() {
                let hint = format!("`poolctl volume detach VOLUME --node {name}` first");
                return refused(format!("node {name} has doors of: {}", doors.join(", ")), &hint);
            }
            let groups: Vec<String> = tx
                .records
                .vgs
                .iter()
                .filter(|vg| vg.node == name)
                .map(|vg| format!("{}/{}", vg.node, vg.name))
                .collect();
            let mut steps = vec![format!(
                "node {name} is no longer trusted by the pool's daemons: its certificate is revoked"
            )];
            tx.put(RevokedRecord {
                serial: record.serial,
                node: name.to_owned(),
                since: clock::now(),
            })?;
            for key in groups {
                tx.remove::<VgRecord>(&key);
                steps.push(format!("its volume group {key} no longer belongs to the pool"));
            }
            tx.remove::<NodeRecord>(name);
            tx.event(&object, "leaves the pool")?;
            Ok(Changed {
                object: object.clone(),
                dry_run,
                generation: 0,
                steps,
                job: None,
                loss: None,
            })
        })?;
        if !dry_run {
            self.inventory.forget_host(name);
        }
        Ok(changed)
    }

    /// Whether a certificate's node is still in the pool, by that certificate.
    pub fn is_member(&self, node: &str, serial: &str) -> bool {
        let records = self.catalog.records();
        records.nodes.get(node).is_some() && records.revoked.get(serial).is_none()
    }
}

/// Errors: `usage` for what is not `host:port`.
pub fn check_address(address: &str) -> Result<(), ApiError> {
    let parts = address.rsplit_once(':');
    if parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Ok(());
    }
    Err(ApiError::usage(format!(
        "`{address}` is not of the form host:port"
    )))
}
