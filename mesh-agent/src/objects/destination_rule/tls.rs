//! `tls` of a DestinationRule (Istio reference, ClientTLSSettings): only the mode is of use, until TLS is originated.

use serde::Deserialize;

use crate::objects::FieldError;
use crate::objects::field::nullable;

/// What connections to the host are wrapped in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// Mode.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: TlsMode,
    #[serde(default, deserialize_with = "nullable")]
    client_certificate: String,
    #[serde(default, deserialize_with = "nullable")]
    private_key: String,
    #[serde(default, deserialize_with = "nullable")]
    credential_name: String,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// None.
    #[default]
    Disable,
    /// TLS.
    Simple,
    /// TLS with a certificate of the client's.
    Mutual,
    /// The mesh's own mutual TLS.
    IstioMutual,
}

impl ClientTls {
    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        let files = !self.client_certificate.is_empty() && !self.private_key.is_empty();
        if self.mode == TlsMode::Mutual && !files && self.credential_name.is_empty() {
            let message = "MUTUAL needs clientCertificate and privateKey, or credentialName";
            return Err(FieldError::new(path, message));
        }
        Ok(())
    }
}
