//! What does a joining host need to know? Where the pool is, by which CA it is recognised, and a secret for one use.

use api::ApiError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tls::hex;

/// A join token; base64url of JSON when written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// `host:port` of the daemon that holds the catalog.
    pub addresses: Vec<String>,
    /// SHA-256 of the CA's certificate, in hex.
    pub ca_sha256: String,
    /// Shown once; the pool keeps only its hash.
    pub secret: String,
    /// Unix time of its end, in seconds.
    pub expires_seconds: u64,
}

impl JoinToken {
    /// A token with a fresh secret.
    pub fn new(address: &str, ca_sha256: &str, expires_seconds: u64) -> JoinToken {
        let secret: [u8; 32] = rand::random();
        JoinToken {
            addresses: vec![address.to_owned()],
            ca_sha256: ca_sha256.to_owned(),
            secret: URL_SAFE_NO_PAD.encode(secret),
            expires_seconds,
        }
    }

    /// As people copy it.
    pub fn encode(&self) -> Result<String, ApiError> {
        let json = serde_json::to_vec(self).map_err(|error| ApiError::failed(error.to_string()))?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads a token that somebody typed. Errors: `refused`, since a wrong token is a wrong key.
    pub fn decode(text: &str) -> Result<JoinToken, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| {
                ApiError::refused("the token is not one: it was cut or changed on its way")
                    .hint(FRESH_TOKEN_HINT)
            })
    }
}

/// What to do about any token that is not good.
pub const FRESH_TOKEN_HINT: &str = "make a fresh one on a host of the pool: `poolctl node token`";

/// What the catalog keeps of a secret.
pub fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use api::ErrorKind;

    use super::*;

    #[test]
    fn a_token_reads_back_and_nonsense_is_refused() {
        let token = JoinToken::new("127.0.0.1:7778", "ab", 7);
        let text = token.encode().unwrap();
        assert_eq!(JoinToken::decode(&format!(" {text}\n")).unwrap(), token);
        let check = |text: &str| assert_eq!(JoinToken::decode(text).unwrap_err().kind, ErrorKind::Refused);
        check("");
        check("nonsense");
        check(&text[..text.len() - 4]);
        check(&URL_SAFE_NO_PAD.encode("{}"));
    }
}
