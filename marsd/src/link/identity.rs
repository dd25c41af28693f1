//! Who is this host, and who is at the other end? Certificates of the pool's own authority, the node's name first in each.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use model::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why credentials are refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// One of the three PEM texts does not hold what it should, or they do not fit together.
    #[error("{what}: {reason}")]
    Unfit {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The file that keeps them cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Credentials as they came and as they are kept: `STATE/identity/identity.json`, readable by its owner only.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Credentials {
    /// Node name.
    pub node: String,
    /// PEM of the pool's CA.
    pub ca_pem: String,
    /// PEM of this node's certificate.
    pub cert_pem: String,
    /// PEM of its key.
    pub key_pem: String,
}

/// Credentials that were checked, ready for use.
pub struct Identity {
    /// Who we are.
    pub node: NodeId,
    /// For connections made to us.
    pub server: Arc<ServerConfig>,
    /// For connections we make.
    pub client: Arc<ClientConfig>,
    credentials: Credentials,
}

fn unfit(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> IdentityError {
    move |reason| IdentityError::Unfit {
        what,
        reason: reason.to_string(),
    }
}

impl Identity {
    /// Checks that the parts fit together: the CA signed the certificate, it names the node first, the key is its key.
    pub fn new(credentials: Credentials) -> Result<Identity, IdentityError> {
        let node = NodeId::new(&credentials.node).map_err(|e| unfit("node name")(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in certificates("ca_pem", &credentials.ca_pem)? {
            roots.add(ca).map_err(|e| unfit("ca_pem")(&e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("cert_pem", &credentials.cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes());
        let key = key.map_err(|e| unfit("key_pem")(&e))?;

        let named = peer_name(Some(&chain)).map_err(|e| unfit("cert_pem")(&e))?;
        if named != node {
            return Err(unfit("cert_pem")(&format!(
                "it is for `{named}`, not for `{node}`"
            )));
        }
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|e| unfit("ca_pem")(&e))?;
        let name = ServerName::try_from(node.as_str().to_owned()).map_err(|e| unfit("node name")(&e))?;
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
            .map_err(|e| unfit("cert_pem")(&format!("the CA does not vouch for it: {e}")))?;

        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| unfit("ca_pem")(&e))?;
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|e| unfit("TLS")(&e))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| unfit("key_pem")(&e))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| unfit("TLS")(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| unfit("key_pem")(&e))?;
        // Every connection proves both ends anew, with the credentials of now.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Ok(Identity {
            node,
            server: Arc::new(server),
            client: Arc::new(client),
            credentials,
        })
    }

    /// Reads what was kept; `None` when nothing was.
    pub(crate) fn load(path: &Path) -> Result<Option<Identity>, IdentityError> {
        let io = |error| IdentityError::Io {
            path: path.display().to_string(),
            error,
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let credentials = serde_json::from_slice(&text).map_err(|e| io(e.into()))?;
        Identity::new(credentials).map(Some)
    }

    /// Keeps it, in place of what was kept.
    pub(crate) fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let io = |error| IdentityError::Io {
            path: path.display().to_string(),
            error,
        };
        let text = serde_json::to_vec(&self.credentials).map_err(|e| io(e.into()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        crate::persist::create_directory(directory).map_err(io)?;
        crate::persist::create_atomically(path, &text).map_err(io)?;
        Ok(())
    }

    /// The chain that it shows to others.
    #[cfg(test)]
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates("cert_pem", &self.credentials.cert_pem)
    }

    /// Whether these are the same credentials.
    pub(crate) fn holds(&self, credentials: &Credentials) -> bool {
        self.credentials == *credentials
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unfit(what)(&"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(e) => Err(unfit(what)(&e)),
    }
}

/// The node that a verified chain belongs to: the first name of its first certificate. Further names say what else the
/// host serves (the catalog), which is nothing to links.
///
/// Errors: `InvalidData` when there is none, or it is no DNS name that a node can have.
pub(crate) fn peer_name(chain: Option<&[CertificateDer<'_>]>) -> io::Result<NodeId> {
    let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let first = chain
        .and_then(<[_]>::first)
        .ok_or_else(|| bad("no certificate was shown".to_owned()))?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|e| bad(e.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| bad(e.to_string()))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    match names.first() {
        Some(GeneralName::DNSName(name)) => NodeId::new(name).map_err(|e| bad(e.to_string())),
        Some(_) | None => Err(bad("a certificate names no node first".to_owned())),
    }
}

/// The serial number of the first certificate of a verified chain, in hex: what a revocation names.
pub(crate) fn serial(chain: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(chain?.first()?).ok()?;
    let digits = certificate.raw_serial().iter();
    Some(digits.map(|byte| format!("{byte:02x}")).collect())
}

/// Certificates that count no more, by serial number: `STATE/identity/revoked.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// In hex.
    pub serials: BTreeSet<String>,
}

impl Revoked {
    /// Reads what was kept; nothing is revoked when nothing was.
    pub fn load(path: &Path) -> Result<Revoked, IdentityError> {
        let io = |error| IdentityError::Io {
            path: path.display().to_string(),
            error,
        };
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| io(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Revoked::default()),
            Err(e) => Err(io(e)),
        }
    }

    /// Keeps it, in place of what was kept.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let io = |error| IdentityError::Io {
            path: path.display().to_string(),
            error,
        };
        let text = serde_json::to_vec(self).map_err(|e| io(e.into()))?;
        crate::persist::create_directory(path.parent().unwrap_or(Path::new("."))).map_err(io)?;
        crate::persist::create_atomically(path, &text).map_err(io)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_is_for_the_node_it_names_first() {
        let check = |names: &[&str], want: Option<&str>| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let params = CertificateParams::new(names).expect("DNS names and addresses");
            let key = KeyPair::generate().expect("a key");
            let chain = [params.self_signed(&key).expect("signed").der().clone()];
            let node = peer_name(Some(&chain)).ok();
            assert_eq!(node.as_ref().map(NodeId::as_str), want);
        };
        check(&["a"], Some("a"));
        check(&["a", "catalog.poold.internal"], Some("a"));
        check(&["10.0.0.1", "a"], None);
        check(&["A"], None);
        check(&[], None);
    }
}
