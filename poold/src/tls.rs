//! Who may speak to whom? The pool's CA, the certificates of its nodes, and mutual TLS made of them.

use std::sync::Arc;

use api::ApiError;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

/// Name under which the catalog's holder, and nobody else, has a certificate; joining hosts ask for it.
pub const CATALOG_NAME: &str = "catalog.poold.internal";

/// A node's certificate with its key.
#[derive(Clone)]
pub struct Credentials {
    /// The pool's CA (PEM).
    pub ca_pem: String,
    /// The node's certificate (PEM).
    pub cert_pem: String,
    /// Its private key (PEM); never leaves the host.
    pub key_pem: String,
}

/// The pool's CA; lives where the catalog lives.
pub struct Authority {
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new CA.
    pub fn create(pool: &str) -> Result<Authority, ApiError> {
        let key = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(broken)?;
        params.distinguished_name = named(&format!("pool {pool}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let cert_pem = params.self_signed(&key).map_err(broken)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Authority {
            cert_pem,
            key_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA that was written down as `cert_pem` and `key_pem`.
    pub fn load(cert_pem: String, key_pem: String) -> Result<Authority, ApiError> {
        let key = KeyPair::from_pem(&key_pem).map_err(broken)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(broken)?;
        Ok(Authority {
            cert_pem,
            key_pem,
            issuer,
        })
    }

    /// Its certificate (PEM).
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Its private key (PEM).
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate for `names`, the node's own first, over the key of a signing request; names that the request
    /// asks for are ignored. Errors: `usage` when the request is no request.
    pub fn issue(&self, csr_pem: &str, names: &[&str]) -> Result<String, ApiError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            ApiError::usage(format!("the certificate signing request is not valid: {error}"))
        })?;
        let mut params = CertificateParams::new(Vec::new()).map_err(broken)?;
        params.distinguished_name = named(names.first().copied().unwrap_or_default());
        for name in names {
            let name = (*name).try_into().map_err(broken)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        request.params = params;
        Ok(request.signed_by(&self.issuer).map_err(broken)?.pem())
    }
}

/// A new private key (PEM).
pub fn new_key() -> Result<String, ApiError> {
    Ok(KeyPair::generate().map_err(broken)?.serialize_pem())
}

/// A request for a certificate over a private key, both PEM.
pub fn request(node: &str, key_pem: &str) -> Result<String, ApiError> {
    let key = KeyPair::from_pem(key_pem).map_err(broken)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(broken)?;
    params.distinguished_name = named(node);
    params
        .serialize_request(&key)
        .map_err(broken)?
        .pem()
        .map_err(broken)
}

/// Whether `node` can be the name in a certificate. Errors: `usage`.
pub fn check_node_name(node: &str) -> Result<(), ApiError> {
    match ServerName::try_from(node) {
        Ok(ServerName::DnsName(_)) => Ok(()),
        _ => Err(
            ApiError::usage(format!("`{node}` cannot be a node's name: it is no DNS name"))
                .hint("use a host name such as `host-1`")
                .object(format!("node {node}")),
        ),
    }
}

/// SHA-256 of the CA's certificate, in hex.
pub fn fingerprint(ca_pem: &str) -> Result<String, ApiError> {
    Ok(hex(&Sha256::digest(certificate(ca_pem)?)))
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a node shows to those who connect: others must have a certificate of the pool, except those who join, who
/// have none and are told apart above.
pub fn server_config(own: &Credentials) -> Result<ServerConfig, ApiError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&own.ca_pem)?), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| ApiError::failed(format!("cannot check client certificates: {error}")))?;
    let chain = vec![certificate(&own.cert_pem)?, certificate(&own.ca_pem)?];
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key(&own.key_pem)?)
        })
        .map_err(unusable)
}

/// How a node connects to others.
pub fn client_config(own: &Credentials) -> Result<ClientConfig, ApiError> {
    let chain = vec![certificate(&own.cert_pem)?, certificate(&own.ca_pem)?];
    let roots = roots(&own.ca_pem)?;
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key(&own.key_pem)?)
        })
        .map_err(unusable)
}

/// How a host connects that knows nothing of the pool but the fingerprint of its CA.
pub fn joining_config(ca_fingerprint: &str) -> Result<ClientConfig, ApiError> {
    let provider = provider();
    let verifier = FingerprintVerifier {
        fingerprint: ca_fingerprint.to_owned(),
        provider: provider.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}

/// Serial number of a certificate (PEM), in hex: what a revocation names.
pub fn serial(cert_pem: &str) -> Result<String, ApiError> {
    serial_of(&certificate(cert_pem)?).ok_or_else(|| ApiError::failed("a certificate has no serial number"))
}

/// Serial number of a certificate, in hex.
pub fn serial_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(hex(parsed.raw_serial()))
}

/// The node that a certificate of the pool is for: its first DNS name.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

/// Accepts a server whose chain ends in the CA with that fingerprint and whose own certificate is the catalog's.
#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|cert| hex(&Sha256::digest(cert)) == self.fingerprint);
        let ca = ca.ok_or(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer,
        ))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn roots(ca_pem: &str) -> Result<RootCertStore, ApiError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(ca_pem)?).map_err(unusable)?;
    Ok(roots)
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, ApiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| ApiError::failed(format!("a certificate cannot be read: {error}")))
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, rustls::Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| rustls::Error::General(format!("a private key cannot be read: {error}")))
}

fn unusable(error: rustls::Error) -> ApiError {
    ApiError::failed(format!("the certificates of this node cannot be used: {error}"))
}

fn broken(error: rcgen::Error) -> ApiError {
    ApiError::failed(format!("cannot make a certificate: {error}"))
}
